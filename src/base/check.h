/* SPDX-License-Identifier: BSD-3-Clause
 * CHECK() states what only a programmer's error can break, and stays in release builds. DCHECK() is
 * for costly ones and is compiled out unless LUNETTE_DEBUG. Neither is ever used on input. */
#ifndef LUNETTE_BASE_CHECK_H
#define LUNETTE_BASE_CHECK_H

#include <stddef.h>

_Noreturn void check_failed(const char *what, const char *file, int line);

#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (__builtin_expect(!(x), 0))                                                     \
			check_failed(#x, __FILE__, __LINE__);                                      \
	} while (0)

#ifdef LUNETTE_DEBUG
#define DCHECK(x) CHECK(x)
#else
#define DCHECK(x) ((void)sizeof(x))
#endif

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define container_of(p, type, member) ((type *)((char *)(p)-offsetof(type, member)))

#endif
