/* SPDX-License-Identifier: BSD-3-Clause
 * iSCSI names, RFC 7143 4.2.7: check and normalize by the stringprep profile of RFC 3722, as far as prep.c knows it. What
 * it does not know is refused, so that two names are equal exactly when their bytes are. */
#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "iscsi/login.h"

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool is_hex(char c)
{
	return is_digit(c) || (c >= 'a' && c <= 'f');
}

/* Length of the UTF-8 sequence at p, 0 when it is none (RFC 3629: no overlong forms, no surrogates). */
static unsigned utf8_len(const unsigned char *p)
{
	unsigned n = p[0] < 0xc2 ? 0 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : p[0] < 0xf5 ? 4 : 0;

	for (unsigned i = 1; i < n; i++)
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
		(p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))
		return 0;
	return n;
}

static uint32_t utf8_get(const unsigned char *p, unsigned n)
{
	uint32_t c = n == 2 ? p[0] & 0x1f : n == 3 ? p[0] & 0x0f : p[0] & 0x07;

	for (unsigned i = 1; i < n; i++)
		c = c << 6 | (p[i] & 0x3f);
	return c;
}

/* c is below U+10000. Returns the number of bytes. */
static unsigned utf8_put(unsigned char *p, uint32_t c)
{
	if (c < 0x80) {
		p[0] = (unsigned char)c;
		return 1;
	}
	if (c < 0x800) {
		p[0] = (unsigned char)(0xc0 | c >> 6);
		p[1] = (unsigned char)(0x80 | (c & 0x3f));
		return 2;
	}
	p[0] = (unsigned char)(0xe0 | c >> 12);
	p[1] = (unsigned char)(0x80 | (c >> 6 & 0x3f));
	p[2] = (unsigned char)(0x80 | (c & 0x3f));
	return 3;
}

/* 4.2.7.2: of ASCII only letters, digits, dash, dot and colon; beyond it what prep.c knows, which never grows. */
static const char *fold(char *name)
{
	unsigned char *p = (unsigned char *)name, *to = p;

	while (*p) {
		unsigned n = *p < 0x80 ? 1 : utf8_len(p);
		if (!n)
			return "it is not valid UTF-8";
		uint32_t c = n == 1 ? *p : iscsi_prep(utf8_get(p, n));
		if (c >= 'A' && c <= 'Z')
			c |= 32;
		if (!c)
			return "beyond ASCII it may have letters of some scripts only, each as one character; write it in ASCII";
		if (c < 0x80 && !is_digit((char)c) && !(c >= 'a' && c <= 'z') && !strchr("-.:", (int)c))
			return "it has a character that iSCSI names may not have";
		to += utf8_put(to, c);
		p += n;
	}
	*to = 0;
	return NULL;
}

/* 4.2.7.4: iqn.yyyy-mm.reversed.domain[:anything] */
static const char *check_iqn(const char *s)
{
	for (int i = 0; i < 7; i++)
		if (i == 4 ? s[i] != '-' : !is_digit(s[i]))
			return "after iqn. comes a date as yyyy-mm";
	int month = (s[5] - '0') * 10 + s[6] - '0';
	if (month < 1 || month > 12)
		return "the month of its date is not 01 to 12";
	if (s[7] != '.' || !s[8] || s[8] == '.' || s[8] == ':')
		return "after the date come a dot and a reversed domain name";
	return NULL;
}

static const char *check_hex(const char *s, size_t a, size_t b, const char *why)
{
	size_t len = strlen(s);

	if (len != a && len != b)
		return why;
	for (; *s; s++)
		if (!is_hex(*s))
			return why;
	return NULL;
}

static const char *check_form(const char *name)
{
	if (!strncmp(name, "iqn.", 4))
		return check_iqn(name + 4);
	if (!strncmp(name, "eui.", 4))
		return check_hex(name + 4, 16, 16, "after eui. come 16 hexadecimal digits");
	if (!strncmp(name, "naa.", 4))
		return check_hex(name + 4, 16, 32, "after naa. come 16 or 32 hexadecimal digits");
	return "it starts with none of iqn., eui. and naa.";
}

int iscsi_name_check(char *name, const char **why)
{
	const char *wrong = strlen(name) > LIM_ISCSI_NAME ? "it is longer than 223 bytes" : fold(name);

	if (!wrong)
		wrong = check_form(name);
	if (!wrong)
		return 0;
	*why = wrong;
	return -EINVAL;
}
