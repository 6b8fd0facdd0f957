/* SPDX-License-Identifier: BSD-3-Clause
 * lunette cp: copies between a LUN and a file, in either direction or from LUN to LUN. A ring of slots is filled from
 * the source and emptied into the destination, several requests in flight on each side; slots go round in order, so
 * a pipe sees its bytes in order and a copy that broke can go on from where it says. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "lunette/cli.h"
#include "base/schema.h"
#include "net/remote.h"

enum { SLOTS = 8, SLOT_BYTES = 1 << 20, HOLE = 64 << 10, SYNC_BYTES = 256 << 20 };

struct end {
	const char    *name;     /* for messages: without a secret */
	char           shown[64 + sizeof(((struct url *)0)->host) + LIM_ISCSI_NAME];
	struct url     url;
	struct remote *r;        /* NULL: a file or a pipe */
	int            fd;
	bool           pipe;
	uint64_t       bytes;    /* UINT64_MAX: unknown */
	uint32_t       block;
	bool           zeroes;   /* destination: is zero where nothing was written yet */
};

enum state { FREE, READING, FULL, WRITING };
struct slot {
	enum state state;
	uint64_t   off;
	uint32_t   len;
	struct iscsi_ini_cmd cmd;
	uint8_t   *buf;
};

struct copy {
	struct end  src, dst;
	struct slot slot[SLOTS];
	unsigned    first, used; /* ring: the oldest, how many */
	uint64_t    next, done, from, total;
	uint64_t    safe;        /* flushed up to here: where a copy that broke may go on */
	unsigned    lost;        /* sessions of the destination that were, at the last flush */
	bool        eof, show;
	uint64_t    start_ns, shown_ns;
};

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* --- ends --- */

static int open_lun(struct end *n, struct err *e)
{
	bool thin;
	int r = url_parse(&n->url, n->name, e);

	if (r)
		return r;
	snprintf(n->shown, sizeof(n->shown), strchr(n->url.host, ':') ? "iscsi://[%s]/%s/%u" : "iscsi://%s/%s/%u",
		n->url.host, n->url.target, n->url.lun);
	n->name = n->shown;
	if (!*n->url.target)
		return err_set(e, -EINVAL, "the URL of '%s' names no target; lunette ls lists them", n->url.host);
	r = remote_open(&n->r, &n->url, NULL, e);
	return r ? r : remote_capacity(n->r, n->url.lun, &n->bytes, &n->block, &thin, e);
}

static int open_file(struct end *n, bool write, struct err *e)
{
	struct stat st;

	n->block = 1;
	n->bytes = UINT64_MAX;
	n->pipe = !strcmp(n->name, "-");
	n->fd = n->pipe ? (write ? 1 : 0) : open(n->name, write ? O_WRONLY | O_CREAT | O_CLOEXEC : O_RDONLY | O_CLOEXEC, 0666);
	if (n->fd < 0 || fstat(n->fd, &st))
		return err_set(e, -errno, "cannot open '%s': %s", n->name, strerror(errno));
	if (n->pipe || !(S_ISREG(st.st_mode) || S_ISBLK(st.st_mode))) { /* /dev/zero, say: nothing has a place there */
		n->pipe = true;
		return 0;
	}
	off_t end = lseek(n->fd, 0, SEEK_END);
	if (!write || S_ISBLK(st.st_mode))
		n->bytes = end > 0 ? (uint64_t)end : 0;
	n->zeroes = write && S_ISREG(st.st_mode) && end == 0;
	return 0;
}

static int open_end(struct end *n, const char *name, bool write, struct err *e)
{
	n->name = name;
	n->fd = -1;
	return url_is(name) ? open_lun(n, e) : open_file(n, write, e);
}

static void close_end(struct end *n)
{
	remote_close(n->r);
	if (n->fd > 2)
		close(n->fd);
}

/* --- one slot --- */

