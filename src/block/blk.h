/* SPDX-License-Identifier: BSD-3-Clause
 * A node in a stack of block drivers and filters. One async verb: submit. Offsets and lengths are bytes.
 *
 * FLUSH covers every write that was done, on any loop, before it was submitted. After one EIO from fsync
 * every FLUSH and FUA write fails with -EIO until the volume is reopened, because the kernel forgets which
 * pages it lost. Completions never run inside submit. blk_submit() is called on any I/O loop; open and close
 * on the control thread. */
#ifndef LUNETTE_BLOCK_BLK_H
#define LUNETTE_BLOCK_BLK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/err.h"
#include "base/schema.h"
#include "base/task.h"
#include "loop/loop.h"

struct blk;
struct blk_io;

enum blk_op { BLK_READ, BLK_WRITE, BLK_FLUSH, BLK_DISCARD, BLK_ZERO, BLK_MAP, BLK_COPY };
enum { BLK_OPS = BLK_COPY + 1 };

enum {                          /* blk_req.flags */
	BLK_FUA = 1u << 0,      /* WRITE, ZERO, DISCARD, COPY: durable before done */
	BLK_MAY_UNMAP = 1u << 1, /* ZERO, COPY: for zeros a hole will do */
	BLK_LEND = 1u << 2,     /* BLK_READ: the driver answers with pages of its own, see below */
	BLK_PAGES = 1u << 3,    /* BLK_WRITE: iov lies in pages (base/page.h) that nobody will write again;
	                         * the driver may keep them by page_ref() */
	BLK_DPO = 1u << 4,      /* READ, WRITE: not worth caching */
	BLK_SEND = 1u << 5,     /* READ with BLK_LEND: the data only goes to a socket, this process does not look at it:
	                         * memory that others change or cut short will do (page_put() passes over it) */
	BLK_TUPLES = 1u << 6,   /* READ, WRITE: req.tuples has eight bytes for each block_bytes; needs BLK_CAN_TUPLES */
	BLK_ATOMIC = 1u << 7,   /* WRITE of at most untorn_bytes: after a crash all of it or nothing */
	BLK_MARK_BAD = 1u << 8, /* ZERO: the range reads as -ENOTRECOVERABLE until it is written; needs BLK_CAN_TUPLES */
};
enum {                          /* blk.caps */
	BLK_READ_ONLY = 1u << 0,
	BLK_CAN_DISCARD = 1u << 1, /* DISCARD frees space; afterwards the range reads as zeros */
	BLK_CAN_LEND = 1u << 2, /* BLK_LEND is understood by the whole stack */
	BLK_CAN_MAP = 1u << 3,  /* MAP tells holes apart */
	BLK_VOLATILE = 1u << 4, /* contents end with the process (ram, null): a new disk after a restart */
	BLK_WRITE_CACHE = 1u << 5, /* a done write may be lost by a power cut until FLUSH */
	BLK_CAN_COPY = 1u << 6, /* COPY to and from this stack may be tried: each of its layers knows it */
	BLK_CAN_TUPLES = 1u << 7, /* keeps eight bytes with each block, all FFh for one that was never written with any */
};
enum { BLK_DEPTH_MAX = 12, BLK_CHILD_MAX = 4 };

enum blk_extent_kind { BLK_DATA, BLK_HOLE, BLK_ZEROED };
struct blk_extent { uint64_t off, len; enum blk_extent_kind kind; };

/* What is asked: a value. A layer may rewrite it; the framework restores it on the way up, but for the two
 * results in it: niov of a lent read and nmap of MAP.
 *
 * READ  with BLK_LEND: iov has room for niov entries, at least one per 4 KiB page that the range touches, and
 *       is empty; the driver fills it with segments, each inside one page and with one reference, and sets
 *       req.niov. The caller page_put()s each iov_base. A read that fails lends nothing: niov is 0.
 *       Without BLK_LEND: iov is the caller's memory.
 * WRITE iov borrowed until done.
 * MAP   map[0..nmap): filled from off on, adjoining, starting exactly at off; req.nmap is set to the
 *       number used, at least 1; may stop short of off+len.
 * COPY  what `from` holds from from_off on is then at off, len bytes. from: the top of any stack, or of this one, which
 *       stays open and whose range nobody writes until done. -EOPNOTSUPP: not between these two, or not there: part of
 *       the range may have changed, and the caller reads and writes all of it. */
struct blk_req {
	enum blk_op   op;
	int           niov;
	uint64_t      off, len;           /* bytes, multiples of blk->block_bytes; FLUSH: 0, 0 */
	union {
		struct iovec *iov;
		struct blk   *from;       /* COPY */
	};
	uint32_t      flags;              /* not beside op: one load of both would wait for both stores */
	int           nmap;
	union {
		struct blk_extent *map;
		uint64_t           from_off; /* COPY */
		uint8_t *tuples;          /* BLK_TUPLES: READ fills them, WRITE brings them */
	};
};

typedef void blk_done_fn(struct blk_io *io, void *ctx);

struct blk_frame {
	struct blk_req req;
	blk_done_fn *done;
	void        *ctx;
	struct loop *loop;       /* where done runs */
	uint64_t     scratch[2]; /* the layer's own, from push to its done */
};

/* A request in flight. Embedded in its SCSI command: the I/O path allocates nothing. A RAM disk's read touches
 * the first two cache lines and the first frame; keep what every request needs there. */
