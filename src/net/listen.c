/* SPDX-License-Identifier: BSD-3-Clause
 * Portals: sockets that listen, and which loop serves what they accept. */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/check.h"
#include "base/log.h"
#include "net/impl.h"

enum { BACKLOG = 4096, ACCEPT_AGAIN_NS = 100000000, PORT_DEFAULT = 3260 };
enum { BIND_STEP_NS = 25000000, BIND_LOOK = 4, BIND_STEPS = 80 };

void addr_text(const union addr *a, char out[ADDR_TEXT])
{
	char host[INET6_ADDRSTRLEN] = "?";

	if (a->sa.sa_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&a->in6.sin6_addr)) {
		inet_ntop(AF_INET, a->in6.sin6_addr.s6_addr + 12, host, sizeof(host));
		snprintf(out, ADDR_TEXT, "%s:%u", host, ntohs(a->in6.sin6_port));
	} else if (a->sa.sa_family == AF_INET6) {
		inet_ntop(AF_INET6, &a->in6.sin6_addr, host, sizeof(host));
		snprintf(out, ADDR_TEXT, "[%s]:%u", host, ntohs(a->in6.sin6_port));
	} else if (a->sa.sa_family == AF_INET) {
		inet_ntop(AF_INET, &a->in.sin_addr, host, sizeof(host));
		snprintf(out, ADDR_TEXT, "%s:%u", host, ntohs(a->in.sin_port));
	} else {
		snprintf(out, ADDR_TEXT, "?");
	}
}

void addr_mapped(const union addr *a, uint8_t out[16])
{
	memset(out, 0, 16);
	if (a->sa.sa_family == AF_INET6) {
		memcpy(out, &a->in6.sin6_addr, 16);
		return;
	}
	out[10] = out[11] = 0xff;
	memcpy(out + 12, &a->in.sin_addr, 4);
}

/* Splits "host", "host:port", "[v6]:port", "[v6]" or a bare v6 address. */
static int split(const char *s, char *host, size_t room, char *port, size_t proom, struct err *e)
{
	const char *end, *colon;

	if (*s == '[') {
		end = strchr(s, ']');
		if (!end || (end[1] && end[1] != ':'))
			return err_set(e, -EINVAL, "listen address '%s': write an IPv6 address as [addr]:port", s);
		colon = end[1] ? end + 1 : NULL;
		s++;
	} else {
		colon = strchr(s, ':');
		if (colon && strchr(colon + 1, ':'))
			colon = NULL;
		end = colon ? colon : s + strlen(s);
	}
	if ((size_t)(end - s) >= room || (colon && strlen(colon + 1) >= proom))
		return err_set(e, -EINVAL, "listen address '%s' is too long", s);
	memcpy(host, s, (size_t)(end - s));
	host[end - s] = 0;
	if (colon)
		snprintf(port, proom, "%s", colon + 1);
	return 0;
}

int addr_parse(const char *s, uint16_t dflt, union addr *ret, struct err *e)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST | AI_PASSIVE | AI_NUMERICSERV };
	struct addrinfo *ai;
	char host[128], port[8];

	snprintf(port, sizeof(port), "%u", dflt);
	int r = split(s, host, sizeof(host), port, sizeof(port), e);
	if (r < 0)
		return r;
	char *stop;
	unsigned long n = strtoul(port, &stop, 10);
	if (*stop || !*port || n > 65535)
		return err_set(e, -EINVAL, "listen address '%s': port '%s' is not a number from 0 to 65535", s, port);
	if (!strcmp(host, "localhost"))
		snprintf(host, sizeof(host), "127.0.0.1");
	r = getaddrinfo(*host ? host : NULL, port, &hints, &ai);
	if (r)
		return err_set(e, -EINVAL, "listen address '%s' is not an IP address; give one such as "
			"127.0.0.1:3260 or [::]:3260", s);
	memcpy(&ret->ss, ai->ai_addr, ai->ai_addrlen);
	freeaddrinfo(ai);
	return 0;
}

