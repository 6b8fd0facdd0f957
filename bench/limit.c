/* SPDX-License-Identifier: BSD-3-Clause
 * The limit: the cheapest TCP server of the pattern that an iSCSI target has, to measure a target against.
 * It knows no protocol and checks nothing. A request is 48 bytes; a read is answered with 48 + block bytes
 * from memory that holds random data, or from a file; a write's 48 + block bytes are swallowed and answered
 * with 48 (--store: they go to their place in memory). All that one turn produces leaves in one send. One thread, epoll.
 *
 * Plain sleeps when idle. --spin polls instead, --sndbuf bounds what the kernel holds of the answers, so that
 * payload stays in cache between the copy in and the copy out; both together are the tuned form.
 *
 * Request, big endian: 0 op (0 read, 1 write, bit 7: with data digest), 4 length (bytes), 8 offset (bytes),
 * 16 tag. The response repeats it. A data digest is CRC32C, 4 bytes little endian, behind the data. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <isa-l.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/copy.h"

enum {
	HDR = 48,
	OP_WRITE_BIT = 1,
	OP_DIGEST_BIT = 0x80,
	RX_BYTES = 256 << 10,    /* one receive */
	STAGE_BYTES = 512 << 10, /* file by pread: what one send carries */
	BULK_BYTES = 16 << 10,
	AFTER_BULK = 4096,       /* received behind bulk data: the next data shall go where it belongs too */
	IOV_MAX_BATCH = 768,
	HDRS = 512,              /* responses of one batch */
	CONNS = 2048,
	ROUND_ROBIN = 8,         /* up to so many connections are polled without epoll */
};

struct conn {
	int fd;
	bool dead;
	uint32_t swallow;              /* bytes of write data (and digest) still to come */
	uint8_t part[HDR];             /* an incomplete request */
	uint32_t npart;
	/* requests not yet answered, parsed but held back while a batch is being sent */
	uint8_t *held;
	uint32_t held_at, held_len;
	/* a large read served in pieces by pread; where write data is stored */
	uint32_t more_len;
	uint64_t more_off;
	/* the batch */
	struct iovec iov[IOV_MAX_BATCH];
	int niov, at;
	uint8_t hdr[HDRS][HDR];
	uint32_t crc[HDRS];
	int nhdr;
	uint8_t *stage;
	uint32_t nstage;
};

static uint8_t *mem;
static uint64_t mem_bytes = 1ull << 30;
static int file_fd = -1;
static bool opt_spin, opt_mmap, opt_store;
static int opt_sndbuf, opt_port = 33260;
static struct conn *conns[CONNS];
static int nconns, ep, listener;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void conn_close(struct conn *c)
{
	close(c->fd);
	for (int i = 0; i < nconns; i++)
		if (conns[i] == c)
			conns[i] = conns[--nconns];
	free(c->held);
	free(c->stage);
	free(c);
}

static void conn_accept(void)
{
	int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK), one = 1;
	struct epoll_event ev = { .events = EPOLLIN };
	struct conn *c;

	if (fd < 0)
		return;
	c = calloc(1, sizeof(*c));
	if (!c || nconns == CONNS)
		die("connections");
	c->fd = fd;
	c->held = malloc(RX_BYTES);
	if (file_fd >= 0 && !opt_mmap)
		c->stage = aligned_alloc(4096, STAGE_BYTES);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (opt_sndbuf)
		setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &opt_sndbuf, sizeof(opt_sndbuf));
	ev.data.ptr = c;
	epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev);
	conns[nconns++] = c;
}

static void put(struct conn *c, void *p, size_t n)
{
	c->iov[c->niov++] = (struct iovec){ p, n };
}

static bool batch_full(const struct conn *c)
{
	return c->nhdr == HDRS || c->niov + 3 > IOV_MAX_BATCH || (c->stage && c->nstage == STAGE_BYTES);
}

/* The next piece of a read by pread. */
static void serve_piece(struct conn *c)
{
	uint32_t n = c->more_len;

	if (n > STAGE_BYTES - c->nstage)
		n = STAGE_BYTES - c->nstage;
	if (pread(file_fd, c->stage + c->nstage, n, (off_t)c->more_off) != (ssize_t)n)
		die("pread");
	put(c, c->stage + c->nstage, n);
	c->nstage += n;
	c->more_off += n;
	c->more_len -= n;
}

