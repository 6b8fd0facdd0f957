/* SPDX-License-Identifier: BSD-3-Clause */
#include "server.h"

#include <errno.h>
#include <netinet/in.h>
#include <openssl/rand.h>
#include <string.h>

#include "block/driver/file.h"
#include "loop/round.h"
#include "loop/sim.h"
#include "net/net.h"

/* In place of libcrypto's: what the server draws (StatSN, challenges) comes from the seed as well. */
int RAND_bytes(unsigned char *p, int n)
{
	while (n-- > 0)
		*p++ = (unsigned char)sim_random(256);
	return 1;
}

/* --- a block driver over a simulated descriptor: file.c without the opening --- */

struct simfile_conf { uint64_t fd, bytes; };

static int simfile_open(struct blk *b, const void *conf, struct err *e)
{
	const struct simfile_conf *c = conf;
	(void)e;
	fileio_init(b, (int)c->fd);
	b->caps |= BLK_CAN_DISCARD;
	b->block_bytes = 1;
	b->phys_bytes = 512;
	return fileio_size(b, c->bytes);
}

static void simfile_close(struct blk *b)
{
	(void)b;
}

static const struct conf_field no_fields[] = { { 0 } };
static const struct blk_ops simfile = {
	.name = "simfile",
	.priv_bytes = sizeof(struct file),
	.conf_bytes = sizeof(struct simfile_conf),
	.config = no_fields,
	.open = simfile_open,
	.close = simfile_close,
	.submit = fileio_submit,
};

/* --- life --- */

static struct {
	struct server_conf conf;
	struct loop *control;
	struct scsi_target *device;
	struct lu *lu;
	struct net_portal *portal;
	int disk, listener;
	bool mapped, drained, gone, closed;
} s;

static int no_identity(void *ctx, const char *name, bool volatile_, uint8_t id[16], struct err *e)
{
	memset(id, 7, 16);
	return 0;
}

static int no_load(void *ctx, const uint8_t id[16], const char *what, void *buf, size_t len)
{
	return -ENOENT;
}

static int no_save(void *ctx, const uint8_t id[16], const char *what, const void *buf, size_t len)
{
	return 0;
}

static struct lu_store store = { .identity = no_identity, .load = no_load, .save = no_save };

static bool is_set(void *ctx)
{
	return *(bool *)ctx;
}

static void set(void *ctx)
{
	*(bool *)ctx = true;
}

static void wait_for(bool *flag, const char *what)
{
	if (!sim_run_until(is_set, flag, sim_now_ns() + 600 * SIM_S))
		test_fail("the server never got there: %s", what);
}

static struct loop *new_loop(unsigned index)
{
	struct err e = { 0 };
	struct loop *l = loop_new(&loop_sim, index, &e);
	if (!l)
		test_fail("%s", e.text);
	return l;
}

static void must(int rc, const struct err *e)
{
	if (rc)
		test_fail("%s", e->text);
}

static void open_disk(void)
{
	struct err e = { 0 };
	struct blk *b;
	struct simfile_conf c = { (uint64_t)s.disk, SERVER_DISK_BYTES };
	uint64_t ram_bytes = SERVER_DISK_BYTES; /* the RAM disk's configuration */
	struct lu_conf lc = { .bs = 512, .wce = s.conf.wce };
	if (s.conf.ram)
		must(blk_open(&b, blk_find("ram"), &ram_bytes, NULL, &e), &e);
	else
		must(blk_open(&b, &simfile, &c, NULL, &e), &e);
	store.control = s.control;
	must(lu_open(&s.lu, &lu_disk, "disk", &lc, b, &store, &e), &e);
}

static void open_portal(void)
{
	struct err e = { 0 };
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_port = htons(SERVER_PORT),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct net_target_conf t = { .name = SERVER_TARGET, .device = s.device, .offer = s.conf.offer };
	static const struct net_user user = { .name = SERVER_USER, .secret = SERVER_SECRET };
	static const struct net_user self = { .name = SERVER_NAME, .secret = SERVER_NAME_SECRET };
	if (s.conf.chap) {
		t.users = &user;
		t.nusers = 1;
		t.mutual = &self;
	}
	must(net_target_set(&t, &e), &e);
	s.listener = sim_listen(SERVER_PORT);
	must(net_portal_add_fd(&s.portal, s.listener, (struct sockaddr *)&in, 1, NULL, &e), &e);
}

void server_start(const struct server_conf *c, int disk_fd)
{
	struct err e = { 0 };
	memset(&s, 0, sizeof(s));
	s.conf = *c;
	s.disk = disk_fd;
	s.control = new_loop(c->loops);
	loop_group.n = c->loops;
	for (unsigned i = 0; i < c->loops; i++)
		loop_group.loop[i] = new_loop(i);
	must(scsi_init(s.control, &e), &e);
	must(net_init(s.control, &e), &e);
	open_disk();
	s.device = scsi_target_new(SERVER_TARGET);
	struct scsi_lun lun = { 0, s.lu };
	scsi_target_set_luns(s.device, &lun, 1, set, &s.mapped);
	wait_for(&s.mapped, "LUNs mapped");
	open_portal();
}

static void drained(void *ctx, unsigned forced)
{
	set(ctx);
}

static void take_down(uint64_t drain_ns)
{
	bool unmapped = false;
	net_drain(sim_now_ns() + drain_ns, drained, &s.drained);
	wait_for(&s.drained, "drained");
	if (net_target_remove(SERVER_TARGET, set, &s.gone) == 0)
		wait_for(&s.gone, "target removed");
	scsi_target_set_luns(s.device, NULL, 0, set, &unmapped);
	wait_for(&unmapped, "LUNs unmapped");
	scsi_target_free(s.device);
	lu_close(s.lu, set, &s.closed);
	wait_for(&s.closed, "disk closed");
	sim_run_until(NULL, NULL, sim_now_ns() + 10 * SIM_MS); /* what was posted last */
	net_fini();
	scsi_fini();
	for (unsigned i = 0; i < loop_group.n; i++)
		loop_free(loop_group.loop[i]);
	loop_free(s.control);
	loop_group.n = 0;
}

int server_kill(bool power)
{
	int fd = sim_disk_crash(s.disk, power);
	sim_disk_conf(s.disk, &(struct sim_disk_conf){ 0 });
	sim_kill_listener(s.listener);
	take_down(0);
	return fd;
}

void server_stall(uint64_t ns)
{
	for (unsigned i = 0; i < loop_group.n; i++)
		sim_stall(loop_group.loop[i], ns);
	if (loop_group.n)
		sim_stall(s.control, ns);
}

void server_stop(void)
{
	take_down(SIM_S);
}
