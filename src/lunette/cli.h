/* SPDX-License-Identifier: BSD-3-Clause
 * lunette(1): commands, asking the daemon, showing answers. One thread, blocking. */
#ifndef LUNETTE_LUNETTE_CLI_H
#define LUNETTE_LUNETTE_CLI_H

#include <jansson.h>
#include <stdbool.h>

#include "base/err.h"

enum { /* exit statuses; scripts depend on them */
	CLI_OK, CLI_FAILED, CLI_USAGE, CLI_NOT_FOUND, CLI_CONFLICT, CLI_DENIED, CLI_BUSY, CLI_UNREACHABLE,
};

struct cli {
	const char *socket; /* --socket, LUNETTE_SOCKET, or NULL for the default */
	const char *from;   /* --from, or NULL: where cp begins, bytes */
	bool json;
	bool no_wait;       /* --no-wait: attach does not wait for the disk */
};

/* Asks the daemon; *ret is the body. Returns an exit status, with e filled unless CLI_OK. */
int  client_ask(const struct cli *c, const char *method, const char *path, json_t **ret, struct err *e);

/* A table: columns as wide as their longest cell, numbers to the right. */
struct table;
struct table *table_new(const char *const *heads, unsigned columns); /* a head that begins with '>': to the right */
void table_cell(struct table *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void table_print(struct table *t); /* and frees */
/* "10.0GiB", "512B"; into buf. */
const char *show_bytes(json_int_t n, char buf[16]);
const char *show_age(json_int_t seconds, char buf[24]);

int  cmd_status(struct cli *c, int argc, char **argv);
int  cmd_sessions(struct cli *c, int argc, char **argv);
int  cmd_paths(struct cli *c, int argc, char **argv);        /* paths.c */
int  cmd_reservations(struct cli *c, int argc, char **argv);
int  cmd_discover(struct cli *c, int argc, char **argv); /* remote_cmd.c */
int  cmd_ls(struct cli *c, int argc, char **argv);
int  cmd_inquiry(struct cli *c, int argc, char **argv);
int  cmd_cp(struct cli *c, int argc, char **argv);       /* cp.c */
int  cmd_attach(struct cli *c, int argc, char **argv);   /* attach.c */
int  cmd_detach(struct cli *c, int argc, char **argv);
int  bench_main(int argc, char **argv);
int  check_main(int argc, char **argv);                  /* check/check.c */

#endif
