/* SPDX-License-Identifier: BSD-3-Clause
 * The server over TCP: two I/O loops in threads of their own, a RAM disk behind a gate that holds requests, and
 * initiators on plain sockets. Once over io_uring, once over epoll. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "iscsi/pdu.h"
#include "loop/round.h"
#include "net/net.h"

enum { LOOPS = 2, HELD = 64, CONTROL = LIM_LOOPS - 1 };
#define TARGET "iqn.2026-01.test:net"

static const struct loop_backend *backend;
static struct loop *control;
static pthread_t thread[LOOPS];
static struct lu *lu;
static struct scsi_target *device;
static struct net_portal *portal;

/* --- a gate in front of the disk --- */

static struct {
	pthread_mutex_t lock;
	bool            shut;
	struct blk     *blk;
	struct blk_io  *held[HELD];
	unsigned        n;
} gate = { .lock = PTHREAD_MUTEX_INITIALIZER };

static void gate_pass(struct task *t)
{
	blk_pass(gate.blk, container_of(t, struct blk_io, task));
}

static void gate_submit(struct blk *b, struct blk_io *io)
{
	pthread_mutex_lock(&gate.lock);
	bool hold = gate.shut;
	if (hold) {
		assert_true(gate.n < HELD);
		gate.held[gate.n++] = io;
	}
	pthread_mutex_unlock(&gate.lock);
	if (!hold)
		blk_pass(b, io);
}

static void gate_shut(void)
{
	pthread_mutex_lock(&gate.lock);
	gate.shut = true;
	pthread_mutex_unlock(&gate.lock);
}

static void gate_open(void)
{
	pthread_mutex_lock(&gate.lock);
	gate.shut = false;
	for (; gate.n; gate.n--) {
		struct blk_io *io = gate.held[gate.n - 1];
		io->task.run = gate_pass;
		loop_post(io->loop, &io->task);
	}
	pthread_mutex_unlock(&gate.lock);
}

/* Until n requests stand before the gate. */
static void gate_wait(unsigned n)
{
	for (unsigned held = 0; held < n; usleep(1000)) {
		pthread_mutex_lock(&gate.lock);
		held = gate.n;
		pthread_mutex_unlock(&gate.lock);
	}
}

static const struct blk_ops gate_ops = { .name = "gate", .filter = true, .submit = gate_submit };

/* --- the server --- */

static void set_true(void *ctx)
{
	*(bool *)ctx = true;
}

static void until(const bool *flag)
{
	while (!*flag)
		loop_turn(control, loop_now_ns(control) + 5000000);
}

static uint64_t from_now_ns(uint64_t ms)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec + ms * 1000000;
}

static int identity(void *ctx, const char *name, bool volatile_, uint8_t id[16], struct err *e)
{
	memset(id, 0x5a, 16);
	return 0;
}

static int load(void *ctx, const uint8_t id[16], const char *what, void *buf, size_t len)
{
	return -ENOENT;
}

static int save(void *ctx, const uint8_t id[16], const char *what, const void *buf, size_t len)
{
	return 0;
}

static void *loop_main(void *arg)
{
	loop_run(arg);
	return NULL;
}

static void set_target(void)
{
	struct net_target_conf c = { .name = TARGET, .device = device };
	struct err e = { 0 };

	iscsi_offer_defaults(&c.offer);
	assert_int_equal(net_target_set(&c, &e), 0);
}

static void open_disk(void)
{
	static struct lu_store store = { identity, load, save, NULL, NULL };
	struct lu_conf lc = { .bs = 512, .wce = true };
	struct err e = { 0 };
	uint64_t size = 4 << 20;
	struct blk *ram;

	assert_int_equal(blk_open(&ram, blk_find("ram"), &size, NULL, &e), 0);
	assert_int_equal(blk_open(&gate.blk, &gate_ops, NULL, ram, &e), 0);
	store.control = control;
	assert_int_equal(lu_open(&lu, &lu_disk, "disk", &lc, gate.blk, &store, &e), 0);
	device = scsi_target_new(TARGET);
	struct scsi_lun map = { 0, lu };
	bool done = false;
	scsi_target_set_luns(device, &map, 1, set_true, &done);
	until(&done);
}

