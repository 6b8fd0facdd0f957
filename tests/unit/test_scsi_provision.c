/* SPDX-License-Identifier: BSD-3-Clause
 * Zeroing and provisioning (SBC-4 4.7): limits that follow from the medium, GET LBA STATUS, and that what can be a matter
 * of metadata is one: counted in /proc/self/io. */
#include "scsi_bed.h"

#include <sys/mount.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "scsi/sbc.h"

enum { WAKES = 1 << 16 }; /* bytes by which worker threads wake loops, far below any data */
static struct scsi_nexus *n;
static struct lu *lu[2];
static char dir[64];

static struct blk *file_blk(const char *name, const char *options)
{
	const struct blk_ops *ops = blk_find("file");
	void *conf = calloc(1, ops->conf_bytes);
	char text[300];
	struct err e = { 0 };
	struct blk *b;

	snprintf(text, sizeof(text), "path=%s/%s,%s", dir, name, options);
	assert_int_equal(schema_defaults(ops->config, conf, &e), 0);
	assert_int_equal(schema_parse(ops->config, conf, text, &e), 0);
	if (blk_open(&b, ops, conf, NULL, &e))
		fail_msg("%s", e.text);
	schema_free(ops->config, conf);
	free(conf);
	return b;
}

static void open_units(struct blk *a, struct blk *b)
{
	struct scsi_lun luns[2];

	lu[0] = bed_lu(NULL, a);
	lu[1] = b ? bed_lu(NULL, b) : NULL;
	for (uint16_t i = 0; i < 2; i++)
		luns[i] = (struct scsi_lun){ i, lu[i] };
	bed_map(luns, b ? 2 : 1);
	n = bed_nexus(0, 1);
	bed_ready(n, 0);
	if (b)
		bed_ready(n, 1);
}

static void run_shell(const char *command)
{
	assert_int_equal(system(command), 0);
}

static int setup(void **state)
{
	snprintf(dir, sizeof(dir), "/tmp/lunette-provision-XXXXXX");
	assert_non_null(mkdtemp(dir));
	bed_start(BED_LOOPS);
	return 0;
}

static void close_units(void)
{
	bed_nexus_close(n);
	bed_map(NULL, 0);
	for (unsigned i = 0; i < 2; i++)
		if (lu[i])
			bed_close(lu[i]);
	assert_int_equal(page_used_bytes() / PAGE_BYTES, 0);
}

static int teardown(void **state)
{
	char command[200];

	umount2(dir, MNT_DETACH); /* what a test that failed left */
	bed_stop();
	snprintf(command, sizeof(command), "rm -r %s", dir);
	run_shell(command);
	return 0;
}

static uint64_t written(void)
{
	FILE *f = fopen("/proc/self/io", "re");
	char name[32];
	unsigned long long v = 0, x;

	while (fscanf(f, "%31[^:]: %llu\n", name, &x) == 2)
		if (!strcmp(name, "wchar"))
			v = x;
	fclose(f);
	return v;
}

static struct answer page(uint8_t code)
{
	return RUN(n, 0, 0x12, 1, code, 0xff, 0xff);
}

static struct answer same(uint8_t flags, uint64_t lba, uint32_t nblk, const uint8_t *block)
{
	uint8_t cdb[16] = { 0x93, flags };

	put_be64(cdb + 2, lba);
	put_be32(cdb + 10, nblk);
	return bed_run(n, 0, cdb, 16, block, block ? 512 : 0, 0);
}

/* VPD pages B0h and B2h say what the medium does: a thin one takes all that CDBs can say, another one writes zeros itself
 * and so takes 65535 blocks, and no UNMAP; SBC-4 6.6.4, 6.6.7. */
