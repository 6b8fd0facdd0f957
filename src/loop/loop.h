/* SPDX-License-Identifier: BSD-3-Clause
 * The event loop: one per core, completion based. Runs callbacks, timers and system operations, and
 * owns everything that is homed on it. Three backends: io_uring, epoll (with the worker pool for files)
 * and sim (seeded virtual time, network and disks).
 *
 * A turn: deferred tasks, mailbox, timers, end-of-turn tasks, then poll. Everything that a turn produces
 * leaves in one kernel entry. All functions are called on the loop's own thread but loop_post() and
 * loop_stop(). The control thread has a loop of its own (epoll), so that it can be posted to. */
#ifndef LUNETTE_LOOP_LOOP_H
#define LUNETTE_LOOP_LOOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "base/err.h"
#include "base/list.h"
#include "base/page.h"
#include "base/task.h"

struct loop;
struct op;
typedef void op_fn(struct op *op);

enum op_kind {
	OP_READV,   /* fd, iov, niov, off */
	OP_WRITEV,  /* fd, iov, niov, off; flags: OP_DSYNC */
	OP_FSYNC,   /* fd: fdatasync */
	OP_PUNCH,   /* fd, off, len: deallocate, reads zero afterwards (file or block device) */
	OP_ZERO,    /* fd, off, len: reads zero afterwards, stays allocated */
	OP_RECV,    /* fd, iov, niov (1 or 2): res 0 = end of stream */
	OP_SEND,    /* fd, iov, niov: res may be short */
	OP_ACCEPT,  /* fd; res: the new descriptor, close-on-exec, non-blocking */
	OP_CONNECT, /* fd, addr, addrlen */
	OP_POLL,    /* fd readable (one shot) */
	OP_WORK,    /* work() runs on the worker pool and may block; res is what it left in op->res */
};

enum {
	OP_DSYNC = 1u << 0,  /* OP_WRITEV: durable when done (RWF_DSYNC) */
	OP_SERIAL = 1u << 1, /* OP_WORK: own thread if the pool is stuck (a hung disk must not starve others) */
};

/* One system operation. The caller owns it, and all that it points to, until done() runs on the
 * submitting loop. res: >= 0, or -errno; short transfers are reported, not repeated. */
struct op {
	enum op_kind   kind;
	uint32_t       flags;
	int            fd;
	int            niov;
	struct iovec  *iov;
	uint64_t       off, len;           /* bytes */
	const struct sockaddr *addr;       /* OP_CONNECT */
	socklen_t      addrlen;
	void         (*work)(struct op *op); /* OP_WORK */
	int            res;                /* valid in done() */
	op_fn         *done;               /* exactly once, never from inside loop_submit() */
	void          *ctx;                /* the submitter's */
	/* backend private from here */
	struct op     *next;
	struct list    node;
	struct loop   *loop;
	uint32_t       state;
	struct msghdr  msg;
};

/* Virtual devices of the simulated loop implement reads, writes and fsyncs; see sim.h. */
struct loop_backend {
	const char *name;
	int  (*init)(struct loop *l, unsigned depth);
	void (*fini)(struct loop *l);
	void (*submit)(struct loop *l, struct op *op);
	void (*cancel)(struct loop *l, struct op *op); /* done() still runs: -ECANCELED or the real result */
	void (*poll)(struct loop *l, uint64_t deadline_ns); /* submit the batch, reap, at most until then */
	void (*wake)(struct loop *l);  /* any thread: makes poll return */
	uint64_t (*now_ns)(struct loop *l);
};
extern const struct loop_backend loop_uring, loop_epoll, loop_sim;

struct timer {
	uint64_t deadline_ns; /* absolute, monotonic (CLOCK_MONOTONIC); 0 = not armed */
	void   (*fire)(struct timer *t);
	uint32_t heap;        /* private: position + 1, 0 = not armed */
};

/* backend NULL: io_uring when the kernel allows it, else epoll. index: 0.. for I/O loops. */
struct loop *loop_new(const struct loop_backend *backend, unsigned index, struct err *e);
void loop_free(struct loop *l);
/* Runs turns until loop_stop(). */
void loop_run(struct loop *l);
/* One turn; blocks at most until deadline_ns (0: does not block, UINT64_MAX: until something happens).
 * For tests and the simulator. Returns whether anything ran. */
bool loop_turn(struct loop *l, uint64_t deadline_ns);
void loop_stop(struct loop *l); /* any thread */

void loop_submit(struct loop *l, struct op *op);
void loop_cancel(struct loop *l, struct op *op);     /* advice; harmless if op is done already? No: op must be in flight */
void loop_defer(struct loop *l, struct task *t);     /* same loop, after the current callback returns */
void loop_at_turn_end(struct loop *l, struct task *t); /* just before poll: where sends are gathered */
void loop_post(struct loop *to, struct task *t);     /* any thread, wait-free: the only cross-loop channel */
uint64_t loop_now_ns(const struct loop *l);          /* cached once per turn */
void loop_timer_set(struct loop *l, struct timer *t, uint64_t deadline_ns); /* re-arms */
void loop_timer_clear(struct loop *l, struct timer *t);
unsigned loop_index(const struct loop *l);
const char *loop_backend_name(const struct loop *l);
struct page_cache *loop_pages(struct loop *l);
/* The loop whose turn runs on this thread, or NULL. */
struct loop *loop_current(void);
/* After a suspend or a stopped process: true in turns that began more than stall_ns after the last one
 * ended its poll late; timeouts must then give sockets a turn before they declare a peer dead. */
bool loop_stalled(const struct loop *l);

/* Adaptive polling: how long poll() spins before it sleeps, when I/O has been arriving faster than that.
 * 0 turns it off. Default LOOP_SPIN_NS. */
void loop_set_spin(struct loop *l, uint64_t spin_ns);
enum { LOOP_SPIN_NS = 50000 };

/* The worker pool behind OP_WORK and the epoll loop's file operations: process wide, started on first use,
 * grows while jobs are stuck, up to a bound. */
void work_submit(struct op *op);
void work_fini(void);

#endif