static int setup(void **state)
{
	struct err e = { 0 };

	gate.shut = false;
	assert_int_equal(page_arena_init(256 << 20, &e), 0);
	control = loop_new(&loop_epoll, CONTROL, &e);
	loop_group.n = LOOPS;
	for (unsigned i = 0; i < LOOPS; i++) {
		loop_group.loop[i] = loop_new(backend, i, &e);
		assert_non_null(loop_group.loop[i]);
		loop_set_spin(loop_group.loop[i], 0);
	}
	assert_int_equal(scsi_init(control, &e), 0);
	assert_int_equal(net_init(control, &e), 0);
	for (unsigned i = 0; i < LOOPS; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, loop_main, loop_group.loop[i]), 0);
	open_disk();
	set_target();
	assert_int_equal(net_portal_add(&portal, "127.0.0.1:0", 1, NULL, &e), 0);
	return 0;
}

static unsigned cut;

static void drained(void *ctx, unsigned forced)
{
	cut = forced;
	set_true(ctx);
}

/* What a drain left, ends; and nothing was lost or kept. */
static void take_down(void)
{
	bool gone = false, unmapped = false, closed = false;

	gate_open();
	assert_int_equal(net_target_remove(TARGET, set_true, &gone), 0);
	until(&gone);
	scsi_target_set_luns(device, NULL, 0, set_true, &unmapped);
	until(&unmapped);
	lu_close(lu, set_true, &closed);
	until(&closed);
	scsi_target_free(device);
	for (unsigned i = 0; i < LOOPS; i++)
		loop_stop(loop_group.loop[i]);
	for (unsigned i = 0; i < LOOPS; i++)
		pthread_join(thread[i], NULL);
	net_fini();
	scsi_fini();
	for (unsigned i = 0; i < LOOPS; i++)
		loop_free(loop_group.loop[i]);
	loop_free(control);
	loop_group.n = 0;
	work_fini();
	assert_int_equal(page_used_bytes(), 0);
	page_arena_fini();
}

static bool is_drained;

static void drain(uint64_t ms)
{
	bool done = false;

	net_drain(from_now_ns(ms), drained, &done);
	until(&done);
	is_drained = true;
}

static int teardown(void **state)
{
	gate_open();
	if (!is_drained)
		drain(0);
	is_drained = false;
	take_down();
	return 0;
}

/* --- an initiator --- */

struct client {
	int      fd;
	uint32_t cmd_sn, itt;
};
struct pdu {
	uint8_t  h[48];
	uint8_t  data[70000];
	uint32_t len;
};

static void dial(struct client *c)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct timeval limit = { .tv_sec = 20 };

	a.sin_port = htons((uint16_t)atoi(strrchr(net_portal_name(portal), ':') + 1));
	*c = (struct client){ .fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), .cmd_sn = 1, .itt = 1 };
	setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	assert_int_equal(connect(c->fd, (struct sockaddr *)&a, sizeof(a)), 0);
}

static void put(struct client *c, uint8_t h[48], const void *data, uint32_t len)
{
	static const uint8_t zero[4];

	put_be24(h + BHS_DATA_LEN, len);
	assert_int_equal(send(c->fd, h, 48, MSG_NOSIGNAL), 48);
	if (len)
		assert_int_equal(send(c->fd, data, len, MSG_NOSIGNAL), len);
	if (len % 4)
		assert_int_equal(send(c->fd, zero, 4 - len % 4, MSG_NOSIGNAL), 4 - len % 4);
}

static bool take(struct client *c, void *to, size_t n)
{
	uint8_t *p = to;

	while (n) {
		ssize_t k = recv(c->fd, p, n, MSG_WAITALL);
		if (k < 0 && errno == EINTR) /* io_uring wakes threads this way */
			continue;
		if (k <= 0)
			return false;
		p += k;
		n -= (size_t)k;
	}
	return true;
}

