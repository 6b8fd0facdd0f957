/* SPDX-License-Identifier: BSD-3-Clause
 * The simulated world, for tests: loops, network, disks and clock on one thread, everything that could go either
 * way decided by one seed. Code under test uses loop.h as ever, with loops made by loop_new(&loop_sim, ...); the
 * test makes listeners, sockets and disks here and runs the world. The same seed and the same test give the
 * same events, which sim_hash() proves.
 *
 *	struct sim *s = sim_new(seed);
 *	struct loop *l = loop_new(&loop_sim, 0, &e);
 *	int fd = sim_disk_new(8 << 20);
 *	... loop_submit(l, op) ...
 *	sim_run_until(done, ctx, 10 * SIM_S);
 *
 * Descriptors are at least LOOP_SIM_FD; loop_forget() closes a socket, sim_close() a socket or disk. There is one
 * world at a time. Times are nanoseconds of the virtual clock, which starts at SIM_S. */
#ifndef LUNETTE_LOOP_SIM_H
#define LUNETTE_LOOP_SIM_H

#include "loop/loop.h"

#define SIM_US UINT64_C(1000)
#define SIM_MS UINT64_C(1000000)
#define SIM_S  UINT64_C(1000000000)

struct sim;

struct sim *sim_new(uint64_t seed);
void sim_free(struct sim *s); /* after its loops */
uint64_t sim_now_ns(void);
/* Of everything that has happened. */
uint64_t sim_hash(void);
/* Adds something of the test's own to it. */
void sim_note(uint64_t what);
/* 0 .. n-1, drawn from the seed; n > 0. */
uint64_t sim_random(uint64_t n);
/* True in pct of 100 cases. */
bool sim_chance(unsigned pct);
/* fire(ctx) at a later time, on no loop: the hand of fate. */
void sim_after(uint64_t delay_ns, void (*fire)(void *ctx), void *ctx);
/* The loop gets no processor for so long: a stopped process, a paused guest. */
void sim_stall(struct loop *l, uint64_t ns);
/* Runs the world until pred(ctx), tested between turns, is true: true; or until time stands at until_ns, or nothing
 * is left that could ever happen: false. pred NULL: until then. */
bool sim_run_until(bool (*pred)(void *ctx), void *ctx, uint64_t until_ns);

/* --- network: addresses are ports, the host part does not matter --- */

struct sim_net_conf {
	uint64_t latency_ns, jitter_ns; /* one way; bytes of a stream stay in order */
	size_t   segment_bytes;         /* bytes arrive in pieces of 1 to this many */
	size_t   window_bytes;          /* sent and not yet received, one way */
	unsigned short_pct;             /* sends and receives that move less than they could */
	unsigned accept_fail_pct;       /* accepts that end with -EMFILE; the client keeps waiting */
};
void sim_net_conf(const struct sim_net_conf *c); /* of connections and segments from now on */
int  sim_listen(uint16_t port);
int  sim_socket(void); /* for OP_CONNECT with a struct sockaddr_in */
void sim_close(int fd);
enum sim_cut {
	SIM_RESET,     /* both ends hear of it, soon; bytes on the way are lost */
	SIM_FIN,       /* this end sends no more: the peer reads its end after what is on the way */
	SIM_SILENCE,   /* nothing arrives at either end any more, and nobody is told */
};
void sim_cut(int fd, enum sim_cut how);
/* One bit is wrong in what arrives next at this end (near) or at the other. */
void sim_flip(int fd, bool near);
/* All connections that were accepted from this listener, and the listener: as when the process dies. */
void sim_kill_listener(int fd);

/* --- disks: files in a page cache above 512-byte sectors --- */

struct sim_disk_conf {
	uint64_t latency_ns, jitter_ns;
	unsigned slow_pct;        /* operations that take a hundred times as long */
	unsigned short_pct;       /* reads and writes that move less than asked, in whole sectors */
	unsigned read_eio_pct, write_eio_pct, enospc_pct;
	unsigned fsync_eio_pct;   /* what was dirty then is lost, although reads still show it, as Linux does it */
	unsigned writeback_pct;   /* writes after which some sectors become durable by themselves */
	bool     hang;            /* operations begun from now on end only when this is taken back */
};
int  sim_disk_new(uint64_t bytes); /* multiple of 512; zeros; durable */
void sim_disk_conf(int fd, const struct sim_disk_conf *c);
/* The process that used the disk is gone: a new descriptor for what is left. power: of each sector what was
 * not yet durable may be lost. Operations in flight took place or not, sector by sector. The old descriptor goes on
 * as a disk that nobody will ever read. */
int  sim_disk_crash(int fd, bool power);
/* What a read would give now. */
const void *sim_disk_bytes(int fd);

#endif