static socklen_t addr_len(const union addr *a)
{
	return a->sa.sa_family == AF_INET6 ? sizeof(a->in6) : sizeof(a->in);
}

/* The inode of the socket that listens at this port, 0 when not found. */
static unsigned long listener_inode(uint16_t port)
{
	static const char *const files[] = { "/proc/net/tcp", "/proc/net/tcp6" };
	unsigned long inode = 0;

	for (unsigned i = 0; i < ARRAY_LEN(files) && !inode; i++) {
		FILE *f = fopen(files[i], "re");
		char line[512];
		while (f && fgets(line, sizeof(line), f)) {
			unsigned p, state;
			unsigned long ino;
			if (sscanf(line, " %*d: %*[0-9A-Fa-f]:%x %*[0-9A-Fa-f]:%*x %x %*s %*s %*s %*s %*s %lu", &p, &state,
				    &ino) == 3 && p == port && state == 0x0a)
				inode = ino;
		}
		if (f)
			fclose(f);
	}
	return inode;
}

static bool holds(const char *pid, unsigned long inode)
{
	char path[600], link[64], want[64];
	bool found = false;

	snprintf(want, sizeof(want), "socket:[%lu]", inode);
	snprintf(path, sizeof(path), "/proc/%s/fd", pid);
	DIR *d = opendir(path);
	for (struct dirent *de; d && !found && (de = readdir(d));) {
		snprintf(path, sizeof(path), "/proc/%s/fd/%s", pid, de->d_name);
		ssize_t n = readlink(path, link, sizeof(link) - 1);
		if (n > 0) {
			link[n] = 0;
			found = !strcmp(link, want);
		}
	}
	if (d)
		closedir(d);
	return found;
}

/* " by NAME (pid N)" when that can be known, else "". */
static void holder(uint16_t port, char *out, size_t room)
{
	unsigned long inode = listener_inode(port);
	DIR *d = inode ? opendir("/proc") : NULL;

	*out = 0;
	for (struct dirent *de; d && !*out && (de = readdir(d));) {
		if (de->d_name[0] < '1' || de->d_name[0] > '9' || !holds(de->d_name, inode))
			continue;
		char path[600], comm[64] = "?";
		snprintf(path, sizeof(path), "/proc/%s/comm", de->d_name);
		FILE *f = fopen(path, "re");
		if (f && fgets(comm, sizeof(comm), f))
			comm[strcspn(comm, "\n")] = 0;
		if (f)
			fclose(f);
		snprintf(out, room, " by %s (pid %.20s)", comm, de->d_name);
	}
	if (d)
		closedir(d);
}

static int bind_error(const char *addr, const union addr *a, int code, struct err *e)
{
	uint16_t port = ntohs(a->sa.sa_family == AF_INET6 ? a->in6.sin6_port : a->in.sin_port);
	char who[128];

	if (code == EADDRINUSE) {
		holder(port, who, sizeof(who));
		return err_set(e, -code, "port %u is in use%s; stop it, or choose another port with --listen ADDR:PORT",
			port, who);
	}
	if (code == EADDRNOTAVAIL)
		return err_set(e, -code, "no network interface has the address of '%s'; 'ip addr' lists those that exist", addr);
	if (code == EACCES)
		return err_set(e, -code, "no permission to listen at port %u; ports below 1024 need root", port);
	return err_set(e, -code, "cannot listen at '%s': %s", addr, strerror(code));
}

/* The port of a process that was killed is held for some moments more, while the kernel ends its I/O: nobody holds it
 * then, and it is worth waiting for. */
static int bind_patiently(int fd, const union addr *a)
{
	const struct timespec pause = { .tv_nsec = BIND_STEP_NS };
	uint16_t port = ntohs(a->sa.sa_family == AF_INET6 ? a->in6.sin6_port : a->in.sin_port);
	char who[128] = "", self[32];

	snprintf(self, sizeof(self), "(pid %d)", (int)getpid()); /* a portal that was removed a moment ago */
	for (unsigned i = 0;; i++) {
		if (bind(fd, &a->sa, addr_len(a)) == 0)
			return 0;
		if (errno != EADDRINUSE || i == BIND_STEPS)
			return -1;
		if (i == BIND_LOOK)
			holder(port, who, sizeof(who));
		errno = EADDRINUSE;
		if (who[0] && !strstr(who, self))
			return -1;
		nanosleep(&pause, NULL);
	}
}