/* False: the connection is at its end. */
static bool next(struct client *c, struct pdu *p)
{
	if (!take(c, p->h, 48))
		return false;
	p->len = bhs_data_len(p->h);
	assert_true(pad4(p->len) <= sizeof(p->data));
	return take(c, p->data, pad4(p->len));
}

static struct pdu pdu;

static void expect(struct client *c, uint8_t opcode)
{
	assert_true(next(c, &pdu));
	assert_int_equal(pdu.h[0], opcode);
}

/* Whatever still comes, then the end of the stream. Returns how many PDUs of that opcode there were. */
static unsigned expect_end(struct client *c, uint8_t opcode)
{
	unsigned n = 0;

	while (next(c, &pdu))
		n += pdu.h[0] == opcode;
	close(c->fd);
	return n;
}

static void ask_login(struct client *c, uint8_t isid, const char *more, size_t more_len)
{
	static const char name[] = "InitiatorName=iqn.2026-01.test:client\0TargetName=" TARGET;
	uint8_t h[48] = { ISCSI_LOGIN_REQ | OP_IMMEDIATE, LOGIN_TRANSIT | 1 << 2 | 3 };
	char text[512];

	memcpy(text, name, sizeof(name));
	if (more_len)
		memcpy(text + sizeof(name), more, more_len);
	h[LOGIN_ISID] = 0x80;
	h[LOGIN_ISID + 5] = isid;
	put_be32(h + BHS_CMD_SN, c->cmd_sn);
	put(c, h, text, (uint32_t)(sizeof(name) + more_len));
}

static uint16_t login_status(struct client *c)
{
	expect(c, ISCSI_LOGIN_RSP);
	return be16(pdu.h + LOGIN_CLASS);
}

static uint32_t command(struct client *c, uint8_t flags, uint32_t edtl, const uint8_t cdb[16], const void *data,
	uint32_t len)
{
	uint8_t h[48] = { ISCSI_SCSI_CMD, flags | FLAG_FINAL };

	put_be32(h + BHS_ITT, ++c->itt);
	put_be32(h + CMD_EDTL, edtl);
	put_be32(h + BHS_CMD_SN, c->cmd_sn++);
	memcpy(h + CMD_CDB, cdb, 16);
	put(c, h, data, len);
	return c->itt;
}

static uint32_t rw(struct client *c, bool write, uint8_t lba, const void *data, uint32_t len)
{
	uint8_t cdb[16] = { write ? 0x2a : 0x28, 0, 0, 0, 0, lba, 0, 0, 8 };

	return command(c, write ? CMD_WRITE : CMD_READ, 4096, cdb, data, len);
}

static void full_login(struct client *c, uint8_t isid)
{
	dial(c);
	ask_login(c, isid, NULL, 0);
	assert_int_equal(login_status(c), 0);
	command(c, 0, 0, (uint8_t[16]){ 0 }, NULL, 0); /* takes the unit attention of a new nexus */
	expect(c, ISCSI_SCSI_RSP);
}

static void expect_good(struct client *c, uint32_t itt)
{
	expect(c, ISCSI_SCSI_RSP);
	assert_int_equal(be32(pdu.h + BHS_ITT), itt);
	assert_int_equal(pdu.h[RSP_STATUS], 0);
}

static void expect_block(struct client *c, uint8_t lba, uint8_t byte)
{
	uint8_t want[4096];

	memset(want, byte, sizeof(want));
	rw(c, false, lba, NULL, 0);
	expect(c, ISCSI_DATA_IN);
	assert_int_equal(pdu.len, 4096);
	assert_memory_equal(pdu.data, want, 4096);
}

