/* SPDX-License-Identifier: BSD-3-Clause
 * CRC32C: the CPU's instruction inline for headers and small data, ISA-L's interleaved streams for large
 * data, a byte table where the CPU has no instruction. */
#include "base/crc32c.h"

#include <isa-l/crc.h>
#include <stdbool.h>
#include <string.h>

#include "base/check.h"

enum {
	SMALL = 256,       /* bytes; below, a call into ISA-L costs more than it saves */
	CHUNK = 1 << 30,   /* ISA-L takes an int */
};
static const uint32_t POLY = 0x82f63b78; /* RFC 3720 12.1's polynomial, bit-reversed */

static uint32_t table[256];

static uint32_t table_run(uint32_t state, const uint8_t *p, size_t n)
{
	while (n--)
		state = table[(state ^ *p++) & 0xff] ^ state >> 8;
	return state;
}

uint32_t crc32c_table(uint32_t crc, const void *p, size_t n)
{
	return ~table_run(~crc, p, n);
}

#ifdef __x86_64__
__attribute__((target("sse4.2"))) static uint32_t small_sse42(uint32_t state, const uint8_t *p, size_t n)
{
	uint64_t s = state, word;
	for (; n >= 8; n -= 8, p += 8) {
		memcpy(&word, p, 8);
		s = __builtin_ia32_crc32di(s, word);
	}
	uint32_t t = (uint32_t)s;
	if (n & 4) {
		uint32_t half;
		memcpy(&half, p, 4);
		t = __builtin_ia32_crc32si(t, half);
		p += 4;
	}
	for (n &= 3; n; n--)
		t = __builtin_ia32_crc32qi(t, *p++);
	return t;
}

static bool have_insn;
#define small_run(s, p, n) (have_insn ? small_sse42(s, p, n) : table_run(s, p, n))
#else
#define small_run(s, p, n) table_run(s, p, n)
#endif

__attribute__((constructor)) static void resolve(void)
{
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t v = i;
		for (int bit = 0; bit < 8; bit++)
			v = v & 1 ? v >> 1 ^ POLY : v >> 1;
		table[i] = v;
	}
#ifdef __x86_64__
	__builtin_cpu_init();
	have_insn = __builtin_cpu_supports("sse4.2");
#endif
}

uint32_t crc32c(uint32_t crc, const void *p, size_t n)
{
	const uint8_t *b = p;
	if (n <= SMALL)
		return ~small_run(~crc, b, n);
	uint32_t state = ~crc;
	while (n) {
		size_t part = MIN(n, (size_t)CHUNK);
		state = crc32_iscsi((unsigned char *)b, (int)part, state);
		b += part;
		n -= part;
	}
	return ~state;
}

uint32_t crc32c_iov(uint32_t crc, const struct iovec *iov, int niov, size_t skip, size_t len)
{
	for (; niov > 0 && len; niov--, iov++) {
		if (skip >= iov->iov_len) {
			skip -= iov->iov_len;
			continue;
		}
		size_t part = MIN(iov->iov_len - skip, len);
		crc = crc32c(crc, (const uint8_t *)iov->iov_base + skip, part);
		len -= part;
		skip = 0;
	}
	return crc;
}