static void rw_cdb(const struct end *n, struct slot *s, bool write)
{
	memset(&s->cmd, 0, sizeof(s->cmd));
	s->cmd.lun = remote_lun(n->url.lun);
	s->cmd.attr = 1;
	s->cmd.retry = true; /* the same bytes at the same place */
	s->cmd.cdb[0] = write ? 0x8a : 0x88;
	put_be64(s->cmd.cdb + 2, s->off / n->block);
	put_be32(s->cmd.cdb + 10, s->len / n->block);
	s->cmd.ctx = s;
	if (write) {
		s->cmd.out = s->buf;
		s->cmd.out_len = s->len;
	} else {
		s->cmd.in = s->buf;
		s->cmd.in_len = s->len;
	}
}

static int read_file(struct copy *k, struct slot *s, struct err *e)
{
	uint32_t got = 0;

	while (got < s->len) {
		ssize_t n = k->src.pipe ? read(k->src.fd, s->buf + got, s->len - got)
			: pread(k->src.fd, s->buf + got, s->len - got, (off_t)(s->off + got));
		if (n < 0 && errno != EINTR)
			return err_set(e, -errno, "reading '%s' at byte %llu: %s", k->src.name,
				(unsigned long long)(s->off + got), strerror(errno));
		if (!n)
			break;
		got += n > 0 ? (uint32_t)n : 0;
	}
	if (got < s->len && k->src.bytes != UINT64_MAX)
		return err_set(e, -EIO, "'%s' became shorter while it was read", k->src.name);
	k->eof |= got < s->len;
	s->len = got;
	s->state = FULL;
	return 0;
}

static int fill(struct copy *k, struct err *e)
{
	struct slot *s = &k->slot[(k->first + k->used) % SLOTS];
	uint64_t left = k->src.bytes == UINT64_MAX ? SLOT_BYTES : k->src.bytes - k->next;

	s->off = k->next;
	s->len = (uint32_t)(left < SLOT_BYTES ? left : SLOT_BYTES);
	if (!k->src.r) {
		int r = read_file(k, s, e);
		if (r || !s->len)
			return r;
	} else {
		rw_cdb(&k->src, s, false);
		s->state = READING;
		int r = remote_submit(k->src.r, &s->cmd, e);
		if (r)
			return r;
	}
	k->next += s->len;
	k->eof |= k->src.bytes != UINT64_MAX && k->next == k->src.bytes;
	k->used++;
	return 0;
}

static bool is_zero(const uint8_t *p, size_t n)
{
	return !n || (!p[0] && !memcmp(p, p + 1, n - 1));
}

/* Holes stay holes in a new file. */
static int write_file(struct copy *k, struct slot *s, struct err *e)
{
	for (uint32_t at = 0; at < s->len;) {
		uint32_t n = s->len - at < HOLE ? s->len - at : HOLE;
		if (k->dst.zeroes && is_zero(s->buf + at, n)) {
			at += n;
			continue;
		}
		ssize_t w = k->dst.pipe ? write(k->dst.fd, s->buf + at, n)
			: pwrite(k->dst.fd, s->buf + at, n, (off_t)(s->off + at));
		if (w < 0 && errno != EINTR)
			return err_set(e, -errno, "writing '%s' at byte %llu: %s", k->dst.name,
				(unsigned long long)(s->off + at), strerror(errno));
		at += w > 0 ? (uint32_t)w : 0;
	}
	s->state = FREE;
	return 0;
}

static int empty(struct copy *k, struct slot *s, struct err *e)
{
	if (!k->dst.r)
		return write_file(k, s, e);
	uint32_t odd = s->len % k->dst.block;
	if (odd) { /* the end of a file that is no whole block */
		memset(s->buf + s->len, 0, k->dst.block - odd);
		s->len += k->dst.block - odd;
	}
	if (s->off + s->len > k->dst.bytes)
		return err_set(e, -ENOSPC, "'%s' holds only %llu bytes", k->dst.name, (unsigned long long)k->dst.bytes);
	rw_cdb(&k->dst, s, true);
	s->state = WRITING;
	return remote_submit(k->dst.r, &s->cmd, e);
}

