/* SPDX-License-Identifier: BSD-3-Clause
 * The state directory: what must survive a restart and is no configuration. Control thread.
 *
 *   DIR/volumes/KEY        identity of the volume of that name; KEY: hash of the name
 *   DIR/volumes/KEY.lock   held (OFD lock) by the daemon that serves the volume
 *   DIR/lu/ID.WHAT         saved pages and the like of the identity ID
 *   DIR/luns               which disk had which LUN number
 *
 * Invariants: (1) a file is either absent, the old or the new content, whatever moment the power goes
 * (temporary file, fsync, rename, fsync of the directory); (2) what is read back is whole (length and SHA-256) or
 * reported as damaged, never guessed; (3) an identity, once handed out for a volume that is not volatile, is durable. */
#ifndef LUNETTE_CONF_STORE_H
#define LUNETTE_CONF_STORE_H

#include "scsi/lu.h"

struct store;

/* dir NULL: $XDG_STATE_HOME/lunette, ~/.local/state/lunette, or /var/lib/lunette for root. Makes it (0700). */
int  store_open(struct store **ret, const char *dir, struct loop *control, struct err *e);
void store_close(struct store *s);
const char *store_dir(const struct store *s);
const struct lu_store *store_lu(struct store *s);

/* Reserves the identity of a volume for this process: -EBUSY names who holds it. Released by store_release(). */
int  store_claim(struct store *s, const char *name, struct err *e);
void store_release(struct store *s, const char *name);
/* The medium was made anew: its next identity is a new one. */
int  store_forget(struct store *s, const char *name, struct err *e);

/* A file of the server's own, as whole as the others: put is durable; get allocates *ret, ended by a zero that does not
 * count, and returns bytes, -ENOENT, -EBADMSG (damaged, logged). name: without a slash. */
int  store_put(struct store *s, const char *name, const void *body, size_t len);
int  store_get(struct store *s, const char *name, char **ret);
/* Seconds since 1970, for what must outlive the process. */
int64_t store_now_s(void);

/* Tests: called before each step that reaches the disk; may _exit() or return false to fail it. */
extern bool (*store_step_hook)(const char *step);

#endif