static void ask_logout(struct client *c)
{
	uint8_t h[48] = { ISCSI_LOGOUT_REQ | OP_IMMEDIATE, FLAG_FINAL };

	put_be32(h + BHS_ITT, ++c->itt);
	put_be32(h + BHS_CMD_SN, c->cmd_sn);
	put(c, h, NULL, 0);
}

static void logout(struct client *c)
{
	ask_logout(c);
	expect(c, ISCSI_LOGOUT_RSP);
	assert_int_equal(expect_end(c, 0), 0);
}

/* --- the tests --- */

/* Sessions on both loops write, read what the other wrote, and log out. */
static void test_two_sessions(void **state)
{
	struct client c[2];
	uint8_t data[4096];

	for (uint8_t i = 0; i < 2; i++) {
		full_login(&c[i], i);
		memset(data, 0x10 + i, sizeof(data));
		expect_good(&c[i], rw(&c[i], true, (uint8_t)(8 * i), data, 4096));
	}
	for (uint8_t i = 0; i < 2; i++) {
		expect_block(&c[i], (uint8_t)(8 - 8 * i), 0x11 - i);
		logout(&c[i]);
	}
}

/* Session reinstatement (6.3.5): the old session's commands end before the new one is admitted, so that a write of
 * the old never lands on one of the new; the old connection is closed without answers. */
static void test_reinstatement(void **state)
{
	struct client old, new;
	uint8_t data[4096];

	full_login(&old, 1);
	memset(data, 0xaa, sizeof(data));
	gate_shut();
	rw(&old, true, 0, data, 4096);
	for (int i = 0; i < 4; i++)
		rw(&old, false, 16, NULL, 0);
	gate_wait(5);
	rw(&old, true, 24, NULL, 0); /* its data never comes */
	expect(&old, ISCSI_R2T);
	dial(&new);
	ask_login(&new, 1, NULL, 0);
	assert_int_equal(expect_end(&old, ISCSI_SCSI_RSP), 0);
	gate_open();
	assert_int_equal(login_status(&new), 0);
	command(&new, 0, 0, (uint8_t[16]){ 0 }, NULL, 0);
	expect(&new, ISCSI_SCSI_RSP);
	memset(data, 0xbb, sizeof(data));
	expect_good(&new, rw(&new, true, 0, data, 4096));
	expect_block(&new, 0, 0xbb);
	expect_block(&new, 24, 0);
	logout(&new);
}

/* Many logins for one ISID at once: each ends the one before, the last one stays, nobody waits for ever. */
static void test_reinstatement_race(void **state)
{
	enum { N = 12 };
	struct client c[N];
	unsigned alive = 0;

	for (int i = 0; i < N; i++) {
		dial(&c[i]);
		ask_login(&c[i], 2, NULL, 0);
	}
	for (int i = 0; i < N; i++) {
		bool in = next(&c[i], &pdu) && be16(pdu.h + LOGIN_CLASS) == 0;
		uint8_t nop[48] = { ISCSI_NOP_OUT | OP_IMMEDIATE, FLAG_FINAL };
		put_be32(nop + BHS_ITT, 5);
		put_be32(nop + BHS_TTT, ISCSI_NO_TAG);
		put_be32(nop + BHS_CMD_SN, 1);
		send(c[i].fd, nop, 48, MSG_NOSIGNAL);
		alive += in && next(&c[i], &pdu) && pdu.h[0] == ISCSI_NOP_IN;
	}
	assert_true(alive >= 1);
	for (int i = 0; i < N; i++)
		close(c[i].fd);
}

static unsigned sessions_in_the_end(void)
{
	struct net_stats st;

	for (int i = 0; i < 2000; i++) {
		net_stats(&st);
		if (!st.connections && !st.sessions)
			break;
		usleep(1000);
	}
	return st.sessions;
}

/* Logins that wait for the session they reinstate, whose disk hangs, and whose connections go meanwhile: each is given a
 * session that the next one ends; every one of these ends once (6.3.5). */
