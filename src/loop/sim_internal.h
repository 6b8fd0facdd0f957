/* SPDX-License-Identifier: BSD-3-Clause
 * What the simulator's files share: the world (sim.c), the network (sim_net.c), the disks (sim_disk.c). */
#ifndef LUNETTE_LOOP_SIM_INTERNAL_H
#define LUNETTE_LOOP_SIM_INTERNAL_H

#include "loop/internal.h"
#include "loop/sim.h"

enum { SIM_FDS = 65536 };

struct sim_sock;
struct sim_disk;

/* A descriptor is one or the other; both live as long as the world. */
struct sim_fd {
	struct sim_sock *sock;
	struct sim_disk *disk;
};

struct sim_event {
	uint64_t at_ns, seq;
	void   (*fire)(void *ctx);
	void    *ctx;
};

/* be_priv of a simulated loop. */
struct sim_loop {
	struct loop  *loop;
	struct list   node;
	struct op    *done, **done_end; /* ended; done() runs in the loop's next poll */
	uint64_t      paused_ns;        /* has no processor until then */
	bool          stalled;          /* and so long that it must notice */
	unsigned      number;
};

struct sim {
	uint64_t now_ns, random, hash, seq;
	struct sim_event *heap;
	size_t nheap, heap_room;
	struct list loops;
	unsigned nloops;
	struct sim_fd fd[SIM_FDS];
	unsigned nfd;
	struct sim_net_conf net;
};
extern struct sim *sim; /* the world */

int  sim_fd_new(struct sim_sock *s, struct sim_disk *d);
struct sim_sock *sim_sock_of(int fd);
struct sim_disk *sim_disk_of(int fd);

/* The operation has ended: done() will run on its loop. */
void sim_op_end(struct op *op, int res);

void sim_sock_submit(struct op *op);
void sim_sock_cancel(struct op *op);
void sim_sock_free(struct sim_sock *s);
void sim_flight_discard(const struct sim_event *e); /* the world ends before it arrives */
void sim_disk_submit(struct op *op);
void sim_disk_free(struct sim_disk *d);

#endif