struct blk_io {
	struct blk_req   req;
	int              status;   /* 0 or -errno; valid in done */
	uint8_t          depth;    /* frames in use */
	uint16_t         pending;  /* outstanding forks */
	struct loop     *loop;     /* the caller's; inside the stack, the loop that the layer runs on */
	struct task      task;
	uint64_t         fail_off; /* bytes; where it failed (medium errors), else UINT64_MAX */
	struct blk_io   *parent;
	uint64_t         scratch[4]; /* the bottom driver's, from its submit to blk_done */
	struct op        op;       /* the driver's system operation */
	struct blk_frame frame[BLK_DEPTH_MAX];
};

struct blk {
	const struct blk_ops *ops;
	struct blk   *child[BLK_CHILD_MAX]; /* child[0] is the one a filter filters */
	struct loop  *home;                 /* NULL: submit() is safe on any loop */
	_Atomic uint64_t bytes;             /* capacity; grows only (see blk_poll_size) */
	uint32_t      block_bytes;          /* smallest unit of access that is safe: 1, 512 or 4096 */
	uint32_t      phys_bytes;           /* physical block, for alignment hints */
	uint32_t      caps;
	uint32_t      discard_bytes;        /* granularity, 0 = unknown */
	uint64_t      discard_max;          /* bytes of one DISCARD, 0 = no bound */
	uint32_t      untorn_bytes;         /* longest BLK_ATOMIC write, 0 = none */
	_Atomic uint32_t tuple_type;        /* what tuples of writes that bring none become: see blk_tuple_type() */
	bool          space_known;          /* control thread, by poll_size: the next two, in bytes */
	uint64_t      space_used, space_free; /* what the medium takes where it is kept, and what can still be had there */
	uint32_t      forks_max;            /* child requests that one request may need */
	char          name[64];             /* for logs and errors */
	void         *priv;                 /* ops->priv_bytes, zeroed, owned by the framework */
};

/* What a backstore or filter implements. */
struct blk_ops {
	const char              *name;
	bool                     filter; /* has a child; false: the bottom of a stack */
	bool                     copies; /* a filter that passes COPY down, and may lie above what is copied from */
	size_t                   priv_bytes;
	size_t                   conf_bytes; /* the struct that config's fields are parsed into */
	const struct conf_field *config;     /* options of this driver, ended by a NULL name */
	const struct conf_verb  *verbs;
	int  (*open)(struct blk *b, const void *conf, struct err *e); /* control thread; may block */
	void (*close)(struct blk *b);                                 /* control thread; nothing in flight */
	void (*submit)(struct blk *b, struct blk_io *io);             /* loop; one blk_done() per submit */
	/* Control thread, about once a second: has the capacity changed? NULL = never does. Updates b->bytes
	 * when it grew; returns -errno when the medium is gone or was cut short. */
	int  (*poll_size)(struct blk *b);
	/* Control thread. The medium takes the size of conf, which differs in nothing else and is not less; poll_size
	 * tells of it. NULL = cannot while in use. */
	int  (*grow)(struct blk *b, const void *conf, struct err *e);
};

/* Builds a node. conf: ops->conf_bytes, already validated by the schema. child: NULL for drivers; taken
 * over on success. A filter starts with the geometry, caps, home and name of its child. */
int  blk_open(struct blk **ret, const struct blk_ops *ops, const void *conf, struct blk *child, struct err *e);
void blk_close(struct blk *b); /* closes the whole stack below; free(NULL) rules */
const struct blk_ops *blk_find(const char *name); /* registry.c */
enum { BLK_KINDS_MAX = 24 };
extern const struct blk_ops *blk_registry[BLK_KINDS_MAX + 1]; /* NULL-ended */
/* Adds a driver that lives in a higher layer (the iscsi driver needs net/). Before the configuration is read. */
void blk_register(const struct blk_ops *ops);

/* The caller has set io->req and io->loop (the loop that it runs on). done runs there, from the loop's queue.
 * -EINVAL: misaligned, or nothing to put data in; -ERANGE: beyond the capacity; -EROFS. A length of 0 is done at
 * once. Nothing else of io needs to be set. */
void blk_submit(struct blk *b, struct blk_io *io, blk_done_fn *done, void *ctx);

/* For layers. */
void blk_pass(struct blk *b, struct blk_io *io);   /* hand to child[0] unchanged: no frame */
/* Saves req, hears the completion, on the loop that pushed. Returns the frame's scratch. */
uint64_t *blk_push(struct blk_io *io, blk_done_fn *done, void *ctx);
/* In that done function: the same scratch, until the next push. */
uint64_t *blk_scratch(struct blk_io *io);
/* All forks of a request start in one callback; io is done when all are, with the first error (and no fail_off,
 * because a fork has addresses of its own). */
void blk_fork(struct blk_io *io, struct blk *to, const struct blk_req *req);
void blk_done(struct blk_io *io, int status);      /* queues the pop; never re-enters the caller */
void blk_fail_at(struct blk_io *io, int status, uint64_t off); /* the same, naming where */

/* The driver at the bottom of a stack that has BLK_CAN_COPY. */
static inline const struct blk *blk_bottom(const struct blk *b)
{
	while (b->ops->filter)
		b = b->child[0];
	return b;
}

/* Writes without BLK_TUPLES get tuples of this type of protection (SBC-4 4.21.2) from now on: a guard that is true, no
 * application tag, and the block's number (type 1) or FFFF_FFFFh as the reference tag. 0: FFh. Any thread. */
void blk_tuple_type(struct blk *b, unsigned type);

static inline uint64_t blk_bytes(const struct blk *b)
{
	return atomic_load_explicit(&b->bytes, memory_order_relaxed);
}

/* Synchronous helpers for the control thread and tests: run the loop until done. */
int blk_sync(struct loop *l, struct blk *b, struct blk_req *req);

#endif