static void limits(void **state)
{
	uint8_t list[24] = { 0, 22, 0, 16 };

	open_units(bed_ram(64 << 20), NULL);
	struct answer a = page(0xb0);
	assert_int_equal(be64(a.data + 36), UINT32_MAX);
	assert_int_equal(be32(a.data + 20), UINT32_MAX);
	assert_int_equal(be32(a.data + 24), 4095);
	assert_int_equal(be32(a.data + 28), 8);
	assert_int_equal(page(0xb2).data[5], 0xe4);
	assert_good(same(0x01, 0, 0x10000, NULL));
	assert_good(same(0x09, 0, 0, NULL)); /* to the end */
	close_units();
	open_units(bed_valve(64 << 20, 0, BLK_CAN_DISCARD), NULL);
	a = page(0xb0);
	assert_int_equal(be64(a.data + 36), 65535);
	assert_int_equal(be32(a.data + 24), 0);
	assert_int_equal(page(0xb2).data[5], 0);
	assert_good(same(0x01, 0, 65535, NULL));
	assert_sense(same(0x01, 0, 65536, NULL), 5, 0x24, 0);
	assert_sense(same(0x01, 0, 0, NULL), 5, 0x24, 0);
	assert_sense(same(0x09, 0, 8, NULL), 5, 0x24, 0);
	assert_sense(bed_run(n, 0, CDB(0x42, 0, 0, 0, 0, 0, 0, 0, 24), list, 24, 0), 5, 0x20, 0);
	close_units();
}

/* As many descriptors as an UNMAP can bring, each of them honoured. */
static void long_unmap(void **state)
{
	enum { COUNT = 4095, BYTES = 8 + 16 * COUNT };
	static uint8_t list[BYTES], data[1 << 20];

	open_units(bed_ram(64 << 20), NULL);
	memset(data, 7, sizeof(data));
	for (unsigned i = 0; i < 33; i++)
		assert_good(bed_rw(n, 0, true, i * 2048, 2048, data, sizeof(data)));
	put_be16(list, BYTES - 2);
	put_be16(list + 2, 16 * COUNT);
	for (unsigned i = 0; i < COUNT; i++) {
		put_be64(list + 8 + 16 * i, 16 * i);
		put_be32(list + 16 + 16 * i, 8);
	}
	assert_good(bed_run(n, 0, CDB(0x42, 0, 0, 0, 0, 0, 0, BYTES >> 8, BYTES & 0xff), list, BYTES, 0));
	for (unsigned at = 0; at < 16 * COUNT; at += 2048) {
		struct answer a = bed_rw(n, 0, false, at, 2048, NULL, sizeof(data));
		for (unsigned i = 0; i < 2048 && at + i < 16 * COUNT; i++)
			assert_int_equal(a.data[i * 512], i % 16 < 8 ? 0 : 7);
	}
	close_units();
}

static struct answer lba_status(uint8_t type, uint64_t lba, uint32_t alloc)
{
	uint8_t cdb[16] = { 0x9e, 0x12, [14] = type };

	put_be64(cdb + 2, lba);
	put_be32(cdb + 10, alloc);
	return bed_run(n, 0, cdb, 16, NULL, 0, 1 << 16);
}

