/* SPDX-License-Identifier: BSD-3-Clause
 * A session with any iSCSI target whose user waits for it: net/initiator.h on a loop of its own that turns only in calls.
 * For the commands of lunette(1), and for the control thread when it opens a remote LUN. One thread. A session that is
 * lost is made anew for a while; commands that shall survive that are marked retry. */
#ifndef LUNETTE_NET_REMOTE_H
#define LUNETTE_NET_REMOTE_H

#include "iscsi/initiator.h"
#include "net/url.h"

struct remote;

/* NULL: those of lunette(1). */
struct remote_options {
	const char *name;                 /* our iSCSI name, unless the URL has one */
	uint64_t    retry_ns, login_timeout_ns; /* unless the URL says; 0 = none, the engine's */
	void      (*down)(const char *host, const char *why); /* the session was lost; or NULL */
};

/* Connects and logs in; target empty: a discovery session. 0 or -errno with the reason and the next step in e. */
int  remote_open(struct remote **ret, const struct url *u, const struct remote_options *o, struct err *e);
void remote_close(struct remote *r); /* logs out; NULL is fine */
/* "TargetName=..\0TargetAddress=..\0", valid until the next call. */
int  remote_targets(struct remote *r, const char **text, uint32_t *len, struct err *e);
/* One command to its end. Unit attentions are taken away by trying again. 0, or -errno: -EIO = a status that is not
 * GOOD, its sense in cmd and its words in e. */
int  remote_run(struct remote *r, struct iscsi_ini_cmd *cmd, struct err *e);
/* Several at once: submit, then ask for the next that ended (blocks while one is in flight; NULL with e: the connection is
 * gone). */
int  remote_submit(struct remote *r, struct iscsi_ini_cmd *cmd, struct err *e);
struct iscsi_ini_cmd *remote_next(struct remote *r, struct err *e);
/* How often the session was lost and made anew. */
unsigned remote_lost(const struct remote *r);
/* Fills e from a command that ended; 0 when it ended with GOOD. */
int  remote_verdict(const struct iscsi_ini_cmd *cmd, struct err *e);
/* lun below LIM_LUNS, as it goes on the wire. */
uint64_t remote_lun(unsigned lun);

/* Capacity of url's LUN. */
int  remote_capacity(struct remote *r, unsigned lun, uint64_t *ret_bytes, uint32_t *ret_block, bool *ret_thin,
	struct err *e);
/* A sense key with its code, of a command that ended: key << 16 | asc << 8 | ascq; 0: none. */
unsigned remote_sense(const struct iscsi_ini_cmd *cmd);
/* INQUIRY; page < 0: standard. Returns bytes or -errno. */
int  remote_inquiry(struct remote *r, unsigned lun, int page, uint8_t *buf, uint16_t room, struct err *e);

#endif
