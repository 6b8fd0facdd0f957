/* SPDX-License-Identifier: BSD-3-Clause
 * Sense data, fixed and descriptor format (SPC-4 4.5), and what an errno from below becomes. On the
 * command's loop. */
#include "scsi/priv.h"

/* Sense key specific bytes: a field pointer, SPC-4 4.5.2.4.2. */
static void field_pointer(uint8_t p[3], const struct sense_extra *x)
{
	p[0] = (uint8_t)(0x80 | (x->in_cdb ? 0x40 : 0) | (x->bit >= 0 ? 0x08 | (x->bit & 7) : 0));
	put_be16(p + 1, x->byte);
}

/* What stands in the sense key specific bytes: a field, or progress (SPC-4 4.5.2.4.4). */
static bool key_specific(uint8_t p[3], const struct sense_extra *x)
{
	if (x && x->has_field) {
		field_pointer(p, x);
	} else if (x && x->has_progress) {
		p[0] = 0x80;
		put_be16(p + 1, x->progress);
	} else {
		return false;
	}
	return true;
}

/* Sense data that a copy met at its source or destination, with the status before it; SPC-4 5.17.7.4. */
static unsigned forward_fixed(uint8_t *p, const struct sense_extra *x)
{
	unsigned n = MIN(x->forward_len, (unsigned)LIM_SENSE - 19);

	p[x->from_source ? 8 : 9] = 18;
	p[18] = SCSI_CHECK_CONDITION;
	memcpy(p + 19, x->forward, n);
	return 19 + n;
}

static unsigned sense_fixed(uint8_t *p, uint32_t sense, const struct sense_extra *x)
{
	unsigned n = 18;

	memset(p, 0, 18);
	p[0] = 0x70;
	p[2] = (uint8_t)(sense >> 16);
	p[12] = (uint8_t)(sense >> 8);
	p[13] = (uint8_t)sense;
	if (x && x->has_info && x->info <= UINT32_MAX) { /* larger ones do not fit: VALID stays 0 */
		p[0] |= 0x80;
		put_be32(p + 3, (uint32_t)x->info);
	}
	key_specific(p + 15, x);
	if (x && x->has_segment)
		put_be16(p + 10, x->segment);
	if (x && x->forward_len)
		n = forward_fixed(p, x);
	p[7] = (uint8_t)(n - 8);
	return n;
}

/* Forwarded sense data, SPC-4 4.5.2.7. */
static unsigned forward_descriptor(uint8_t *p, const struct sense_extra *x)
{
	p[0] = 0x0c;
	p[1] = (uint8_t)(2 + x->forward_len);
	p[2] = x->from_source ? 1 : 2;
	p[3] = SCSI_CHECK_CONDITION;
	memcpy(p + 4, x->forward, x->forward_len);
	return 4 + x->forward_len;
}

static unsigned sense_descriptors(uint8_t *p, uint32_t sense, const struct sense_extra *x)
{
	unsigned n = 8;

	memset(p, 0, 8 + 12 + 12 + 8);
	p[0] = 0x72;
	p[1] = (uint8_t)(sense >> 16);
	p[2] = (uint8_t)(sense >> 8);
	p[3] = (uint8_t)sense;
	if (x && x->has_info) { /* information descriptor */
		p[n] = 0x00;
		p[n + 1] = 0x0a;
		p[n + 2] = 0x80;
		put_be64(p + n + 4, x->info);
		n += 12;
	}
	if (x && x->has_segment) { /* command specific information descriptor */
		p[n] = 0x01;
		p[n + 1] = 0x0a;
		put_be64(p + n + 4, x->segment);
		n += 12;
	}
	if (key_specific(p + n + 4, x)) { /* sense key specific descriptor */
		p[n] = 0x02;
		p[n + 1] = 0x06;
		n += 8;
	}
	if (x && x->forward_len)
		n += forward_descriptor(p + n, x);
	p[7] = (uint8_t)(n - 8);
	return n;
}