/* Each report type lists what it should, in the codes that it may use, and says why it ended; SBC-4 tables 49 to 53. */
static void report_types(void **state)
{
	uint8_t data[64 * 512];
	struct answer a;

	open_units(bed_ram(64 << 20), NULL);
	memset(data, 1, sizeof(data));
	assert_good(bed_rw(n, 0, true, 8, 8, data, 4096));
	assert_good(bed_rw(n, 0, true, 100000, 8, data, 4096));
	static const struct { uint8_t type, count, code[5]; uint64_t first; } want[] = {
		{ 0x00, 5, { 1, 0, 1, 0, 1 }, 0 }, { 0x01, 5, { 1, 3, 1, 3, 1 }, 0 }, { 0x02, 2, { 3, 3 }, 8 },
		{ 0x03, 3, { 1, 1, 1 }, 0 }, { 0x04, 0, { 0 }, 0 }, { 0x10, 0, { 0 }, 0 },
	};
	for (unsigned i = 0; i < ARRAY_LEN(want); i++) {
		a = lba_status(want[i].type, 0, 4096);
		assert_good(a);
		assert_int_equal(be32(a.data), 4 + 16 * want[i].count);
		assert_int_equal(a.data[7], 3 << 1 | 1);
		if (want[i].count)
			assert_int_equal(be64(a.data + 8), want[i].first);
		for (unsigned k = 0; k < want[i].count; k++)
			assert_int_equal(a.data[8 + 16 * k + 12], want[i].code[k]);
	}
	a = lba_status(0x02, 0, 24);
	assert_int_equal(a.len, 24);
	assert_int_equal(a.data[7], 1 << 1 | 1); /* the allocation length was met */
	assert_sense(lba_status(0x05, 0, 24), 5, 0x24, 0);
	close_units();
	open_units(bed_valve(1 << 20, 0, BLK_CAN_DISCARD), NULL); /* fully provisioned: all is mapped */
	a = lba_status(0x00, 0, 4096);
	assert_int_equal(be32(a.data), 20);
	assert_int_equal(a.data[8 + 12], 0);
	assert_int_equal(lba_status(0x01, 0, 4096).data[8 + 12], 3);
	assert_int_equal(be32(lba_status(0x03, 0, 4096).data), 4);
	close_units();
}

/* Random writes, WRITE SAMEs and UNMAPs: what is read is the model's; all blocks have a status, one each, and those that
 * are called deallocated are zeros. */
static void random_status(struct blk *b)
{
	enum { BLOCKS = 16384 };
	static uint8_t model[BLOCKS], data[256 * 512];
	uint64_t rng = 99, lba = 0;

	open_units(b, NULL);
	memset(model, 0, sizeof(model));
	for (int i = 0; i < 300; i++) {
		rng = rng * 6364136223846793005u + 1442695040888963407u;
		uint32_t nblk = 1 + (uint32_t)(rng >> 40) % 256, at = (uint32_t)(rng >> 20) % (BLOCKS - nblk);
		uint8_t v = rng >> 60 & 1 ? (uint8_t)(1 + i % 200) : 0;
		memset(data, v, sizeof(data));
		if (rng >> 61 & 1)
			assert_good(bed_rw(n, 0, true, at, nblk, data, nblk * 512));
		else
			assert_good(same(rng >> 62 & 1 ? 8 : 0, at, nblk, data));
		memset(model + at, v, nblk);
	}
	while (lba < BLOCKS) {
		struct answer a = lba_status(0x01, lba, 4096);
		for (unsigned k = 0; k < be32(a.data) / 16; k++) {
			const uint8_t *d = a.data + 8 + 16 * k;
			assert_int_equal(be64(d), lba);
			for (uint32_t i = 0; d[12] == 1 && i < be32(d + 8); i++)
				assert_int_equal(model[lba + i], 0);
			lba += be32(d + 8);
		}
	}
	assert_int_equal(lba, BLOCKS);
	for (uint32_t at = 0; at < BLOCKS; at += 256) {
		struct answer a = bed_rw(n, 0, false, at, 256, NULL, 256 * 512);
		for (unsigned i = 0; i < 256; i++)
			assert_int_equal(a.data[i * 512 + 511], model[at + i]);
	}
	close_units();
}

static void random_ram(void **state)
{
	random_status(bed_ram(8 << 20));
}

static void random_file(void **state)
{
	random_status(file_blk("disk", "size=8MiB"));
}

