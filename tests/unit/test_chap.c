/* SPDX-License-Identifier: BSD-3-Clause
 * CHAP: digests and the text form of binary values (RFC 7143 12.1.3, 6.1; RFC 1994 4.1). */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/check.h"
#include "iscsi/chap.h"

/* Proves the response of each algorithm. Expected values were computed with Python:
 * hashlib.new(name, b"\x2a" + b"correct horse battery" + bytes(range(16))).hexdigest() */
static void test_vectors(void **state)
{
	static const struct { int alg; const char *hex; } rows[] = {
		{ CHAP_MD5, "0x7efffe0f324cdaeb9442b9216e36d904" },
		{ CHAP_SHA1, "0xf960d1db12d99fa70d7120fdb7368a2226f7ca0b" },
		{ CHAP_SHA256, "0x27750b3c27f8f918a878a6e96ac6ba3778f21ad55a7cd93fbd1424ab63cbe87b" },
		{ CHAP_SHA3_256, "0x983c8a268420313515d40186ac94b8c2146173a611c48d1fa21af77a5fe8f0cd" },
	};
	uint8_t challenge[16], out[CHAP_DIGEST_MAX];
	char hex[2 + 2 * CHAP_DIGEST_MAX + 1];

	for (uint8_t i = 0; i < 16; i++)
		challenge[i] = i;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		assert_int_equal(chap_response(rows[i].alg, 0x2a, "correct horse battery", challenge, 16, out), 0);
		chap_encode_hex(out, chap_digest_len(rows[i].alg), hex);
		assert_string_equal(hex, rows[i].hex);
	}
	assert_int_equal(chap_response(56, 1, "s", challenge, 16, out), -EINVAL);
	assert_int_equal(chap_digest_len(0), 0);
	assert_int_equal(chap_digest_len(9), 0);
}

/* Proves that hex and base64 values are read as 6.1 says, and nothing else is. */
static void test_decode(void **state)
{
	static const struct { const char *text; int len; uint8_t bytes[8]; } rows[] = {
		{ "0x00ff10", 3, { 0, 0xff, 0x10 } },
		{ "0XaBcD", 2, { 0xab, 0xcd } },
		{ "0xf", 1, { 0x0f } },                 /* (n + 1) / 2 bytes */
		{ "0x123", 2, { 0x01, 0x23 } },
		{ "0bAAEC", 3, { 0, 1, 2 } },
		{ "0BAAECAw==", 4, { 0, 1, 2, 3 } },
		{ "0bAAECAw", 4, { 0, 1, 2, 3 } },      /* padding left out */
		{ "0bAAECAwQ=", 5, { 0, 1, 2, 3, 4 } },
		{ "0b+/+/", 3, { 0xfb, 0xff, 0xbf } },
		{ "0x", -EINVAL, { 0 } }, { "0b", -EINVAL, { 0 } }, { "", -EINVAL, { 0 } }, { "0", -EINVAL, { 0 } },
		{ "0x1g", -EINVAL, { 0 } }, { "0x 1", -EINVAL, { 0 } }, { "12", -EINVAL, { 0 } },
		{ "0bA", -EINVAL, { 0 } }, { "0bAAECA===", -EINVAL, { 0 } }, { "0bAA=C", -EINVAL, { 0 } },
		{ "0bAAECAw=", -EINVAL, { 0 } }, { "0b====", -EINVAL, { 0 } }, { "0bAA-C", -EINVAL, { 0 } },
		{ "0x112233445566778899", -EINVAL, { 0 } }, /* longer than the room given */
		{ "0bAAECAwQFBgcI", -EINVAL, { 0 } },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		uint8_t out[8] = { 0 };
		assert_int_equal(chap_decode(rows[i].text, out, sizeof(out)), rows[i].len);
		if (rows[i].len > 0)
			assert_memory_equal(out, rows[i].bytes, (size_t)rows[i].len);
	}
}

/* Proves that what is encoded decodes to the same bytes, for every length a challenge may have (1 to 1024). */
static void test_round_trip(void **state)
{
	static uint8_t in[CHAP_CHALLENGE_MAX], out[CHAP_CHALLENGE_MAX];
	static char hex[2 + 2 * CHAP_CHALLENGE_MAX + 1];

	for (size_t i = 0; i < sizeof(in); i++)
		in[i] = (uint8_t)(i * 37 + 11);
	for (size_t len = 1; len <= sizeof(in); len++) {
		chap_encode_hex(in, len, hex);
		assert_int_equal(chap_decode(hex, out, sizeof(out)), len);
		assert_memory_equal(in, out, len);
		assert_true(chap_equal(in, out, len));
		out[len - 1] ^= 1;
		assert_false(chap_equal(in, out, len));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_vectors),
		cmocka_unit_test(test_decode),
		cmocka_unit_test(test_round_trip),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
