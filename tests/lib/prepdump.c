/* SPDX-License-Identifier: BSD-3-Clause
 * Prints "CHARACTER BECOMES" in hexadecimal for every character beyond ASCII that a name may have: for tests/system/names.py. */
#include <stdio.h>

#include "iscsi/login.h"

int main(void)
{
	for (uint32_t c = 0x80; c <= 0x10ffff; c++)
		if (iscsi_prep(c))
			printf("%x %x\n", c, iscsi_prep(c));
	return 0;
}
