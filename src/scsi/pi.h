/* SPDX-License-Identifier: BSD-3-Clause
 * Protection information (SBC-4 4.21): eight bytes for each logical block, guard (CRC16), application tag, reference
 * tag. The rules, pure; sbc_pi.c has the commands. Types here are 1, 2, 3 as people say them, 0 = none. */
#ifndef LUNETTE_SCSI_PI_H
#define LUNETTE_SCSI_PI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PI_BYTES = 8 };
enum { PI_GUARD = 1, PI_APP = 2, PI_REF = 4, PI_MOVES = 8 }; /* what is checked; whether tuples are transferred */
enum pi_table { PI_READ, PI_WRITE, PI_VERIFY_MEDIUM, PI_VERIFY_DATA, PI_VERIFY_COMPARE };

/* What a field RDPROTECT, WRPROTECT or VRPROTECT asks for in that table of SBC-4 (79, 133, 126, 127, 128); -1: reserved.
 * code: 0 to 7. */
int pi_checks(enum pi_table table, unsigned code);

struct pi_rule {
	uint8_t  type, checks;
	bool     knows_ref, knows_app;
	uint32_t ref;        /* of the first block */
	uint16_t app, mask;
};
/* The ASCQ under ASC 10h of what is wrong with the tuple of the i-th block, 0 = nothing. */
unsigned pi_check(const struct pi_rule *r, const uint8_t t[PI_BYTES], uint16_t guard, uint64_t i);
/* Does the tuple say that its block is not to be checked? */
bool pi_escapes(unsigned type, const uint8_t t[PI_BYTES]);
/* The reference tag that the i-th block of a command has when the first one has `ref`. */
uint32_t pi_ref(unsigned type, uint32_t ref, uint64_t i);
/* CRC16-T10DIF, x16 + x15 + x11 + x9 + x8 + x7 + x5 + x4 + x2 + x + 1, from 0; pieces chain. */
uint16_t pi_guard(uint16_t crc, const void *p, size_t n);

#endif