static void test_waiting_logins_go(void **state)
{
	enum { N = 6 };
	struct client old, c[N];
	uint8_t data[4096] = { 0 };

	full_login(&old, 1);
	gate_shut();
	rw(&old, true, 0, data, 4096);
	gate_wait(1);
	for (int i = 0; i < N; i++) {
		dial(&c[i]);
		ask_login(&c[i], 1, NULL, 0);
	}
	assert_int_equal(expect_end(&old, ISCSI_SCSI_RSP), 0);
	net_portal_remove(portal, true);
	for (int i = 0; i < N; i++)
		expect_end(&c[i], 0);
	gate_open();
	assert_int_equal(sessions_in_the_end(), 0);
}

static uint64_t first_id;
static unsigned nsessions;

static void listed(void *ctx, const struct net_session_info *s, unsigned n)
{
	nsessions = n;
	first_id = n ? s[0].id : 0;
	set_true(ctx);
}

static bool kick_found;

static void kicked(void *ctx, bool found)
{
	kick_found = found;
	set_true(ctx);
}

static bool kick(uint64_t id)
{
	bool done = false;

	net_session_kick(id, kicked, &done);
	until(&done);
	return kick_found;
}

/* A kick closes the session that it names, with commands in flight, and no other. */
static void test_kick(void **state)
{
	struct client c;
	bool done = false;

	full_login(&c, 1);
	net_sessions(listed, &done);
	until(&done);
	assert_int_equal(nsessions, 1);
	assert_false(kick(first_id + 1000));
	gate_shut();
	rw(&c, false, 0, NULL, 0);
	gate_wait(1);
	assert_true(kick(first_id));
	assert_int_equal(expect_end(&c, ISCSI_DATA_IN), 0);
	gate_open();
	full_login(&c, 1);
	logout(&c);
}

/* Removal of a target under I/O: its initiators are asked to log out (11.9.1) and then cut, gone() comes when nothing
 * of them is left, and a target of the same name can come back meanwhile. */
static void test_target_removal(void **state)
{
	struct client c, late;
	bool gone = false, gone_again = false;
	uint8_t data[4096] = { 0 };

	full_login(&c, 1);
	gate_shut();
	rw(&c, true, 0, data, 4096);
	gate_wait(1);
	net_target_remove(TARGET, set_true, &gone);
	expect(&c, ISCSI_ASYNC);
	assert_int_equal(pdu.h[ASYNC_EVENT], 1);
	dial(&late);
	ask_login(&late, 2, NULL, 0);
	assert_int_equal(login_status(&late), LOGIN_REMOVED);
	close(late.fd);
	assert_int_equal(expect_end(&c, ISCSI_SCSI_RSP), 0);
	assert_false(gone);
	set_target();
	dial(&late); /* the same initiator port: the new session waits for the old one's write */
	ask_login(&late, 1, NULL, 0);
	loop_turn(control, loop_now_ns(control) + 50000000);
	assert_false(gone);
	gate_open();
	until(&gone);
	assert_int_equal(login_status(&late), 0);
	gate_shut();
	rw(&late, false, 0, NULL, 0); /* ends with the unit attention, not at the gate */
	expect(&late, ISCSI_SCSI_RSP);
	rw(&late, false, 0, NULL, 0);
	gate_wait(1);
	net_target_remove(TARGET, set_true, &gone_again);
	expect(&late, ISCSI_ASYNC);
	logout(&late);
	assert_false(gone_again);
	gate_open();
	until(&gone_again);
	set_target();
}

/* Logout with commands outstanding (11.14): the response comes, the commands are not answered after it, and the next
 * session of that initiator port begins when they have ended. */
static void test_logout_busy(void **state)
{
	struct client c, again;
	uint8_t data[4096];

	full_login(&c, 1);
	gate_shut();
	memset(data, 0x77, sizeof(data));
	rw(&c, true, 0, data, 4096);
	rw(&c, false, 8, NULL, 0);
	gate_wait(2);
	logout(&c);
	dial(&again);
	ask_login(&again, 1, NULL, 0);
	gate_open();
	assert_int_equal(login_status(&again), 0);
	command(&again, 0, 0, (uint8_t[16]){ 0 }, NULL, 0);
	expect(&again, ISCSI_SCSI_RSP);
	logout(&again);
}

