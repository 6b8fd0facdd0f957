/* SPDX-License-Identifier: BSD-3-Clause
 * Field and verb types: the one description of an option from which the parser, the CLI, REST validation,
 * man page tables and web forms are made. Tables are static; a parsed value lands at `at` in the owner's
 * config struct. */
#ifndef LUNETTE_BASE_SCHEMA_H
#define LUNETTE_BASE_SCHEMA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum conf_kind {        /* C type at `at`: */
	CONF_BOOL,      /* bool; on/off, yes/no, true/false, 1/0 */
	CONF_UINT,      /* uint64_t */
	CONF_BYTES,     /* uint64_t bytes; "20GiB", "20G" (binary), "20GB" (decimal), plain = bytes */
	CONF_TIME,      /* uint64_t nanoseconds; "5s", "20ms" */
	CONF_TEXT,      /* char * (owned by the config struct) or NULL */
	CONF_SECRET,    /* char *, never shown */
	CONF_ENUM,      /* uint64_t: index into choices */
};

enum {                  /* conf_field.flags */
	CONF_REQUIRED = 1u << 0,
	CONF_LIVE = 1u << 1, /* may change while the object is in use */
};

struct conf_field {
	const char    *name;        /* NULL ends a table */
	enum conf_kind kind;
	uint16_t       flags;
	uint16_t       at;          /* offsetof() in the config struct */
	const char    *dflt;        /* as text; NULL = zero */
	const char    *min, *max;   /* as text; NULL = unbounded */
	const char    *help;        /* one sentence, with the unit */
	const char *const *choices; /* CONF_ENUM: NULL-ended */
};

struct conf_verb {
	const char *name, *help;
	const struct conf_field *args;
	int (*run)(void *object, const void *args, struct err *e);
};

/* Fills `out` with the defaults of every field. Text is strdup'ed. */
int  schema_defaults(const struct conf_field *fields, void *out, struct err *e);
/* Sets one option from text. -ENOENT: no such option (the error lists the known ones); -EINVAL. */
int  schema_set(const struct conf_field *fields, void *out, const char *name, const char *value,
	struct err *e);
/* "size=1G,ro,bs=4096": splits at commas ("name" alone = "name=on"; ",," is a literal comma). */
int  schema_parse(const struct conf_field *fields, void *out, const char *list, struct err *e);
/* Required fields that are unset: -EINVAL naming the first. A text field that is NULL or a number that is 0
 * counts as unset. */
int  schema_check(const struct conf_field *fields, const void *out, struct err *e);
/* Frees owned text. */
void schema_free(const struct conf_field *fields, void *out);

int parse_bytes(const char *s, uint64_t *ret); /* 0 or -EINVAL, -ERANGE */
int parse_uint(const char *s, uint64_t *ret);
int parse_time(const char *s, uint64_t *ret_ns);

#endif
