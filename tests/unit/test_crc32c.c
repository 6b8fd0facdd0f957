/* SPDX-License-Identifier: BSD-3-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "base/bytes.h"
#include "base/crc32c.h"

/* The examples of RFC 7143 appendix A (RFC 3720 B.4): digests as they stand on the wire. */
static void test_vectors(void **state)
{
	uint8_t d[48];
	memset(d, 0, 32);
	assert_int_equal(crc32c(0, d, 32), 0x8a9136aa);
	memset(d, 0xff, 32);
	assert_int_equal(crc32c(0, d, 32), 0x62a8ab43);
	for (int i = 0; i < 32; i++)
		d[i] = (uint8_t)i;
	assert_int_equal(crc32c(0, d, 32), 0x46dd794e);
	for (int i = 0; i < 32; i++)
		d[i] = (uint8_t)(31 - i);
	assert_int_equal(crc32c(0, d, 32), 0x113fdb5c);
	const uint8_t read10[48] = { 0x01, 0xc0, [16] = 0x14, [22] = 0x04, [27] = 0x14, [31] = 0x18, [32] = 0x28,
		[40] = 0x02 };
	assert_int_equal(crc32c(0, read10, 48), 0xd9963a56);
	uint8_t wire[4];
	put_le32(wire, crc32c(0, read10, 48));
	assert_memory_equal(wire, "\x56\x3a\x96\xd9", 4);
}

static void fill(uint8_t *p, size_t n)
{
	uint32_t x = 12345;
	for (size_t i = 0; i < n; i++) {
		x = x * 1664525 + 1013904223;
		p[i] = (uint8_t)(x >> 24);
	}
}

/* The instruction, ISA-L and the table agree at every length around the switch between them. */
static void test_implementations_agree(void **state)
{
	static uint8_t d[4200];
	fill(d, sizeof(d));
	for (size_t n = 0; n < 600; n++)
		assert_int_equal(crc32c(7, d + n % 8, n), crc32c_table(7, d + n % 8, n));
	assert_int_equal(crc32c(0, d, sizeof(d)), crc32c_table(0, d, sizeof(d)));
}

/* A digest may be made in pieces, wherever they are cut (a data segment and its pad bytes). */
static void test_chains(void **state)
{
	static uint8_t d[3000];
	fill(d, sizeof(d));
	uint32_t whole = crc32c(0, d, sizeof(d));
	for (size_t cut = 0; cut <= sizeof(d); cut += 37)
		assert_int_equal(crc32c(crc32c(0, d, cut), d + cut, sizeof(d) - cut), whole);
}

/* A vector gives what its bytes in a row give, for any skip and length, empty elements included. */
static void test_iov(void **state)
{
	static uint8_t d[1000];
	fill(d, sizeof(d));
	struct iovec iov[] = { { d, 1 }, { d + 1, 0 }, { d + 1, 499 }, { d + 500, 500 } };
	for (size_t skip = 0; skip < 1000; skip += 99)
		for (size_t len = 0; skip + len <= 1000; len += 61)
			assert_int_equal(crc32c_iov(3, iov, 4, skip, len), crc32c(3, d + skip, len));
	assert_int_equal(crc32c_iov(0, iov, 4, 990, 100), crc32c(0, d + 990, 10));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_vectors),
		cmocka_unit_test(test_implementations_agree),
		cmocka_unit_test(test_chains),
		cmocka_unit_test(test_iov),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