/* TARGET COLD RESET (11.5.1, SAM-5 hard reset): answered when what ran has ended, then every connection of the target
 * is closed; who logs in again finds a unit attention. */
static void test_cold_reset(void **state)
{
	struct client a, b;
	uint8_t tmf[48] = { ISCSI_TMF_REQ | OP_IMMEDIATE, FLAG_FINAL | TMF_COLD_RESET };
	uint8_t nop[48] = { ISCSI_NOP_OUT | OP_IMMEDIATE, FLAG_FINAL };

	full_login(&a, 1);
	full_login(&b, 2);
	gate_shut();
	rw(&b, false, 0, NULL, 0);
	rw(&a, false, 0, NULL, 0);
	gate_wait(2);
	put_be32(tmf + BHS_ITT, 0x500);
	put_be32(tmf + TMF_REF_TAG, ISCSI_NO_TAG);
	put_be32(tmf + BHS_CMD_SN, a.cmd_sn);
	put(&a, tmf, NULL, 0);
	put_be32(nop + BHS_ITT, 0x501);
	put_be32(nop + BHS_TTT, ISCSI_NO_TAG);
	put_be32(nop + BHS_CMD_SN, a.cmd_sn);
	put(&a, nop, NULL, 0);
	expect(&a, ISCSI_NOP_IN); /* so the function has begun, and waits */
	gate_open();
	expect(&a, ISCSI_TMF_RSP);
	assert_int_equal(pdu.h[RSP_RESPONSE], TMF_RSP_COMPLETE);
	assert_int_equal(expect_end(&a, ISCSI_DATA_IN), 0);
	expect_end(&b, 0);
	dial(&a);
	ask_login(&a, 1, NULL, 0);
	assert_int_equal(login_status(&a), 0);
	command(&a, 0, 0, (uint8_t[16]){ 0 }, NULL, 0);
	expect(&a, ISCSI_SCSI_RSP);
	assert_int_equal(pdu.h[RSP_STATUS], 2);
	assert_int_equal(pdu.data[2 + 2] & 0xf, 6);
	logout(&a);
}

/* A drain asks for logout, answers every command in flight before it closes, and cuts nobody. */
static void test_drain(void **state)
{
	struct client c;
	bool done = false;

	full_login(&c, 1);
	gate_shut();
	for (int i = 0; i < 8; i++)
		rw(&c, false, 0, NULL, 0);
	gate_wait(8);
	net_drain(from_now_ns(20000), drained, &done);
	expect(&c, ISCSI_ASYNC);
	assert_int_equal(pdu.h[ASYNC_EVENT], 1);
	gate_open();
	assert_int_equal(expect_end(&c, ISCSI_DATA_IN), 8);
	until(&done);
	is_drained = true;
	assert_int_equal(cut, 0);
}

/* A drain ends although a disk hangs and an initiator never sends its data: what is left at the deadline is cut. */
static void test_drain_hangs(void **state)
{
	struct client c, waiting;

	full_login(&c, 1);
	full_login(&waiting, 2);
	gate_shut();
	rw(&c, false, 0, NULL, 0);
	gate_wait(1);
	rw(&waiting, true, 0, NULL, 0);
	expect(&waiting, ISCSI_R2T);
	drain(1500);
	assert_true(cut >= 1);
	expect_end(&c, 0);
	expect_end(&waiting, 0);
}

/* A portal may go as soon as it came; its port is free again. */
static void test_portal_comes_and_goes(void **state)
{
	struct err e = { 0 };
	struct client c;

	for (int i = 0; i < 200; i++) {
		struct net_portal *p;
		assert_int_equal(net_portal_add(&p, "127.0.0.1:0", 2, NULL, &e), 0);
		net_portal_remove(p, true);
	}
	full_login(&c, 1);
	logout(&c);
}