unsigned sense_fill(uint8_t *p, bool descriptor, uint32_t sense, const struct sense_extra *x)
{
	return descriptor ? sense_descriptors(p, sense, x) : sense_fixed(p, sense, x);
}

/* CHECK CONDITION: no data moves to the initiator. The pages stay until scsi_cmd_fini(): the transport may
 * still be receiving into them. */
void sense_set(struct scsi_cmd *c, uint32_t sense, const struct sense_extra *x)
{
	c->status = SCSI_CHECK_CONDITION;
	c->sense_len = (uint16_t)sense_fill(c->sense, c->ll && c->ll->pub.d_sense, sense, x);
	c->in_len = 0;
	c->want_in = 0;
}

struct errno_sense { int err; uint32_t read, write; };
static const struct errno_sense errno_table[] = {
	{ EIO, SENSE(3, 0x11, 0x00), SENSE(3, 0x0c, 0x00) }, /* unrecovered read error; write error */
	{ ERANGE, SENSE(3, 0x11, 0x00), SENSE(3, 0x0c, 0x00) }, /* the medium was cut short below */
	{ EILSEQ, SENSE(3, 0x11, 0x04), SENSE(3, 0x0c, 0x00) },
	{ EBADMSG, SENSE(3, 0x11, 0x0c), SENSE(3, 0x0c, 0x00) }, /* recommend rewrite the data */
	{ ENOTRECOVERABLE, SENSE(3, 0x11, 0x14), SENSE(3, 0x0c, 0x00) }, /* LBA marked bad by application client */
	{ ENOSPC, SENSE(3, 0x11, 0x00), SENSE(7, 0x27, 0x07) }, /* space allocation failed write protect */
	{ EDQUOT, SENSE(3, 0x11, 0x00), SENSE(7, 0x27, 0x07) },
	{ EFBIG, SENSE(3, 0x11, 0x00), SENSE(7, 0x27, 0x07) },
	{ EROFS, SENSE(4, 0x44, 0x00), SENSE(7, 0x27, 0x00) },
	{ EPERM, SENSE(4, 0x44, 0x00), SENSE(7, 0x27, 0x00) },
	{ EACCES, SENSE(4, 0x44, 0x00), SENSE(7, 0x27, 0x00) },
	{ ENOMEM, SENSE(0xb, 0x55, 0x03), SENSE(0xb, 0x55, 0x03) }, /* insufficient resources */
	{ EAGAIN, SENSE(0xb, 0x55, 0x03), SENSE(0xb, 0x55, 0x03) },
	{ ENODEV, SENSE(4, 0x3e, 0x01), SENSE(4, 0x3e, 0x01) }, /* logical unit failure */
	{ ENXIO, SENSE(4, 0x3e, 0x01), SENSE(4, 0x3e, 0x01) },
	{ ENOMEDIUM, SENSE(2, 0x3a, 0x00), SENSE(2, 0x3a, 0x00) },
	{ ETIMEDOUT, SENSE(4, 0x3e, 0x02), SENSE(4, 0x3e, 0x02) }, /* timeout on logical unit */
	{ ECANCELED, SENSE(0xb, 0x00, 0x06), SENSE(0xb, 0x00, 0x06) }, /* I/O process terminated */
	{ EOPNOTSUPP, SENSE(5, 0x20, 0x00), SENSE(5, 0x20, 0x00) },
	{ 0, SENSE(4, 0x44, 0x00), SENSE(4, 0x44, 0x00) }, /* internal target failure */
};

void sense_from_errno(struct scsi_cmd *c, int err, bool writes, uint64_t fail_off)
{
	struct sense_extra x = { .has_info = fail_off != UINT64_MAX };
	const struct errno_sense *row = errno_table;

	while (row->err && row->err != -err)
		row++;
	uint32_t sense = writes ? row->write : row->read;
	if (x.has_info && c->ll)
		x.info = fail_off >> c->ll->shift;
	x.has_info = x.has_info && sense >> 16 == 3; /* INFORMATION is the LBA of a medium error */
	sense_set(c, sense, &x);
}