static int open_listener(const char *addr, union addr *a, struct err *e)
{
	int one = 1, fd = socket(a->sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return err_set(e, -errno, "cannot make a socket for '%s': %s", addr, strerror(errno));
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (a->sa.sa_family == AF_INET6) /* so that 0.0.0.0 and [::] of one port can be two portals */
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
	socklen_t len = sizeof(a->ss);
	if (bind_patiently(fd, a) < 0 || listen(fd, BACKLOG) < 0 || getsockname(fd, &a->sa, &len) < 0) {
		int r = bind_error(addr, a, errno, e);
		close(fd);
		return r;
	}
	return fd;
}

/* --- home --- */

static void accept_next(struct net_portal *p);

static void accept_again(struct timer *t)
{
	accept_next(container_of(t, struct net_portal, again));
}

/* The loop with the fewest connections; among equals the one after the last taken. */
static unsigned choose_loop(void)
{
	unsigned best = UINT32_MAX;

	for (unsigned i = 0; i < loop_group.n; i++) {
		unsigned k = (net.last_loop + 1 + i) % loop_group.n;
		if (best == UINT32_MAX || net.load[k] < net.load[best])
			best = k;
	}
	net.last_loop = best;
	return best;
}

static void run_start(struct task *t)
{
	stream_start(container_of(t, struct net_conn, start));
}

static void hand_out(struct net_portal *p, int fd)
{
	struct net_conn *c = calloc(1, sizeof(*c));

	if (!c) {
		close(fd);
		return;
	}
	socklen_t len = sizeof(c->peer);
	if (!loop_sim_fd(fd))
		getpeername(fd, &c->peer.sa, &len);
	if (!guard_enter(c, p)) {
		if (!loop_sim_fd(fd))
			close(fd);
		free(c);
		return;
	}
	unsigned k = choose_loop();
	net.load[k]++;
	net.live++;
	c->load_at = k;
	c->loop = loop_group.loop[k];
	list_init(&c->in_session);
	c->fd = fd;
	c->tpgt = p->tpgt;
	c->portal_id = p->id;
	c->start.run = run_start;
	loop_post(c->loop, &c->start);
}

static void portal_end(struct net_portal *p)
{
	loop_forget(net.home, p->fd);
	if (!loop_sim_fd(p->fd))
		close(p->fd);
	list_del(&p->node);
	free(p);
}

static void accepted(struct op *op)
{
	struct net_portal *p = container_of(op, struct net_portal, op);

	p->accepting = false;
	if (p->closing) {
		if (op->res >= 0)
			close(op->res);
		portal_end(p);
		return;
	}
	if (op->res >= 0) {
		hand_out(p, op->res);
		accept_next(p);
	} else if (op->res == -EMFILE || op->res == -ENFILE || op->res == -ENOMEM || op->res == -ENOBUFS) {
		log_warn("accept refused portal=%s reason=%s", p->name, strerror(-op->res));
		loop_timer_set(net.home, &p->again, loop_now_ns(net.home) + ACCEPT_AGAIN_NS);
	} else {
		accept_next(p);
	}
}

static void accept_next(struct net_portal *p)
{
	p->op = (struct op){ .kind = OP_ACCEPT, .fd = p->fd, .done = accepted };
	p->accepting = true;
	loop_submit(net.home, &p->op);
}

static void portal_start(struct task *t)
{
	struct net_portal *p = container_of(t, struct net_portal, start);

	list_add_tail(&net.portals, &p->node);
	accept_next(p);
}

static void portal_stop(struct net_portal *p)
{
	if (p->closing)
		return;
	p->closing = true;
	loop_timer_clear(net.home, &p->again);
	if (p->accepting)
		loop_cancel(net.home, &p->op);
	else
		portal_end(p);
}

/* Its connections are asked to log out: initiators come back over another portal. */
struct evict { uint64_t id; };

static void evict_leg(struct round_leg *leg, void *ctx)
{
	const struct evict *ev = ctx;
	struct net_conn *c, *tmp;

	list_for_each_safe(c, tmp, &net.loops[loop_index(leg->loop)].conns, node)
		if (c->portal_id == ev->id)
			leave_ask(c, false, "portal removed");
	round_leg_done(leg);
}

static void evicted(void *ctx)
{
	free(ctx);
}

static void portal_stop_task(struct task *t)
{
	struct net_portal *p = container_of(t, struct net_portal, stop);
	struct evict *ev = p->evict ? calloc(1, sizeof(*ev)) : NULL;

	if (ev) { /* out of memory: they stay */
		ev->id = p->id;
		round_start(net.home, evict_leg, evicted, ev);
	}
	portal_stop(p);
}

struct net_portal *portal_by_id(uint64_t id)
{
	struct net_portal *p;

	list_for_each(p, &net.portals, node)
		if (p->id == id)
			return p;
	return NULL;
}

void portal_stop_all(void)
{
	struct net_portal *p, *tmp;

	list_for_each_safe(p, tmp, &net.portals, node)
		portal_stop(p);
}

/* --- control thread --- */

int net_portal_add_fd(struct net_portal **ret, int fd, const struct sockaddr *sa, uint16_t tpgt,
	const char *advertise, struct err *e)
{
	struct net_portal *p = calloc(1, sizeof(*p));

	if (!p)
		return err_set(e, -ENOMEM, "out of memory");
	p->fd = fd;
	memcpy(&p->addr.ss, sa, sa->sa_family == AF_INET6 ? sizeof(p->addr.in6) : sizeof(p->addr.in));
	p->tpgt = tpgt;
	addr_text(&p->addr, p->name);
	snprintf(p->advertise, sizeof(p->advertise), "%s", advertise ? advertise : "");
	p->again.fire = accept_again;
	p->start.run = portal_start;
	p->stop.run = portal_stop_task;
	static uint64_t next_id;
	p->id = ++next_id;
	list_init(&p->node);
	*ret = p;
	loop_post(net.home, &p->start);
	return 0;
}

int net_portal_add(struct net_portal **ret, const char *addr, uint16_t tpgt, const char *advertise, struct err *e)
{
	union addr a = { 0 }, adv;
	int r = addr_parse(addr, PORT_DEFAULT, &a, e);

	if (r < 0)
		return r;
	if (advertise && addr_parse(advertise, PORT_DEFAULT, &adv, e) < 0)
		return -EINVAL;
	char adv_text[ADDR_TEXT];
	if (advertise)
		addr_text(&adv, adv_text);
	int fd = open_listener(addr, &a, e);
	if (fd < 0)
		return fd;
	r = net_portal_add_fd(ret, fd, &a.sa, tpgt, advertise ? adv_text : NULL, e);
	if (r < 0)
		close(fd);
	return r;
}

struct redirect { struct task task; uint64_t id; char addr[ADDR_TEXT]; bool permanent; };

static void run_redirect(struct task *t)
{
	struct redirect *r = container_of(t, struct redirect, task);
	struct net_portal *p = portal_by_id(r->id);

	if (p) {
		memcpy(p->redirect, r->addr, sizeof(p->redirect));
		p->redirect_permanent = r->permanent;
	}
	free(r);
}

int net_portal_redirect(struct net_portal *p, const char *addr, bool permanent, struct err *e)
{
	struct redirect *r = calloc(1, sizeof(*r));

	if (!r)
		return err_set(e, -ENOMEM, "out of memory");
	r->id = p->id;
	r->permanent = permanent;
	snprintf(r->addr, sizeof(r->addr), "%s", addr ? addr : "");
	r->task.run = run_redirect;
	loop_post(net.home, &r->task);
	return 0;
}

void net_portal_remove(struct net_portal *p, bool evict)
{
	p->evict = evict;
	loop_post(net.home, &p->stop);
}

const char *net_portal_name(const struct net_portal *p)
{
	return p->name;
}
