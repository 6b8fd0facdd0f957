/* SPDX-License-Identifier: BSD-3-Clause
 * Connections of `lunette check`: bytes and PDUs, and the rules for every PDU that a target sends. */
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "lunette/check/check.h"

enum { RX_STEP = 64 << 10 };

static int left_ms(struct check *k, uint64_t until)
{
	uint64_t now = check_now();

	if (now >= k->deadline)
		check_fail(k, "the case did not end in its time");
	until = MIN(until, k->deadline);
	return now >= until ? 0 : (int)((until - now) / 1000000u) + 1;
}

static uint64_t in_ms(int ms)
{
	return check_now() + (uint64_t)ms * 1000000u;
}

/* --- opening and closing */

static int connect_to(struct check *k, const struct addrinfo *ai)
{
	int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), one = 1, code = 0;
	socklen_t n = sizeof(code);

	if (fd < 0)
		return -1;
	if (connect(fd, ai->ai_addr, ai->ai_addrlen) < 0 && errno == EINPROGRESS) {
		struct pollfd p = { .fd = fd, .events = POLLOUT };
		if (poll(&p, 1, (int)k->timeout_ms) != 1)
			errno = ETIMEDOUT;
		else if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &n) == 0 && (errno = code) == 0)
			goto connected;
	} else if (errno == 0) {
		goto connected;
	}
	code = errno;
	close(fd);
	errno = code;
	return -1;
connected:
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return fd;
}

struct conn *dial_to(struct check *k, const char *host, const char *port)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *all, *ai;
	int r = getaddrinfo(host, port, &hints, &all), fd = -1;

	must(k, !r, "%s: %s", host, gai_strerror(r));
	for (ai = all; ai && fd < 0; ai = ai->ai_next) {
		errno = 0;
		fd = connect_to(k, ai);
	}
	freeaddrinfo(all);
	must(k, fd >= 0, "cannot connect to %s port %s: %s", host, port, strerror(errno));
	if (k->nconn == CHECK_CONNS)
		close(fd);
	must(k, k->nconn < CHECK_CONNS, "too many connections in one case");
	struct conn *c = check_alloc(k, sizeof(*c));
	*c = (struct conn){ .k = k, .fd = fd, .s = check_alloc(k, sizeof(struct session)), .recv_max = 8192, .send_max = 8192 };
	c->s->cmd_sn = 1;
	c->s->itt = 0x100;
	c->s->initial_r2t = c->s->immediate = true;
	c->s->first_burst = 65536;
	c->s->max_burst = 262144;
	c->s->max_r2t = c->s->max_conns = 1;
	new_isid(k, c->s->isid);
	k->conn[k->nconn++] = c;
	return c;
}

struct conn *dial(struct check *k)
{
	return dial_to(k, k->url->host, k->url->port);
}

void hang_up(struct conn *c, bool reset)
{
	struct linger now = { .l_onoff = 1 };

	if (c->fd < 0)
		return;
	if (reset)
		setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	close(c->fd);
	c->fd = -1;
	c->closed = true;
	free(c->rx);
	c->rx = NULL;
	c->nrx = c->room = 0;
}

/* --- bytes */

static void ended(struct conn *c, const char *why)
{
	c->closed = true;
	snprintf(c->why, sizeof(c->why), "%s", why);
}

/* Takes what is there. */
static void receive(struct conn *c)
{
	if (c->closed)
		return;
	if (c->room - c->nrx < RX_STEP) {
		c->room = c->room ? c->room * 2 : 2 * RX_STEP;
		must(c->k, c->room <= CHECK_MEMORY, "the target sends without end");
		uint8_t *more = realloc(c->rx, c->room);
		must(c->k, more, "out of memory");
		c->rx = more;
	}
	ssize_t n = recv(c->fd, c->rx + c->nrx, c->room - c->nrx, MSG_DONTWAIT);
	if (n > 0)
		c->nrx += (size_t)n;
	else if (n == 0)
		ended(c, "closed by the target");
	else if (errno != EAGAIN && errno != EINTR)
		ended(c, strerror(errno));
}