/* Waits for one request of that end. */
static int await(struct end *n, enum state becomes, struct err *e)
{
	struct iscsi_ini_cmd *c = remote_next(n->r, e);
	struct slot *s = c ? c->ctx : NULL;

	if (!c)
		return -ECONNRESET;
	if (remote_sense(c) >> 16 == 6) { /* a unit attention tells of the past: the same again */
		rw_cdb(n, s, s->state == WRITING);
		return remote_submit(n->r, &s->cmd, e);
	}
	int r = remote_verdict(c, e);
	if (!r && becomes == FULL && c->in_got != s->len)
		r = err_set(e, -EIO, "'%s' sent %u of %u bytes", n->name, c->in_got, s->len);
	s->state = becomes;
	return r;
}

static void progress(struct copy *k, bool last)
{
	uint64_t now = now_ns(), done = k->done - k->from;
	double s = (double)(now - k->start_ns) / 1e9, rate = s > 0 ? (double)done / s : 0;
	char a[16], b[16];

	if (!k->show || (!last && now - k->shown_ns < 200000000))
		return;
	k->shown_ns = now;
	fprintf(stderr, "\r%s", show_bytes((json_int_t)k->done, a));
	if (k->total != UINT64_MAX && k->total)
		fprintf(stderr, " of %s, %3.0f%%", show_bytes((json_int_t)k->total, b),
			100.0 * (double)k->done / (double)k->total);
	fprintf(stderr, ", %s/s", show_bytes((json_int_t)rate, b));
	if (!last && k->total != UINT64_MAX && rate > 0)
		fprintf(stderr, ", %.0f s left", (double)(k->total - k->done) / rate);
	fprintf(stderr, last ? "          \n" : "     ");
}

/* The destination's session was lost since the last flush: what its target had not made safe may be lost with it. */
static int again_from_safe(struct copy *k, struct err *e)
{
	k->lost = remote_lost(k->dst.r);
	if (k->src.pipe)
		return err_set(e, -EIO, "'%s' was gone for a while, and what it had not stored cannot be read again from a pipe",
			k->dst.name);
	k->next = k->done = k->safe;
	k->eof = k->next == k->total;
	return 0;
}

/* What was written so far lasts from now on. */
static int flush(struct copy *k, struct err *e)
{
	/* Twice is well: again_from_safe() sees what was lost between. */
	struct iscsi_ini_cmd c = { .lun = remote_lun(k->dst.url.lun), .cdb = { 0x91 }, .retry = true };
	int r = k->dst.r ? remote_run(k->dst.r, &c, e) : 0;

	if (!k->dst.r && !k->dst.pipe && fsync(k->dst.fd))
		r = err_set(e, -errno, "'%s' did not reach the disk: %s", k->dst.name, strerror(errno));
	if (!r && k->dst.r && remote_lost(k->dst.r) != k->lost)
		return again_from_safe(k, e);
	k->safe = r ? k->safe : k->done;
	return r;
}

/* One step of the ring; 0 = goes on, 1 = all is done. It runs empty now and then, to be flushed. */
static int step(struct copy *k, struct err *e)
{
	int r = 0;

	while (!r && !k->eof && k->used < SLOTS && k->next - k->safe < SYNC_BYTES)
		r = fill(k, e);
	for (unsigned i = 0; !r && i < k->used; i++) {
		struct slot *s = &k->slot[(k->first + i) % SLOTS];
		if (s->state == FULL)
			r = empty(k, s, e);
		else if (s->state == READING)
			break; /* in order */
	}
	while (!r && k->used && k->slot[k->first].state == FREE) {
		k->done = k->slot[k->first].off + k->slot[k->first].len;
		k->first = (k->first + 1) % SLOTS;
		k->used--;
	}
	if (r || (!k->used && k->eof))
		return r ? r : 1;
	if (!k->used && k->next - k->safe >= SYNC_BYTES)
		return flush(k, e);
	if (!k->used || k->slot[k->first].state == FREE)
		return 0;
	return k->slot[k->first].state == READING ? await(&k->src, FULL, e) : await(&k->dst, FREE, e);
}