/* WRITE SAME of zeros and UNMAP of 1 TiB write no data, and what lay there is gone. */
static void tebibyte(struct blk *b)
{
	uint8_t data[512] = { 1 }, zero[512] = { 0 }, list[24] = { 0, 22, 0, 16 };

	open_units(b, NULL);
	assert_good(bed_rw(n, 0, true, 1000000000, 1, data, 512));
	uint64_t before = written();
	assert_good(same(0x09, 0, 1u << 31, NULL));
	assert_true(written() - before < WAKES);
	assert_memory_equal(bed_rw(n, 0, false, 1000000000, 1, NULL, 512).data, zero, 512);
	assert_good(bed_rw(n, 0, true, 1000000000, 1, data, 512));
	before = written();
	put_be32(list + 16, 1u << 31);
	assert_good(bed_run(n, 0, CDB(0x42, 0, 0, 0, 0, 0, 0, 0, 24), list, 24, 0));
	assert_true(written() - before < WAKES);
	assert_memory_equal(bed_rw(n, 0, false, 1000000000, 1, NULL, 512).data, zero, 512);
	close_units();
}

static void tebibyte_file(void **state)
{
	tebibyte(file_blk("disk", "size=1TiB"));
}

static void tebibyte_ram(void **state)
{
	tebibyte(bed_ram(1ull << 40));
}

/* Zeros without UNMAP keep their space, and still nothing is written. */
static void zeros_stay_mapped(void **state)
{
	uint8_t zero[512] = { 0 };

	open_units(file_blk("disk", "size=64MiB"), NULL);
	uint64_t before = written();
	assert_good(same(0, 0, 131072, zero));
	assert_true(written() - before < WAKES);
	close_units();
}

static bool mount_xfs(void)
{
	char command[600];

	snprintf(command, sizeof(command), "command -v mkfs.xfs >/dev/null && truncate -s 400M %s.img && mkfs.xfs -q %s.img && "
		"mount -o loop %s.img %s 2>/dev/null", dir, dir, dir, dir);
	return geteuid() == 0 && system(command) == 0;
}

/* EXTENDED COPY and WRITE USING TOKEN between two files of one reflink file system write no data. */
static void copies_are_clones(void **state)
{
	static uint8_t data[4 << 20];
	uint8_t p[16 + 64 + 28] = { [3] = 64, [11] = 28 }, have[512];
	char command[200];

	if (!mount_xfs()) {
		snprintf(command, sizeof(command), "rm -f %s.img", dir);
		run_shell(command);
		skip(); /* no XFS can be mounted here */
	}
	open_units(file_blk("a", "size=64MiB"), file_blk("b", "size=64MiB"));
	for (unsigned i = 0; i < 16; i++) {
		memset(data, (int)i + 1, sizeof(data));
		assert_good(bed_rw(n, 0, true, i * 8192, 8192, data, sizeof(data)));
	}
	assert_good(RUN(n, 0, 0x35));
	for (unsigned i = 0; i < 2; i++) {
		p[16 + 32 * i] = 0xe4;
		size_t all = vpd_lu_designators(lu[i], have);
		for (size_t at = 0; at < all; at += 4u + have[at + 3])
			if ((have[at + 1] & 0x3f) == 3)
				memcpy(p + 20 + 32 * i, have + at, 4u + have[at + 3]);
	}
	p[80] = 0x16; /* the whole image */
	p[83] = 24;
	p[87] = 1;
	uint64_t before = written();
	assert_good(bed_run(n, 0, CDB(0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, sizeof(p)), p, sizeof(p), 0));
	assert_true(written() - before < WAKES);
	for (unsigned i = 0; i < 16; i++) {
		memset(data, (int)i + 1, sizeof(data));
		assert_memory_equal(bed_rw(n, 1, false, i * 8192, 8192, NULL, sizeof(data)).data, data, sizeof(data));
	}
	close_units();
	snprintf(command, sizeof(command), "umount %s && rm %s.img", dir, dir);
	run_shell(command);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(limits), T(long_unmap), T(report_types), T(random_ram), T(random_file), T(tebibyte_file), T(tebibyte_ram),
		T(zeros_stay_mapped), T(copies_are_clones),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
