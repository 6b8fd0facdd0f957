/* SPDX-License-Identifier: BSD-3-Clause
 * Copies into memory that nobody has touched lately. Any thread. */
#ifndef LUNETTE_BASE_COPY_H
#define LUNETTE_BASE_COPY_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#ifdef __x86_64__
#include <emmintrin.h>
#endif

/* To memory that is not in cache: past the cache, so that lines which are overwritten whole are not read first and
 * the stores behind do not wait for them. Such stores are ordered by the next locked instruction, which every way
 * to another thread has (a swap of a table's entry, a mailbox, a system call). */
static inline void copy_cold(void *to, const void *from, size_t n)
{
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
	if (n >= 1024 && ((uintptr_t)to & 63) == 0) {
		__m128i *d = to;
		const __m128i *s = from;
		size_t lines = n / 64;

		for (; lines; lines--, d += 4, s += 4) {
			__m128i a = _mm_loadu_si128(s), b = _mm_loadu_si128(s + 1);
			__m128i c = _mm_loadu_si128(s + 2), e = _mm_loadu_si128(s + 3);

			_mm_stream_si128(d, a);
			_mm_stream_si128(d + 1, b);
			_mm_stream_si128(d + 2, c);
			_mm_stream_si128(d + 3, e);
		}
		to = d;
		from = s;
		n %= 64;
	}
#endif
	memcpy(to, from, n);
}

#endif