static int finish(struct copy *k, struct err *e)
{
	struct stat st;

	if (!k->dst.r && !k->dst.pipe && !fstat(k->dst.fd, &st) && S_ISREG(st.st_mode) &&
	    ftruncate(k->dst.fd, (off_t)k->done))
		return err_set(e, -errno, "cannot set the size of '%s': %s", k->dst.name, strerror(errno));
	return flush(k, e);
}

static int check(struct copy *k, struct err *e)
{
	if (k->from && (k->src.pipe || k->dst.pipe))
		return err_set(e, -EINVAL, "a pipe cannot be entered at --from");
	if (k->from % (k->src.block > k->dst.block ? k->src.block : k->dst.block))
		return err_set(e, -EINVAL, "--from %llu is no whole block", (unsigned long long)k->from);
	if (k->src.bytes != UINT64_MAX && k->dst.bytes < k->src.bytes)
		return err_set(e, -ENOSPC, "'%s' holds %llu bytes, '%s' has %llu", k->dst.name,
			(unsigned long long)k->dst.bytes, k->src.name, (unsigned long long)k->src.bytes);
	if (k->src.bytes != UINT64_MAX && k->from > k->src.bytes)
		return err_set(e, -EINVAL, "--from lies behind the end of '%s'", k->src.name);
	k->dst.zeroes &= !k->from;
	return 0;
}

static int run(struct copy *k, const char *src, const char *dst, struct err *e)
{
	int r = open_end(&k->src, src, false, e);

	r = r ? r : open_end(&k->dst, dst, true, e);
	r = r ? r : check(k, e);
	for (unsigned i = 0; !r && i < SLOTS; i++) {
		k->slot[i].buf = malloc(SLOT_BYTES + 65536);
		r = k->slot[i].buf ? 0 : err_set(e, -ENOMEM, "out of memory");
	}
	k->next = k->done = k->safe = k->from;
	k->total = k->src.bytes;
	k->eof = k->total == k->from;
	k->start_ns = now_ns();
	for (bool ended = false; !r && !ended;) {
		r = step(k, e);
		if (r == 1) {
			r = finish(k, e);
			ended = k->safe == k->done; /* else it goes on from where the destination is safe */
		}
		progress(k, false);
	}
	return r;
}

int cmd_cp(struct cli *c, int argc, char **argv)
{
	static struct copy k;
	struct err e = { 0 };
	char buf[600];
	if (argc != 3 || (c->from && parse_bytes(c->from, &k.from))) {
		fprintf(stderr, "lunette: usage: lunette cp [--from BYTES] SRC DST; each a file, - or iscsi://HOST/IQN/LUN\n");
		return CLI_USAGE;
	}
	k.show = isatty(2) && !c->json;
	int r = run(&k, argv[1], argv[2], &e);
	if (k.start_ns)
		progress(&k, true);
	close_end(&k.src);
	close_end(&k.dst);
	for (unsigned i = 0; i < SLOTS; i++)
		free(k.slot[i].buf);
	if (r < 0) {
		fprintf(stderr, "lunette: %s\n", err_str(&e, buf, sizeof(buf)));
		if (k.safe > k.from && !k.src.pipe && !k.dst.pipe)
			fprintf(stderr, "lunette: to go on: lunette cp --from %llu %s %s\n", (unsigned long long)k.safe, argv[1],
				argv[2]);
		return r == -EINVAL ? CLI_USAGE : r == -EACCES ? CLI_DENIED : r == -ENOENT ? CLI_NOT_FOUND : CLI_FAILED;
	}
	if (c->json)
		printf("{\n  \"bytes\": %llu\n}\n", (unsigned long long)(k.done - k.from));
	return CLI_OK;
}
