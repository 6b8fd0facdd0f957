/* SPDX-License-Identifier: BSD-3-Clause
 * CHAP for iSCSI, RFC 7143 12.1.3 and RFC 1994 4.1: digests and the text form of binary values (6.1). */
#include <errno.h>
#include <string.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include "base/check.h"
#include "iscsi/chap.h"

static const struct chap_alg {
	int         alg;
	const char *name; /* as OpenSSL knows it */
	size_t      len;
} algs[] = {
	{ CHAP_MD5, "MD5", 16 },
	{ CHAP_SHA1, "SHA1", 20 },
	{ CHAP_SHA256, "SHA2-256", 32 },
	{ CHAP_SHA3_256, "SHA3-256", 32 },
};

static const struct chap_alg *find_alg(int alg)
{
	for (size_t i = 0; i < ARRAY_LEN(algs); i++)
		if (algs[i].alg == alg)
			return &algs[i];
	return NULL;
}

size_t chap_digest_len(int alg)
{
	const struct chap_alg *a = find_alg(alg);

	return a ? a->len : 0;
}

/* A system-wide policy may ask for FIPS digests only, which would take MD5 away; CHAP's use is named by
 * the standard, so the second try asks for the plain one. */
static EVP_MD *fetch(const char *name)
{
	EVP_MD *md = EVP_MD_fetch(NULL, name, NULL);

	return md ? md : EVP_MD_fetch(NULL, name, "-fips");
}

int chap_response(int alg, uint8_t id, const char *secret, const void *challenge, size_t len,
	uint8_t out[CHAP_DIGEST_MAX])
{
	const struct chap_alg *a = find_alg(alg);
	EVP_MD *md = a ? fetch(a->name) : NULL;
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	bool ok = md && ctx && EVP_DigestInit_ex2(ctx, md, NULL) && EVP_DigestUpdate(ctx, &id, 1) &&
		EVP_DigestUpdate(ctx, secret, strlen(secret)) && EVP_DigestUpdate(ctx, challenge, len) &&
		EVP_DigestFinal_ex(ctx, out, NULL);

	EVP_MD_CTX_free(ctx);
	EVP_MD_free(md);
	return ok ? 0 : -EINVAL;
}

bool chap_equal(const void *a, const void *b, size_t len)
{
	return !CRYPTO_memcmp(a, b, len);
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 32;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* An odd number of digits has its first byte from one digit: 6.1 says (n + 1) / 2 bytes. */
static int decode_hex(const char *s, uint8_t *out, size_t room)
{
	size_t n = strlen(s), len = (n + 1) / 2;
	size_t odd = n & 1;

	if (!n || len > room)
		return -EINVAL;
	memset(out, 0, len);
	for (size_t i = 0; i < n; i++) {
		int d = hex_digit(s[i]);
		if (d < 0)
			return -EINVAL;
		uint8_t *o = &out[(i + odd) / 2];
		*o = (uint8_t)(*o << 4 | d);
	}
	return (int)len;
}

static int base64_digit(char c)
{
	static const char set[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	const char *p = c ? strchr(set, c) : NULL;

	return p ? (int)(p - set) : -1;
}

/* RFC 4648; padding may be left out, but what is there must be right. */
static int decode_base64(const char *s, uint8_t *out, size_t room)
{
	size_t n = strlen(s), digits = n, len = 0;
	uint32_t acc = 0;

	while (digits && s[digits - 1] == '=')
		digits--;
	if (!digits || digits % 4 == 1 || n - digits > 2 || (n != digits && n % 4))
		return -EINVAL;
	if (digits * 3 / 4 > room)
		return -EINVAL;
	for (size_t i = 0; i < digits; i++) {
		int d = base64_digit(s[i]);
		if (d < 0)
			return -EINVAL;
		acc = acc << 6 | (uint32_t)d;
		if (i % 4)
			out[len++] = (uint8_t)(acc >> (6 - 2 * (i % 4)));
	}
	return (int)len;
}

int chap_decode(const char *value, uint8_t *out, size_t room)
{
	if (value[0] != '0')
		return -EINVAL;
	if (value[1] == 'x' || value[1] == 'X')
		return decode_hex(value + 2, out, room);
	if (value[1] == 'b' || value[1] == 'B')
		return decode_base64(value + 2, out, room);
	return -EINVAL;
}

void chap_encode_hex(const void *p, size_t len, char *out)
{
	static const char digits[] = "0123456789abcdef";
	const uint8_t *b = p;

	*out++ = '0';
	*out++ = 'x';
	for (size_t i = 0; i < len; i++) {
		*out++ = digits[b[i] >> 4];
		*out++ = digits[b[i] & 15];
	}
	*out = 0;
}
