/* SPDX-License-Identifier: BSD-3-Clause
 * Private to `lunette bench`, a load generator in one thread.
 *
 *   bench.c        options, what is to be done, reports
 *   bench_load.c   jobs: what is read and written, patterns, latencies
 *   bench_wire.c   connections: the iSCSI initiator, and the raw protocol of bench/limit.c, over a socket */
#ifndef LUNETTE_BENCH_H
#define LUNETTE_BENCH_H

#include <netdb.h>

#include "iscsi/initiator.h"
#include "net/url.h"

enum { BENCH_SESSIONS = 4096, BENCH_DEPTH = 1024, BENCH_RX = 256 << 10, RAW_HDR = 48 };

enum bench_rw { RW_READ, RW_WRITE, RW_RANDREAD, RW_RANDWRITE, RW_MIXED };

struct bench_conf {
	struct url url;
	bool     raw, spin, json, fill, verify;
	bool     header_digest, data_digest;
	enum bench_rw rw;
	uint32_t bs, depth, sessions;
	uint64_t size, seed;              /* size: bytes of the LUN that are used; 0 = all */
	double   time_s, warmup_s;
	int      cpu, server_pid;         /* -1, 0: none */
	unsigned probe_ms;                /* 0: the engine's */
	unsigned storm, idle, connections; /* 0: as the URL says */
	int      level;                   /* -1 likewise */
};

struct bench_wire;

/* One I/O in flight. */
struct bench_io {
	struct iscsi_ini_cmd cmd;
	struct bench_wire *wire;
	bool     write;
	uint64_t off, start_ns;
	uint64_t what;                    /* RW_MIXED: what the pattern depends on besides the place */
	uint32_t len;
	uint8_t *buf;                     /* write: source; read: destination, or NULL to discard */
	uint32_t tag;
	bool     failed;
};

/* Called when an I/O ended (with what it was), from bench_wire_turn(). */
typedef void bench_done_fn(struct bench_io *io);

/* One session, or one connection of the raw protocol. */
struct bench_wire {
	const struct bench_conf *conf;
	int      fd[INI_CONNS_MAX];       /* -1: none */
	unsigned nfds;                    /* that there may be */
	bool     timed;                   /* has recovery or several connections: needs a clock */
	const struct addrinfo *ai;
	bool     ready, closed;
	char     why[160];
	unsigned status;                  /* login status when refused */
	bool     due;                     /* bench_wait() saw something */
	bool     plain_done;              /* a command without a struct bench_io ended */
	uint32_t block;                   /* bytes, of the LUN */
	bench_done_fn *done;
	struct iscsi_ini *ini;
	struct iscsi_chap_user chap;
	/* raw protocol */
	struct bench_io *raw_io[BENCH_DEPTH];
	uint8_t  raw_part[RAW_HDR];
	uint32_t raw_npart, raw_skip, raw_ndigest, raw_crc;
	uint8_t  raw_digest[4];
	struct bench_io *raw_cur;
	uint8_t *raw_hdr;
	uint32_t *raw_crcs;               /* rings of depth + 1, like raw_hdr: at most depth requests wait to be sent */
	uint32_t raw_slot;
	struct iovec *raw_iov;
	int      raw_niov, raw_at;
};

struct addrinfo *bench_resolve(const struct bench_conf *c); /* exits with a message */
/* Connects; the login goes on in bench_wire_turn(). NULL with errno. isid: distinguishes sessions. */
struct bench_wire *bench_wire_open(const struct bench_conf *c, const struct addrinfo *ai, uint32_t isid, bench_done_fn *done);
/* reset: leave no socket in TIME_WAIT. */
void bench_wire_close(struct bench_wire *w, bool reset);
int  bench_wire_submit(struct bench_wire *w, struct bench_io *io);
/* Sends what there is, receives once, handles it, sends again. block: may sleep in receive. True: something moved. */
bool bench_wire_turn(struct bench_wire *w, bool block);
bool bench_wire_wants_out(struct bench_wire *w);
/* Sleeps until one of them can move, at most ms. */
void bench_wait(struct bench_wire **w, unsigned n, int ms);
uint64_t bench_now_ns(void);

/* bench_load.c */
struct bench_result {
	uint64_t ios, bytes, errors, mismatches, ns;
	struct iscsi_ini_stats repairs;
	double   p50_us, p99_us, p999_us, max_us, mean_us, cpu_s; /* cpu_s: of the server */
};
void bench_fill(const struct bench_conf *c, struct bench_wire **w, unsigned n);
void bench_load(const struct bench_conf *c, struct bench_wire **w, unsigned n, struct bench_result *ret);
double bench_cpu_seconds(int pid);

#endif
