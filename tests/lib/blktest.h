/* SPDX-License-Identifier: BSD-3-Clause
 * What the tests of block drivers share: stacks from option text, requests with data, a temporary directory. */
#ifndef LUNETTE_TESTS_BLKTEST_H
#define LUNETTE_TESTS_BLKTEST_H

#include "block/blk.h"

enum { BT_IOV = 4100, BT_BYTES_MAX = 4 << 20 };

/* Opens a driver or filter from "name=value,..." text. The error's text is in bt_error. */
int bt_open(struct blk **ret, const char *driver, const char *options, struct blk *child);
extern char bt_error[1024];

/* A fresh directory in $TMPDIR, removed with all that is in it by bt_rmdir(). */
const char *bt_mkdir(void);
void bt_rmdir(void);

/* A request on its way: memory, iov and state for one. */
struct bt_io {
	struct blk_io io;
	struct loop  *loop;
	bool          done;
	int           ndone;
	struct iovec  iov[BT_IOV];
	struct blk_extent map[64];
	char         *pages;        /* of a write in pages; put when done */
	uint64_t      npages;
	char         *data;
};

/* Starts a request; `data` (read: to fill, write: to send) stays the caller's until bt_wait(). With BLK_LEND the
 * pages stay lent, see bt_put(); with BLK_PAGES data is copied to pages first. */
void bt_start(struct bt_io *t, struct loop *l, struct blk *b, enum blk_op op, uint32_t flags, uint64_t off, uint64_t len,
	char *data);
/* Turns the loop until it is done; gives up loudly after a generous time. Returns the status. */
int  bt_wait(struct bt_io *t);
/* Copies lent data out, and gives the pages back. */
void bt_copy(const struct bt_io *t, char *to);
void bt_put(struct bt_io *t);

/* All in one: start, wait, copy, put. */
int  bt_do(struct loop *l, struct blk *b, enum blk_op op, uint32_t flags, uint64_t off, uint64_t len, char *data);

/* A repeatable sequence. */
uint64_t bt_random(uint64_t *seed);
void bt_fill(char *p, uint64_t len, uint64_t seed);

#endif
