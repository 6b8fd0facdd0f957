/* SPDX-License-Identifier: BSD-3-Clause
 * iscsi://[user%secret@]host[:port][/iqn[/lun]] as libiscsi and QEMU write it. */
#ifndef LUNETTE_LUNETTE_URL_H
#define LUNETTE_LUNETTE_URL_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "base/limits.h"

struct url {
	char     user[256], secret[256], host[256], port[16];
	char     target[LIM_ISCSI_NAME + 1]; /* empty: the URL names a server only */
	unsigned lun;
};

bool url_is(const char *s); /* begins like one */
int  url_parse(struct url *u, const char *s, struct err *e); /* 0 or -EINVAL */
/* "host", "host:port", "[v6]:port"; dflt: port when none is given. 0 or -EINVAL */
int  url_parse_host(struct url *u, const char *s, size_t len, const char *dflt, struct err *e);

#endif
