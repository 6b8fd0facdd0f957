/* SPDX-License-Identifier: BSD-3-Clause
 * A remote LUN as a block device (driver "iscsi"): what lun.c (configuration, life) and lun_io.c (requests) share. */
#ifndef LUNETTE_NET_LUN_H
#define LUNETTE_NET_LUN_H

#include "block/blk.h"
#include "net/initiator.h"

enum {
	LUN_DEPTH = 64,              /* commands in flight */
	LUN_CHUNK = 512 << 10,       /* bytes of data of one command */
	LUN_SAME_BYTES = 256 << 20,  /* that one WRITE SAME covers at most */
	LUN_EXTENTS = 32,            /* asked for by one GET LBA STATUS */
};

struct lun;

/* One command. io NULL: our own question for the capacity. */
struct lun_req {
	struct iscsi_ini_cmd cmd;
	struct list    node;         /* in free or waiting */
	struct lun    *lun;
	struct blk_io *io;
	uint64_t       off, begun_ns;
	uint32_t       len, room, tries;
	uint8_t       *buf;
};

/* On its home loop but for what control says. Lives on after the blk was closed until its sockets are. */
struct lun {
	struct loop   *home, *control;
	struct blk    *blk;
	struct net_ini *net;
	struct url     url;
	struct iscsi_chap_user chap[2];
	char           shown[400];   /* for the log: the URL without secrets */
	uint64_t       retry_ns, lun;
	uint32_t       block;        /* bytes */
	uint64_t       same_bytes;   /* one WRITE SAME; 0: the target has none */
	bool           write_through, closing, up;
	struct blk_io *first, **last; /* requests with something still to issue, linked through their scratch */
	struct list    free, waiting;
	unsigned       nreqs;
	struct timer   retry;
	uint64_t       bytes;        /* that the target tells */
	struct task    start, stop;  /* to home */
	struct task    gone;         /* to control */
	uint64_t       seen_bytes;   /* control's */
};

/* lun_io.c */
void lun_start(struct task *t);
void lun_stop(struct task *t);
void lun_submit(struct blk *b, struct blk_io *io);

/* lun.c */
void lun_tell_bytes(struct lun *l, uint64_t bytes);
#endif
