/* SPDX-License-Identifier: BSD-3-Clause
 * CHAP, RFC 7143 9.2.1 and 12.1.3: response computation and checking, for both ends. */
#ifndef LUNETTE_ISCSI_CHAP_H
#define LUNETTE_ISCSI_CHAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CHAP_MD5 = 5, CHAP_SHA1 = 6, CHAP_SHA256 = 7, CHAP_SHA3_256 = 8, CHAP_DIGEST_MAX = 32, CHAP_CHALLENGE_MAX = 1024 };

size_t chap_digest_len(int alg); /* 0: unknown */
/* H(id . secret . challenge). 0 or -EINVAL. */
int chap_response(int alg, uint8_t id, const char *secret, const void *challenge, size_t len, uint8_t out[CHAP_DIGEST_MAX]);
/* Constant-time comparison. */
bool chap_equal(const void *a, const void *b, size_t len);
/* Binary values of text keys, 6.1: "0x.." hex or "0b.." base64. Returns the length or -EINVAL. */
int chap_decode(const char *value, uint8_t *out, size_t room);
void chap_encode_hex(const void *p, size_t len, char *out); /* out: 2 + 2*len + 1 */

#endif