/* Reads meanwhile, or two full buffers would wait for each other. */
void put_bytes(struct conn *c, const void *p, size_t n)
{
	const uint8_t *at = p;
	uint64_t until = in_ms((int)c->k->timeout_ms);

	while (n && c->fd >= 0 && !c->closed) {
		ssize_t m = send(c->fd, at, n, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (m > 0) {
			at += m;
			n -= (size_t)m;
			until = in_ms((int)c->k->timeout_ms);
			continue;
		}
		if (m < 0 && errno != EAGAIN && errno != EINTR)
			return; /* what it still sent is there to be read */
		struct pollfd f = { .fd = c->fd, .events = POLLIN | POLLOUT };
		int ms = left_ms(c->k, until);
		must(c->k, ms, "the target takes no more bytes for %u s", c->k->timeout_ms / 1000);
		if (poll(&f, 1, ms) > 0 && (f.revents & ~POLLOUT))
			receive(c);
	}
}

/* --- PDUs out */

static bool numbered(uint8_t op)
{
	return op == ISCSI_NOP_OUT || op == ISCSI_SCSI_CMD || op == ISCSI_TMF_REQ || op == ISCSI_TEXT_REQ ||
		op == ISCSI_LOGOUT_REQ;
}

static void number(struct conn *c, struct req *r)
{
	uint8_t op = r->h[0] & OP_MASK;

	if (!r->own_itt && op != ISCSI_DATA_OUT && op != ISCSI_SNACK)
		put_be32(r->h + BHS_ITT, c->s->itt++);
	if (!r->own_sn && numbered(op)) {
		put_be32(r->h + BHS_CMD_SN, c->s->cmd_sn);
		if (!(r->h[0] & OP_IMMEDIATE))
			c->s->cmd_sn++;
	}
	if (!r->own_exp && op != ISCSI_LOGIN_REQ)
		put_be32(r->h + BHS_EXP_STAT_SN, c->hold ? c->held : c->exp_stat);
	if (op == ISCSI_SCSI_CMD && (r->h[BHS_FLAGS] & CMD_WRITE)) {
		unsigned at = c->s->nwrite++ % ARRAY_LEN(c->s->write);
		c->s->write[at].itt = be32(r->h + BHS_ITT);
		c->s->write[at].edtl = be32(r->h + CMD_EDTL);
	}
	if (!r->own_len)
		put_be24(r->h + BHS_DATA_LEN, r->len);
	r->h[BHS_AHS_LEN] = (uint8_t)(r->ahs_len / 4);
}

static void put_digest(uint8_t *p, uint32_t crc)
{
	put_le32(p, crc);
}

static void trace(const struct conn *c, const char *way, const uint8_t *h, uint32_t len)
{
	unsigned n = 0;

	if (!c->k->trace || !c->k->c)
		return;
	while (n < c->k->nconn && c->k->conn[n] != c)
		n++;
	fprintf(stderr, "%u %s op=%02x b1=%02x b2=%02x b3=%02x len=%u lun=%016llx itt=%08x", n, way, h[0], h[1], h[2], h[3],
		len,
		(unsigned long long)be64(h + BHS_LUN), be32(h + BHS_ITT));
	for (unsigned i = 20; i < ISCSI_BHS; i += 4)
		fprintf(stderr, " %x", be32(h + i));
	fprintf(stderr, "\n");
}

size_t pack(struct conn *c, struct req *r, uint8_t **ret)
{
	number(c, r);
	size_t head = ISCSI_BHS + r->ahs_len, n = 0;
	uint8_t *b = check_alloc(c->k, head + pad4(r->len) + 8);

	memcpy(b, r->h, ISCSI_BHS);
	if (r->ahs_len)
		memcpy(b + ISCSI_BHS, r->ahs, r->ahs_len);
	n = head;
	if (c->hd) {
		put_digest(b + n, crc32c(0, b, head) ^ r->flip_header);
		n += 4;
	}
	if (r->len && !r->no_data) {
		memcpy(b + n, r->data, r->len);
		if (c->dd)
			put_digest(b + n + pad4(r->len), crc32c(0, b + n, pad4(r->len)) ^ r->flip_data);
		n += pad4(r->len) + (c->dd ? 4 : 0);
	}
	trace(c, ">", b, r->len);
	*ret = b;
	return n;
}

uint32_t put(struct conn *c, struct req *r)
{
	uint8_t *b;
	size_t n = pack(c, r, &b);

	put_bytes(c, b, n);
	return be32(r->h + BHS_ITT);
}

/* --- PDUs in */

static const struct { uint8_t op; const char *name; } names[] = {
	{ ISCSI_NOP_IN, "NOP-In" }, { ISCSI_SCSI_RSP, "SCSI Response" }, { ISCSI_TMF_RSP, "Task Management Function Response" },
	{ ISCSI_LOGIN_RSP, "Login Response" }, { ISCSI_TEXT_RSP, "Text Response" }, { ISCSI_DATA_IN, "Data-In" },
	{ ISCSI_LOGOUT_RSP, "Logout Response" }, { ISCSI_R2T, "R2T" }, { ISCSI_ASYNC, "Asynchronous Message" },
	{ ISCSI_REJECT, "Reject" },
};

const char *pdu_name(uint8_t op)
{
	for (unsigned i = 0; i < ARRAY_LEN(names); i++)
		if (names[i].op == op)
			return names[i].name;
	return "an unknown opcode";
}

const char *pdu_words(struct conn *c, const struct pdu *p)
{
	char *s = check_alloc(c->k, 160);
	uint8_t key, asc, ascq;

	sense_of(p, &key, &asc, &ascq);
	switch (p->op) {
	case ISCSI_SCSI_RSP:
		snprintf(s, 160, "SCSI Response, response %02x status %02x sense %x/%02x/%02x", p->h[RSP_RESPONSE],
		p->h[RSP_STATUS],
			key, asc, ascq);
		break;
	case ISCSI_REJECT:
		snprintf(s, 160, "Reject with reason %02x", p->h[REJECT_REASON]);
		break;
	case ISCSI_TMF_RSP: case ISCSI_LOGOUT_RSP:
		snprintf(s, 160, "%s, response %u", pdu_name(p->op), p->h[RSP_RESPONSE]);
		break;
	case ISCSI_LOGIN_RSP:
		snprintf(s, 160, "Login Response, status %04x", be16(p->h + LOGIN_CLASS));
		break;
	case ISCSI_ASYNC:
		snprintf(s, 160, "Asynchronous Message, event %u", p->h[ASYNC_EVENT]);
		break;
	default:
		snprintf(s, 160, "%s (%02x)", pdu_name(p->op), p->op);
	}
	return s;
}

/* --- rules for all of them */

static bool advances(const struct pdu *p)
{
	switch (p->op) {
	case ISCSI_SCSI_RSP: case ISCSI_TMF_RSP: case ISCSI_TEXT_RSP: case ISCSI_LOGOUT_RSP: case ISCSI_ASYNC:
	case ISCSI_REJECT:
	case ISCSI_LOGIN_RSP:
		return true;
	case ISCSI_DATA_IN:
		return p->h[BHS_FLAGS] & DATA_STATUS_VALID;
	case ISCSI_NOP_IN:
		return be32(p->h + BHS_ITT) != ISCSI_NO_TAG;
	}
	return false;
}

static void judge_stat_sn(struct conn *c, const struct pdu *p)
{
	uint32_t sn = be32(p->h + BHS_STAT_SN);

	if (!advances(p) && p->op != ISCSI_R2T && p->op != ISCSI_NOP_IN)
		return; /* StatSN is reserved in Data-In without status */
	if (!c->numbered && c->full) {
		if (advances(p) && (int32_t)(sn + 1 - c->exp_stat) > 0)
			c->exp_stat = sn + 1;
		return;
	}
	if (c->numbered && sn != c->exp_stat)
		check_every(c->k, EVERY_STATSN, "%s has StatSN %#x, %#x was due", pdu_words(c, p), sn, c->exp_stat);
	c->exp_stat = advances(p) ? sn + 1 : c->exp_stat;
	c->numbered = true;
}

static void judge_window(struct conn *c, const struct pdu *p)
{
	uint32_t exp = be32(p->h + BHS_EXP_CMD_SN), max = be32(p->h + BHS_MAX_CMD_SN);

	if (!c->full)
		return;
	if (sn_lt(max, exp - 1)) {
		check_every(c->k, EVERY_WINDOW, "%s: MaxCmdSN %#x below ExpCmdSN %#x - 1", pdu_name(p->op), max, exp);
		return;
	}
	if (c->window_known && (sn_lt(exp, c->last_exp) || sn_lt(max, c->last_max)))
		check_every(c->k, EVERY_WINDOW_BACK, "%s: ExpCmdSN %#x and MaxCmdSN %#x after %#x and %#x", pdu_name(p->op),
			exp, max,
			c->last_exp, c->last_max);
	c->last_exp = exp;
	c->last_max = max;
	c->window_known = true;
	struct session *s = c->s;
	if (!s->window || sn_lt(s->exp_cmd, exp))
		s->exp_cmd = exp;
	if (!s->window || sn_lt(s->max_cmd, max))
		s->max_cmd = max;
	s->window = true;
}

static void judge_form(struct conn *c, const struct pdu *p)
{
	struct check *k = c->k;

	if (strcmp(pdu_name(p->op), "an unknown opcode") == 0)
		check_every(k, EVERY_OPCODE, "opcode %02x", p->op);
	if (p->h[BHS_AHS_LEN])
		check_every(k, EVERY_NO_AHS, "%s with TotalAHSLength %u", pdu_name(p->op), p->h[BHS_AHS_LEN]);
	/* 13.12 bounds every data segment but those of the login phase, whose limit is 8192 (6.3) */
	if (c->full && p->len > c->recv_max)
		check_every(k, EVERY_SEGMENT, "%s with %u bytes, %u declared", pdu_name(p->op), p->len, c->recv_max);
	if ((p->op == ISCSI_TMF_RSP || p->op == ISCSI_LOGOUT_RSP || p->op == ISCSI_R2T) && p->len)
		check_every(k, EVERY_NO_DATA, "%s with %u bytes of data", pdu_name(p->op), p->len);
	if ((p->op == ISCSI_SCSI_RSP || p->op == ISCSI_TMF_RSP || p->op == ISCSI_LOGOUT_RSP || p->op == ISCSI_R2T ||
			p->op == ISCSI_NOP_IN || p->op == ISCSI_ASYNC || p->op == ISCSI_REJECT) &&
			!(p->h[BHS_FLAGS] & FLAG_FINAL))
		check_every(k, EVERY_FINAL, "%s with byte 1 = %02x", pdu_name(p->op), p->h[BHS_FLAGS]);
	if (p->op == ISCSI_R2T && be32(p->h + BHS_TTT) == ISCSI_NO_TAG)
		check_every(k, EVERY_TTT, "an R2T with the reserved Target Transfer Tag");
	uint8_t event = p->h[ASYNC_EVENT];
	if (p->op == ISCSI_ASYNC && (be32(p->h + BHS_ITT) != ISCSI_NO_TAG || (event > 5 && event < 248)))
		check_every(k, EVERY_ASYNC, "event %u, Initiator Task Tag %#x", event, be32(p->h + BHS_ITT));
	if (p->op == ISCSI_REJECT && (be32(p->h + BHS_ITT) != ISCSI_NO_TAG || p->len < ISCSI_BHS))
		check_every(k, EVERY_REJECT, "reason %02x, Initiator Task Tag %#x, %u bytes of data", p->h[REJECT_REASON],
			be32(p->h + BHS_ITT), p->len);
}

/* Cases answer R2Ts out of buffers as long as the command. */
static void judge_r2t(struct conn *c, const struct pdu *p)
{
	uint32_t itt = be32(p->h + BHS_ITT), off = be32(p->h + R2T_OFFSET), len = be32(p->h + R2T_LEN);
	struct session *s = c->s;
	unsigned n = MIN(s->nwrite, (unsigned)ARRAY_LEN(s->write)), at = s->nwrite, i = 0;

	while (i < n && s->write[(at - i - 1) % ARRAY_LEN(s->write)].itt != itt)
		i++;
	uint32_t edtl = i < n ? s->write[(at - i - 1) % ARRAY_LEN(s->write)].edtl : 0;
	must(c->k, off <= edtl && len <= edtl - off, "an R2T for %u bytes at %u of a command of %u", len, off, edtl);
}

/* A whole PDU out of the bytes, or NULL. */
static struct pdu *parse(struct conn *c)
{
	if (c->nrx < ISCSI_BHS)
		return NULL;
	uint8_t *b = c->rx;
	size_t head = ISCSI_BHS + (size_t)b[BHS_AHS_LEN] * 4, at = head + (c->hd ? 4 : 0);
	uint32_t len = bhs_data_len(b);
	size_t all = at + pad4(len) + (c->dd && len ? 4 : 0);

	if (c->nrx < all)
		return NULL;
	struct pdu *p = check_alloc(c->k, sizeof(*p));
	memcpy(p->h, b, ISCSI_BHS);
	p->op = b[0] & OP_MASK;
	p->len = len;
	p->data = check_alloc(c->k, len + 1u);
	memcpy(p->data, b + at, len);
	if (c->hd && crc32c(0, b, head) != le32(b + head)) {
		check_every(c->k, EVERY_HEADER_DIGEST, "%s", pdu_name(p->op));
		p->bad_digest = true;
	}
	if (c->dd && len && crc32c(0, b + at, pad4(len)) != le32(b + at + pad4(len))) {
		check_every(c->k, EVERY_DATA_DIGEST, "%s of %u bytes", pdu_name(p->op), len);
		p->bad_digest = true;
	}
	memmove(c->rx, c->rx + all, c->nrx - all);
	c->nrx -= all;
	trace(c, "<", p->h, len);
	judge_form(c, p);
	if (p->op == ISCSI_R2T)
		judge_r2t(c, p);
	judge_stat_sn(c, p);
	judge_window(c, p);
	return p;
}

/* The target asks whether we live, 11.18: answer with its tag. */
static bool answer_ping(struct conn *c, const struct pdu *p)
{
	if (c->see_pings || p->op != ISCSI_NOP_IN || be32(p->h + BHS_ITT) != ISCSI_NO_TAG)
		return false;
	if (be32(p->h + BHS_TTT) == ISCSI_NO_TAG)
		return true; /* only tells numbers */
	struct req r = with_itt(immediate(req(ISCSI_NOP_OUT, FLAG_FINAL)), ISCSI_NO_TAG);
	memcpy(r.h + BHS_LUN, p->h + BHS_LUN, 8);
	memcpy(r.h + BHS_TTT, p->h + BHS_TTT, 4);
	put(c, &r);
	return true;
}

static struct pdu *take(struct conn *c)
{
	struct pdu *p = c->inbox;

	if (!p)
		return NULL;
	c->inbox = p->next;
	if (!c->inbox)
		c->inbox_end = &c->inbox;
	return p;
}

/* Whole PDUs go to the inbox; pings are answered. */
static void sort(struct conn *c)
{
	struct pdu *p;

	if (!c->inbox)
		c->inbox_end = &c->inbox;
	while ((p = parse(c)) != NULL) {
		if (answer_ping(c, p))
			continue;
		*c->inbox_end = p;
		c->inbox_end = &p->next;
	}
}

/* Sleeps until one of the case's connections has something; others than c only in full feature phase, where a target may
 * ask them for acknowledgments (4.2.2.3.3) before it answers on c. */
static void listen_all(struct check *k, struct conn *c, int ms)
{
	struct pollfd f[CHECK_CONNS];
	struct conn *of[CHECK_CONNS];
	nfds_t n = 0;

	for (unsigned i = 0; i < k->nconn; i++) {
		struct conn *o = k->conn[i];
		if (o->fd < 0 || o->closed || (o != c && (!o->full || o->deaf)))
			continue;
		of[n] = o;
		f[n++] = (struct pollfd){ .fd = o->fd, .events = POLLIN };
	}
	if (poll(f, n, ms) <= 0)
		return;
	for (nfds_t i = 0; i < n; i++) {
		if (!f[i].revents)
			continue;
		receive(of[i]);
		if (of[i] != c)
			sort(of[i]);
	}
}

/* Parses one PDU at a time: what the case does with it may decide how the next is read. */
struct pdu *poll_pdu(struct conn *c, int ms)
{
	uint64_t until = in_ms(ms);

	for (;;) {
		struct pdu *p = take(c);
		if (p)
			return p;
		p = parse(c);
		if (p && !answer_ping(c, p))
			return p;
		if (p)
			continue;
		if (c->closed || c->fd < 0)
			return NULL;
		int left = left_ms(c->k, until);
		if (!left)
			return NULL;
		listen_all(c->k, c, left);
	}
}

struct pdu *next(struct conn *c)
{
	struct pdu *p = poll_pdu(c, (int)c->k->timeout_ms);

	must(c->k, p || !c->closed, "the connection ended (%s) instead of an answer", c->why);
	must(c->k, p, "no answer within %u s", c->k->timeout_ms / 1000);
	return p;
}

struct pdu *want(struct conn *c, uint8_t op)
{
	struct pdu *p = next(c);

	must(c->k, p->op == op, "a %s was due, %s came", pdu_name(op), pdu_words(c, p));
	return p;
}

struct pdu *want_itt(struct conn *c, uint8_t op, uint32_t itt)
{
	struct pdu *p = want(c, op);

	must(c->k, be32(p->h + BHS_ITT) == itt, "%s for Initiator Task Tag %#x, %#x was due", pdu_name(op),
		be32(p->h + BHS_ITT),
		itt);
	return p;
}

bool gone(struct conn *c, int ms)
{
	uint64_t until = in_ms(ms);

	while (!c->closed && check_now() < until)
		poll_pdu(c, left_ms(c->k, until));
	return c->closed;
}

void quiet(struct conn *c, int ms)
{
	struct pdu *p = poll_pdu(c, ms);

	must(c->k, !p, "nothing may come, %s came", p ? pdu_words(c, p) : "");
	must(c->k, !c->closed, "nothing may come, the connection ended (%s)", c->why);
}
