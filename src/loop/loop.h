/* SPDX-License-Identifier: BSD-3-Clause
 * The event loop: one per core, completion based. Runs callbacks, timers and system operations, and
 * owns everything that is homed on it. Three backends: io_uring, epoll (with the worker pool for files)
 * and sim (seeded virtual time, network and disks).
 *
 * A turn: deferred tasks, mailbox, timers, end-of-turn tasks, then poll, which submits what the turn produced
 * in one kernel entry and runs the done() of what has completed. All functions are called on the loop's own
 * thread but loop_post() and loop_stop(); a loop belongs to the thread that turns it first (before that, to
 * the one that made it). The control thread has a loop of its own (epoll), so that it can be posted to. */
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
	OP_RECV,    /* fd, iov, niov (any; 1 is the fast case): res 0 = end of stream */
	OP_SEND,    /* fd, iov, niov: res may be short */
	OP_ACCEPT,  /* fd; res: the new descriptor, close-on-exec, non-blocking; -EMFILE and the like are reported
	             * at once: the caller waits before it tries again */
	OP_CONNECT, /* fd (non-blocking), addr, addrlen */
	OP_POLL,    /* fd readable (one shot) */
	OP_WORK,    /* work() runs on the worker pool and may block; res is what it left in op->res */
};

enum {
	OP_DSYNC = 1u << 0,  /* OP_WRITEV: durable when done (RWF_DSYNC) */
	OP_DIRECT = 1u << 2, /* OP_READV, OP_WRITEV: the file is O_DIRECT; there is no page cache to try first */
	OP_MAY_HANG = 1u << 3, /* files: the file system waits even where it is asked not to (FUSE, NFS): only a worker
	                        * may start it */
	OP_BULK = 1u << 4,   /* OP_RECV: much is to come; better taken in large pieces than at once */
	OP_SERIAL = 1u << 1, /* OP_WORK: may take long; gets a thread of its own when no other is free */
};

/* One system operation. The caller owns it, and all that it points to, until done() runs on the
 * submitting loop. Several operations may be in flight on one descriptor; of one kind on one socket they
 * complete in order. Of a descriptor whose disk hangs, only a bounded number runs; the rest wait. res: >= 0, or
 * -errno; short transfers are reported, not repeated. */
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
	struct task    task;
	struct msghdr  msg;
};

/* What a backend provides; called by loop.c and work.c only. */
struct loop_backend {
	const char *name;
	int  (*init)(struct loop *l, unsigned depth);
	void (*fini)(struct loop *l);
	void (*submit)(struct loop *l, struct op *op);
	void (*cancel)(struct loop *l, struct op *op); /* done() still runs: -ECANCELED or the real result */
	/* Submits the batch, reaps, at most until deadline_ns; returns the number of done() that ran. */
	unsigned (*poll)(struct loop *l, uint64_t deadline_ns);
	void (*wake)(struct loop *l);  /* any thread: makes poll return */
	uint64_t (*now_ns)(struct loop *l);
	void (*forget)(struct loop *l, int fd); /* see loop_forget(); may be NULL */
};
extern const struct loop_backend loop_uring, loop_epoll, loop_sim;

struct timer {
	uint64_t deadline_ns; /* absolute, monotonic (CLOCK_MONOTONIC); 0 = not armed */
	void   (*fire)(struct timer *t);
	uint32_t heap;        /* private: position + 1, 0 = not armed */
};

/* backend NULL: io_uring when the kernel allows it, else epoll. index: 0.. for I/O loops. */
struct loop *loop_new(const struct loop_backend *backend, unsigned index, struct err *e);
/* Nothing is in flight, and no thread may still be inside loop_post() to it: other loops' threads are joined and
 * work_fini() has been called before. */
void loop_free(struct loop *l);
/* Runs turns until loop_stop(). */
void loop_run(struct loop *l);
/* One turn; if no callback is ready, blocks at most until deadline_ns (0: not at all, UINT64_MAX: until something
 * happens).
 * For tests and the simulator. Returns whether anything ran. */
bool loop_turn(struct loop *l, uint64_t deadline_ns);
void loop_stop(struct loop *l); /* any thread */

void loop_submit(struct loop *l, struct op *op);
/* Advice. op must be in flight: submitted, its done() not yet begun. done() still runs, later, with -ECANCELED
 * or the real result. */
void loop_cancel(struct loop *l, struct op *op);
/* The descriptor leaves this loop: it is about to be closed, or goes on on another loop. No operation of it is
 * in flight here. */
void loop_forget(struct loop *l, int fd);
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
/* After a stopped process, a paused guest or an endless callback: true in the turn in which the loop finds itself
 * more than half a second behind its time. Timeouts that fire in it must give sockets a turn before they
 * declare a peer dead. */
bool loop_stalled(const struct loop *l);

/* Adaptive polling: how long poll() spins before it sleeps, when I/O has been arriving faster than that.
 * 0 turns it off. Default LOOP_SPIN_NS. */
void loop_set_spin(struct loop *l, uint64_t spin_ns);
enum { LOOP_SPIN_NS = 50000 };

/* The worker pool behind OP_WORK and what a backend cannot do without blocking: process wide, started on first
 * use, grows while jobs are stuck, up to a bound. Called by backends. */
void work_submit(struct op *op);
/* op->loop is set. Takes an operation that no worker has begun out of the queue: done gets -ECANCELED. */
void work_cancel(struct op *op);
/* Ends the workers when no operation is in flight. Workers that hang in the kernel are left behind. */
void work_fini(void);

/* Whether a descriptor belongs to the simulator (sim.h): no system call understands it. */
enum { LOOP_SIM_FD = 1 << 24 };
static inline bool loop_sim_fd(int fd)
{
	return fd >= LOOP_SIM_FD;
}

#endif
