/* SPDX-License-Identifier: BSD-3-Clause
 * iscsi://[user%secret@]host[:port][/iqn[/lun]][?option=value[&...]] as libiscsi and QEMU write it. Options: connections,
 * level (of error recovery), digests, protocol (iSCSIProtocolLevel), retry (seconds), initiator, target_user and
 * target_secret (what the target must prove); header_digest and data_digest are understood as libiscsi has them. */
#ifndef LUNETTE_NET_URL_H
#define LUNETTE_NET_URL_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "base/limits.h"

enum { URL_CONNECTIONS_MAX = 16 };

struct url {
	char     user[256], secret[256], host[256], port[16];
	char     target[LIM_ISCSI_NAME + 1]; /* empty: the URL names a server only */
	unsigned lun;
	char     initiator[LIM_ISCSI_NAME + 1]; /* empty: the program's own */
	char     target_user[256], target_secret[256];
	unsigned connections, level, protocol;  /* 1, 0, 1 unless said */
	bool     header_digest, data_digest;    /* required */
	bool     retry_set;
	unsigned retry_s;
};

void url_defaults(struct url *u);
bool url_is(const char *s); /* begins like one */
int  url_parse(struct url *u, const char *s, struct err *e); /* 0 or -EINVAL */
/* "host", "host:port", "[v6]:port"; dflt: port when none is given. 0 or -EINVAL */
int  url_parse_host(struct url *u, const char *s, size_t len, const char *dflt, struct err *e);

#endif
