/* SPDX-License-Identifier: BSD-3-Clause
 * READ BUFFER and WRITE BUFFER (SPC-4 6.18, 6.49): one data buffer and one echo buffer per unit, on its home; no microcode
 * and no error history. */
#include "scsi/service.h"

enum { MODE_DATA = 0x02, MODE_DESCRIPTOR = 0x03, MODE_ECHO = 0x0a, MODE_ECHO_DESCRIPTOR = 0x0b };
enum { BUFFER = 4096 }; /* bytes of each */
#define SENSE_SEQUENCE SENSE(5, 0x2c, 0x00)
#define SENSE_ECHO_OVERWRITTEN SENSE(0xb, 0x3f, 0x0f)

struct scsi_buffer {
	uint64_t echo_by;   /* nexus that wrote it, 0 = nobody */
	uint64_t lost_by;   /* nexus whose echo another one overwrote */
	uint32_t echo_len;
	uint8_t  data[BUFFER], echo[BUFFER];
};

static unsigned mode_of(const struct scsi_cmd *c)
{
	return c->cdb[1] & 0x1f;
}

static struct scsi_buffer *home_buffer(struct lu_job *j)
{
	if (!j->lu->buffer)
		j->lu->buffer = calloc(1, sizeof(*j->lu->buffer));
	if (!j->lu->buffer)
		scsi_job_sense(j, SENSE(0xb, 0x55, 0x03), -1);
	return j->lu->buffer;
}

/* --- WRITE BUFFER --- */

static void run_write(struct lu_job *j)
{
	struct scsi_cmd *c = scsi_job_cmd(j);
	struct scsi_buffer *b = home_buffer(j);

	if (b && mode_of(c) == MODE_DATA) {
		scsi_data_get(c, 0, b->data + be24(c->cdb + 3), c->out_len);
	} else if (b) {
		b->lost_by = b->echo_by != c->nexus->id ? b->echo_by : 0;
		b->echo_by = c->nexus->id;
		b->echo_len = c->out_len;
		scsi_data_get(c, 0, b->echo, c->out_len);
	}
	lu_job_end(j);
}

/* Offset and length against the buffer; the echo buffer has no id and no offset. Failed it? */
static bool outside(struct scsi_cmd *c)
{
	uint32_t off = be24(c->cdb + 3), len = be24(c->cdb + 6);
	bool write = c->cdb[0] == 0x3b;

	if (c->cdb[2])
		scsi_reply_field(c, SENSE_INVALID_FIELD, 2, -1);
	else if (off > BUFFER || (mode_of(c) != MODE_DATA && off))
		scsi_reply_field(c, SENSE_INVALID_FIELD, 3, -1);
	else if (write && len > BUFFER - off)
		scsi_reply_field(c, SENSE_INVALID_FIELD, 6, -1);
	else
		return false;
	return true;
}

void buffer_write(struct scsi_cmd *c)
{
	if (mode_of(c) != MODE_DATA && mode_of(c) != MODE_ECHO)
		scsi_reply_field(c, SENSE_INVALID_FIELD, 1, 4);
	else if (outside(c))
		return;
	else if (c->out_len < be24(c->cdb + 6))
		scsi_reply_sense(c, SENSE_PARAM_LENGTH);
	else
		scsi_job(c, run_write);
}

/* --- READ BUFFER --- */

static void run_read(struct lu_job *j)
{
	struct scsi_cmd *c = scsi_job_cmd(j);
	struct scsi_buffer *b = home_buffer(j);
	uint32_t off = be24(c->cdb + 3);

	if (b && mode_of(c) == MODE_DATA) {
		c->scratch[2] = BUFFER - off;
		memcpy(c->iov[0].iov_base, b->data + off, BUFFER - off);
	} else if (b && b->lost_by == c->nexus->id) {
		b->lost_by = 0;
		scsi_job_sense(j, SENSE_ECHO_OVERWRITTEN, -1);
	} else if (b && b->echo_by != c->nexus->id) {
		scsi_job_sense(j, SENSE_SEQUENCE, -1); /* nothing was written before */
	} else if (b) {
		c->scratch[2] = b->echo_len;
		memcpy(c->iov[0].iov_base, b->echo, b->echo_len);
	}
	lu_job_end(j);
}

static void read_done(struct lu_job *j)
{
	struct scsi_cmd *c = scsi_job_cmd(j);

	if (c->scratch[0] != SCSI_GOOD) {
		scsi_job_end(j);
		return;
	}
	if (!c->scratch[2])
		scsi_data_free(c);
	scsi_reply_pages(c, c->scratch[2]);
}

void buffer_read(struct scsi_cmd *c)
{
	uint8_t p[4] = { 0 };

	switch (mode_of(c)) {
	case MODE_DATA: case MODE_ECHO:
		if (outside(c))
			return;
		c->scratch[2] = 0;
		if (scsi_data_alloc(c, BUFFER))
			scsi_reply_sense(c, SENSE(0xb, 0x55, 0x03));
		else
			scsi_job_with(c, run_read, read_done);
		return;
	case MODE_DESCRIPTOR: /* offsets at any byte; other buffers have no room */
		put_be24(p + 1, c->cdb[2] ? 0 : BUFFER);
		scsi_reply_data(c, p, sizeof(p));
		return;
	case MODE_ECHO_DESCRIPTOR:
		p[0] = 0x01; /* EBOS: an overwritten echo is told */
		put_be16(p + 2, BUFFER);
		scsi_reply_data(c, p, sizeof(p));
		return;
	default:
		scsi_reply_field(c, SENSE_INVALID_FIELD, 1, 4);
	}
}