static void serve(struct conn *c, const uint8_t *req)
{
	uint8_t *h = c->hdr[c->nhdr];
	uint32_t len = be32(req + 4);
	uint64_t off = be64(req + 8);

	memcpy(h, req, HDR);
	put(c, h, HDR);
	if (off > mem_bytes || len > mem_bytes - off) {
		c->dead = true;
		return;
	}
	if (req[0] & OP_WRITE_BIT) {
		c->swallow = len + (req[0] & OP_DIGEST_BIT ? 4 : 0);
		c->more_off = off;
	} else if (c->stage) {
		c->more_off = off;
		c->more_len = len;
		serve_piece(c);
	} else {
		put(c, mem + off, len);
		if (req[0] & OP_DIGEST_BIT) {
			c->crc[c->nhdr] = ~crc32_iscsi(mem + off, (int)len, 0xffffffff);
			put(c, &c->crc[c->nhdr], 4);
		}
	}
	c->nhdr++;
}

/* Answers what lies in held until the batch is full or a request is incomplete. */
static void parse(struct conn *c)
{
	while (!batch_full(c) && !c->dead) {
		uint32_t left = c->held_len - c->held_at;

		if (c->more_len) {
			serve_piece(c);
		} else if (c->swallow && left) {
			uint32_t n = c->swallow < left ? c->swallow : left;

			if (opt_store)
				copy_cold(mem + c->more_off, c->held + c->held_at, n);
			c->swallow -= n;
			c->more_off += n;
			c->held_at += n;
		} else if (!c->swallow && left >= HDR) {
			const uint8_t *req = c->held + c->held_at;

			c->held_at += HDR;
			serve(c, req);
		} else {
			break;
		}
	}
}

/* true: all sent */
static bool flush(struct conn *c)
{
	while (c->at < c->niov) {
		struct msghdr m = { .msg_iov = c->iov + c->at, .msg_iovlen = (size_t)(c->niov - c->at) };
		ssize_t n = sendmsg(c->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0) {
			c->dead = errno != EAGAIN;
			return false;
		}
		for (; c->at < c->niov && (size_t)n >= c->iov[c->at].iov_len; c->at++)
			n -= (ssize_t)c->iov[c->at].iov_len;
		if (n) {
			c->iov[c->at].iov_base = (uint8_t *)c->iov[c->at].iov_base + n;
			c->iov[c->at].iov_len -= (size_t)n;
		}
	}
	c->at = c->niov = c->nhdr = 0;
	c->nstage = 0;
	return true;
}

static void watch(struct conn *c, bool out)
{
	struct epoll_event ev = { .events = out ? EPOLLIN | EPOLLOUT : EPOLLIN, .data.ptr = c };

	if (!opt_spin || nconns > ROUND_ROBIN)
		epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &ev);
}

/* The rest of a write goes where it belongs, and requests behind it into the buffer. */
static ssize_t receive_stored(struct conn *c)
{
	struct iovec v[2] = { { mem + c->more_off, c->swallow },
		{ c->held, c->swallow >= BULK_BYTES ? AFTER_BULK : RX_BYTES } };
	struct msghdr m = { .msg_iov = v, .msg_iovlen = 2 };
	ssize_t n = recvmsg(c->fd, &m, MSG_DONTWAIT);
	uint32_t direct = n > (ssize_t)c->swallow ? c->swallow : (uint32_t)n;

	if (n > 0) {
		c->swallow -= direct;
		c->more_off += direct;
		c->held_len = (uint32_t)n - direct;
	}
	return n;
}

static ssize_t receive(struct conn *c)
{
	uint32_t keep = c->held_len - c->held_at;
	ssize_t n;

	if (keep)
		memmove(c->held, c->held + c->held_at, keep);
	c->held_at = 0;
	c->held_len = keep;
	if (opt_store && c->swallow)
		return receive_stored(c);
	n = recv(c->fd, c->held + keep, RX_BYTES - keep, MSG_DONTWAIT);
	if (n > 0)
		c->held_len += (uint32_t)n;
	return n;
}

