/* SPDX-License-Identifier: BSD-3-Clause
 * Many logical units on one target: their numbers on the wire (SAM-5 4.7), what they cost where nobody uses them, and
 * who hears of a changed list. */
#include <malloc.h>

#include "scsi_bed.h"

enum { UNITS = 10000, BIG = 16383 };
static struct lu *units[UNITS];
static struct scsi_lun map[UNITS];
static struct scsi_nexus *n;

_Static_assert(sizeof(struct itl) == 64, "10,000 LUNs of 1000 sessions stay below a gigabyte");

static void open_units(unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		units[i] = bed_lu(NULL, NULL);
		map[i] = (struct scsi_lun){ (uint16_t)i, units[i] };
	}
}

static void close_units(unsigned count)
{
	bed_map(NULL, 0);
	bed_settle();
	for (unsigned i = 0; i < count; i++)
		bed_close(units[i]);
}

/* All are in the list in the form that SAM-5 4.7.7 gives their number, and each answers at it; 6.33: a short
 * allocation length cuts the list and not its length. */
static void ten_thousand(void **state)
{
	bed_start(BED_LOOPS);
	open_units(UNITS);
	map[UNITS - 1].lun = BIG;
	bed_map(map, UNITS);
	n = bed_nexus(0, 1);
	struct answer a = bed_run(n, 0, CDB(0xa0, 0, 2, 0, 0, 0, 0, 2, 0, 0), NULL, 0, 1 << 17);
	assert_good(a);
	assert_int_equal(a.len, 8 + 8 * UNITS);
	assert_int_equal(be32(a.data), 8 * UNITS);
	for (unsigned i = 0; i < UNITS; i++) {
		uint8_t want[8] = { 0 };
		put_be16(want, (uint16_t)(i == UNITS - 1 ? 0x4000 | BIG : i < 256 ? i : 0x4000 | i));
		assert_memory_equal(a.data + 8 + 8 * i, want, 8);
	}
	a = bed_run(n, 0, CDB(0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 20), NULL, 0, 1 << 16);
	assert_int_equal(a.len, 20);
	assert_int_equal(be32(a.data), 8 * UNITS);
	assert_sense(RUN(n, 9000, 0x00), 6, 0x29, 0);
	assert_sense(RUN(n, 9000, 0x00), 2, 0x04, 0x03);
	assert_sense(RUN(n, BIG, 0x00), 6, 0x29, 0);
	assert_sense(RUN(n, UNITS - 1, 0x00), 5, 0x25, 0);
	bed_nexus_close(n);
	close_units(UNITS);
	bed_stop();
}

/* SELECT REPORT: what we have none of is an empty list, what the standard does not name is refused; SPC-5 6.37. */
static void select_report(void **state)
{
	static const struct { uint8_t select; int units; } want[] = { { 0, 2 }, { 1, 0 }, { 2, 2 }, { 0x10, 0 }, { 0x11, 2 },
		{ 0x12, 0 }, { 3, -1 }, { 0x0f, -1 }, { 0x13, -1 }, { 0xff, -1 } };

	bed_start(BED_LOOPS);
	open_units(2);
	bed_map(map, 2);
	n = bed_nexus(0, 1);
	for (unsigned i = 0; i < ARRAY_LEN(want); i++) {
		struct answer a = RUN(n, 0, 0xa0, 0, want[i].select, 0, 0, 0, 0, 0, 1, 0);
		if (want[i].units < 0) {
			assert_sense(a, 5, 0x24, 0);
			continue;
		}
		assert_good(a);
		assert_int_equal(be32(a.data), 8 * want[i].units);
	}
	bed_nexus_close(n);
	close_units(2);
	bed_stop();
}

/* Forms of addresses that we do not use are no unit: bus numbers, other levels, well known, SAM-5 4.7. */
static void addresses(void **state)
{
	static const uint8_t none[][8] = { { 0x01, 0 }, { 0x80, 0 }, { 0xc1, 1 }, { 0xd2, 0, 0, 0 }, { 0, 0, 0, 1 }, { 0x40, 0, 1 },
		{ 0, 0, 0, 0, 0, 0, 0, 1 } };

	for (unsigned i = 0; i < ARRAY_LEN(none); i++)
		assert_int_equal(lun_decode(none[i]), -1);
	assert_int_equal(lun_decode((uint8_t[8]){ 0x40, 7 }), 7); /* flat space is good for small numbers too */
	for (unsigned i = 0; i < LIM_LUNS; i++) {
		uint8_t lun[8];
		lun_encode(lun, i);
		assert_int_equal(lun_decode(lun), i);
	}
}

/* A nexus costs what it uses: a hundred sessions that see 10,000 units and use two cost 12 KiB each, and a
 * change of every unit is told to those who use it only. */
static void idle_costs_nothing(void **state)
{
	static struct scsi_nexus *many[100];

	bed_start(BED_LOOPS);
	open_units(UNITS);
	bed_map(map, UNITS);
	size_t before = mallinfo2().uordblks;
	for (unsigned i = 0; i < ARRAY_LEN(many); i++) {
		many[i] = bed_nexus(i % BED_LOOPS, (uint8_t)i);
		bed_ready(many[i], 1);
		bed_ready(many[i], 5000);
	}
	assert_true(mallinfo2().uordblks - before < ARRAY_LEN(many) * (2 * sizeof(struct itl_page) + 2048 + 1024 + 512));
	bed_map(map, UNITS - 1);
	assert_sense(RUN(many[7], 1, 0x00), 6, 0x3f, 0x0e);
	assert_sense(RUN(many[7], 5000, 0x00), 6, 0x3f, 0x0e);
	for (unsigned i = 0; i < ARRAY_LEN(many); i++)
		bed_nexus_close(many[i]);
	close_units(UNITS);
	bed_stop();
}

/* A changed list is told once at each unit in use, and no more once REPORT LUNS has told it, whichever unit that went
 * to; a unit that is new to the nexus tells power on first. */
static void list_changed(void **state)
{
	bed_start(BED_LOOPS);
	open_units(4);
	bed_map(map, 3);
	n = bed_nexus(1, 1);
	bed_ready(n, 0);
	bed_ready(n, 1);
	bed_map(map, 4);
	assert_sense(RUN(n, 0, 0x00), 6, 0x3f, 0x0e);
	assert_sense(RUN(n, 0, 0x00), 2, 0x04, 0x03);
	assert_sense(RUN(n, 3, 0x00), 6, 0x29, 0x00);
	assert_sense(RUN(n, 3, 0x00), 6, 0x3f, 0x0e);
	assert_good(RUN(n, 0, 0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0));
	assert_sense(RUN(n, 1, 0x00), 2, 0x04, 0x03);
	assert_sense(RUN(n, 2, 0x00), 6, 0x29, 0x00);
	assert_sense(RUN(n, 2, 0x00), 2, 0x04, 0x03);
	struct scsi_lun other[4] = { map[0], { 1, units[3] }, map[2], { 3, units[1] } }; /* two change places */
	bed_map(other, 4);
	assert_sense(RUN(n, 1, 0x00), 6, 0x29, 0x00);
	assert_sense(RUN(n, 1, 0x00), 6, 0x3f, 0x0e);
	bed_map(other, 4); /* the same again */
	assert_sense(RUN(n, 1, 0x00), 2, 0x04, 0x03);
	bed_nexus_close(n);
	close_units(4);
	bed_stop();
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(ten_thousand), cmocka_unit_test(select_report),
		cmocka_unit_test(addresses), cmocka_unit_test(idle_costs_nothing), cmocka_unit_test(list_changed) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