/* SendTargets in a discovery session tells the target and its portals (4.3, appendix C). */
static void test_discovery(void **state)
{
	static const char who[] = "InitiatorName=iqn.2026-01.test:client\0SessionType=Discovery";
	uint8_t h[48] = { ISCSI_LOGIN_REQ | OP_IMMEDIATE, LOGIN_TRANSIT | 1 << 2 | 3 };
	uint8_t text[48] = { ISCSI_TEXT_REQ | OP_IMMEDIATE, FLAG_FINAL };
	char want[256];
	struct client c;

	dial(&c);
	h[LOGIN_ISID] = 0x80;
	put_be32(h + BHS_CMD_SN, 1);
	put(&c, h, who, sizeof(who));
	assert_int_equal(login_status(&c), 0);
	put_be32(text + BHS_ITT, 9);
	put_be32(text + BHS_TTT, ISCSI_NO_TAG);
	put_be32(text + BHS_CMD_SN, 1);
	put(&c, text, "SendTargets=All", 16);
	expect(&c, ISCSI_TEXT_RSP);
	int n = snprintf(want, sizeof(want), "TargetName=" TARGET "%cTargetAddress=%s,1%c", 0, net_portal_name(portal), 0);
	assert_int_equal(pdu.len, n);
	assert_memory_equal(pdu.data, want, (size_t)n);
	logout(&c);
}

/* Peers that say nothing, half a header or nonsense, or vanish in the middle of a write, leave nothing behind. */
static void test_rude_peers(void **state)
{
	struct client c[4];
	uint8_t junk[48], cdb[16] = { 0x2a, 0, 0, 0, 0, 0, 0, 0, 128 }, h[48] = { ISCSI_SCSI_CMD, FLAG_FINAL | CMD_WRITE };

	memset(junk, 0xff, sizeof(junk));
	for (int i = 0; i < 3; i++)
		dial(&c[i]);
	assert_int_equal(send(c[1].fd, junk, 20, MSG_NOSIGNAL), 20);
	assert_int_equal(send(c[2].fd, junk, 48, MSG_NOSIGNAL), 48);
	assert_int_equal(expect_end(&c[2], 0), 0);
	full_login(&c[3], 1);
	put_be24(h + BHS_DATA_LEN, 65536);
	put_be32(h + BHS_ITT, 88);
	put_be32(h + CMD_EDTL, 65536);
	put_be32(h + BHS_CMD_SN, c[3].cmd_sn);
	memcpy(h + CMD_CDB, cdb, 16);
	assert_int_equal(send(c[3].fd, h, 48, MSG_NOSIGNAL), 48);
	assert_int_equal(send(c[3].fd, pdu.data, 10000, MSG_NOSIGNAL), 10000);
	close(c[0].fd);
	close(c[1].fd);
	close(c[3].fd);
	full_login(&c[0], 1);
	expect_block(&c[0], 0, 0);
	logout(&c[0]);
}

static bool available(const struct loop_backend *be)
{
	struct err e = { 0 };
	bool ok = page_arena_init(64 << 20, &e) == 0;
	struct loop *l = ok ? loop_new(be, 0, &e) : NULL;

	ok = l != NULL;
	loop_free(l);
	page_arena_fini();
	return ok;
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		T(test_two_sessions), T(test_reinstatement), T(test_reinstatement_race), T(test_waiting_logins_go), T(test_kick),
		T(test_target_removal), T(test_logout_busy), T(test_cold_reset), T(test_drain), T(test_drain_hangs),
		T(test_portal_comes_and_goes), T(test_discovery), T(test_rude_peers),
	};
	int failed = 0;

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	backend = &loop_epoll;
	failed += cmocka_run_group_tests_name("epoll", tests, NULL, NULL);
	backend = &loop_uring;
	if (available(backend))
		failed += cmocka_run_group_tests_name("io_uring", tests, NULL, NULL);
	return failed;
}
