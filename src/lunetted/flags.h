/* SPDX-License-Identifier: BSD-3-Clause
 * The command line of lunetted, as one table from which --help, the man page's check and the parser are made. Flags
 * become a piece of configuration (conf/tree.h), so that nothing can be said in only one of the two ways. */
#ifndef LUNETTE_LUNETTED_FLAGS_H
#define LUNETTE_LUNETTED_FLAGS_H

#include <jansson.h>
#include <stdbool.h>

#include "base/err.h"

struct flags;
struct flag {
	const char *name; /* without "--" */
	const char *arg;  /* as --help shows it; NULL = takes none */
	const char *help;
	int (*set)(struct flags *f, const char *value, struct err *e);
};
extern const struct flag flag_table[]; /* ended by a NULL name */

struct flags {
	json_t *conf;       /* what the flags say, in the form of a configuration file */
	char *config;       /* --config FILE or NULL */
	bool open, howto, quiet, schema, version, help, check, verbose;
	char *generated;    /* secret that was made because nobody gave one, for printing */
	/* while parsing */
	char *target, *chap_user, *mutual_user;
	unsigned ndisks;
};

/* 0; -EINVAL: wrong usage (exit status 2); another -errno: exit status 1. flags_free() either way. */
int  flags_parse(struct flags *f, int argc, char **argv, struct err *e);
void flags_free(struct flags *f);
void flags_help(void);
/* "iqn.2026-11.io.lunette:HOST": the same at each start of this machine. */
void flags_default_target(char *out, size_t len);

/* Configuration file (if any) and flags, merged; defaults that depend on both are added. The result is validated
 * and secrets are read. Called at start and at each SIGHUP. */
struct conf;
int flags_load(struct flags *f, struct conf *ret, struct err *e);

#endif