static void turn(struct conn *c)
{
	bool waiting = c->at < c->niov;
	ssize_t n;

	if (waiting && !flush(c)) {
		if (c->dead)
			conn_close(c);
		return;
	}
	parse(c);
	if (!c->niov) {
		n = receive(c);
		if (n == 0 || (n < 0 && errno != EAGAIN)) {
			conn_close(c);
			return;
		}
		parse(c);
	}
	while (c->niov && flush(c))
		parse(c);
	if (c->dead)
		conn_close(c);
	else if (waiting != (c->at < c->niov))
		watch(c, !waiting);
}

static void run(void)
{
	struct epoll_event ev[64];

	for (unsigned i = 0;; i++) {
		bool rr = opt_spin && nconns && nconns <= ROUND_ROBIN;
		int n = 0;

		if (!rr || i % 4096 == 0)
			n = epoll_wait(ep, ev, rr ? 1 : 64, opt_spin && nconns ? 0 : -1);
		for (int k = 0; k < n; k++) {
			if (!ev[k].data.ptr)
				conn_accept();
			else if (!rr)
				turn(ev[k].data.ptr);
		}
		for (int k = rr ? nconns - 1 : -1; k >= 0; k--)
			turn(conns[k]);
	}
}

/* Random data, cheap: 1 MiB from the kernel, mixed with the address. */
static void fill(void)
{
	uint64_t s = 0x9e3779b97f4a7c15ull;

	if (getrandom(&s, sizeof(s), 0) < 0)
		die("getrandom");
	for (uint64_t i = 0; i < mem_bytes / 8; i++) {
		s ^= s << 13;
		s ^= s >> 7;
		s ^= s << 17;
		((uint64_t *)mem)[i] = s;
	}
}

static void storage(const char *path)
{
	struct stat st;

	if (!path) {
		mem = mmap(NULL, mem_bytes + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (mem == MAP_FAILED)
			die("memory");
		madvise(mem, mem_bytes, MADV_HUGEPAGE);
		fill();
		return;
	}
	file_fd = open(path, O_RDONLY);
	if (file_fd < 0 || fstat(file_fd, &st))
		die(path);
	mem_bytes = (uint64_t)st.st_size;
	mem = mmap(NULL, mem_bytes, PROT_READ, MAP_SHARED | (opt_mmap ? MAP_POPULATE : 0), file_fd, 0);
	if (mem == MAP_FAILED)
		die("mmap");
}

static void listen_on(int port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct epoll_event ev = { .events = EPOLLIN };
	int one = 1;

	listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(listener, (struct sockaddr *)&a, sizeof(a)) || listen(listener, 128))
		die("bind");
	ep = epoll_create1(0);
	epoll_ctl(ep, EPOLL_CTL_ADD, listener, &ev);
}

int main(int argc, char **argv)
{
	static const struct option opts[] = { { "port", 1, 0, 'p' }, { "spin", 0, 0, 's' }, { "sndbuf", 1, 0, 'b' },
		{ "file", 1, 0, 'f' }, { "mmap", 0, 0, 'm' }, { "size", 1, 0, 'S' }, { "store", 0, 0, 'w' }, { 0 } };
	const char *path = NULL;
	int o;

	while ((o = getopt_long(argc, argv, "", opts, NULL)) != -1) {
		switch (o) {
		case 'p': opt_port = atoi(optarg); break;
		case 's': opt_spin = true; break;
		case 'b': opt_sndbuf = atoi(optarg); break;
		case 'f': path = optarg; break;
		case 'm': opt_mmap = true; break;
		case 'S': mem_bytes = strtoull(optarg, NULL, 0); break;
		case 'w': opt_store = true; break;
		default:
			fprintf(stderr, "usage: limit [--port N] [--spin] [--sndbuf BYTES] [--size BYTES] [--store]"
				" [--file PATH [--mmap]]\n");
			return 2;
		}
	}
	storage(path);
	listen_on(opt_port);
	puts("ready");
	fflush(stdout);
	run();
}
