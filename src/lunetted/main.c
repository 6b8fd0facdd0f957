/* SPDX-License-Identifier: BSD-3-Clause
 * lunetted: the daemon. Starts everything in order, then runs the control loop until a signal ends it. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "api/api.h"
#include "base/log.h"
#include "block/filter/filter.h"
#include "conf/reconcile.h"
#include "lunetted/cores.h"
#include "lunetted/flags.h"
#include "lunetted/howto.h"
#include "lunetted/notify.h"
#include "net/net.h"

enum {
	EXIT_USAGE = 2,
	DRAIN_NS = 3500000000u, /* sessions get this long; the rest of DRAIN_LIMIT_US is for disks to end */
	DRAIN_LIMIT_US = 4800000,
	RETRY_NS = 100000000,
	SECRET_MIN = 12,
};

struct daemon {
	struct flags flags;
	struct loop *control;
	struct store *store;
	struct server *server;
	struct api *api;
	struct op signal_op;
	int signal_pipe[2];
	struct timer reload_retry;
	bool ready, stopping;
	int status;
};

static void say(const struct err *e)
{
	char text[ERR_TEXT_MAX + ERR_PATH_MAX];

	fprintf(stderr, "lunetted: %s\n", err_str(e, text, sizeof(text)));
}

/* A disk or address of the command line has no path in a file: say what the person typed. */
static void say_start(struct daemon *d, struct err *e)
{
	unsigned n;
	int used = 0;

	if (sscanf(e->path, "volumes/lun%u%n", &n, &used) == 1 && n < d->flags.ndisks)
		snprintf(e->path, sizeof(e->path), "disk %u", n);
	else if (!d->flags.config)
		e->path[0] = 0;
	say(e);
}

/* --- reload ------------------------------------------------------------------------------------------- */

static void notify_reloading(void)
{
	struct timespec ts;
	char text[80];

	clock_gettime(CLOCK_MONOTONIC, &ts);
	snprintf(text, sizeof(text), "RELOADING=1\nMONOTONIC_USEC=%lld",
		(long long)ts.tv_sec * 1000000 + ts.tv_nsec / 1000);
	notify_state(text);
}

static void reload(struct daemon *d)
{
	char text[ERR_TEXT_MAX + ERR_PATH_MAX];
	struct err e = { 0 };
	struct conf c;

	if (d->stopping || !d->ready)
		return;
	notify_reloading();
	int r = flags_load(&d->flags, &c, &e);
	if (r == 0) {
		r = server_apply(d->server, &c, &e);
		if (r < 0)
			conf_free(&conf_root_type, &c);
	}
	if (r == -EAGAIN) {
		loop_timer_set(d->control, &d->reload_retry, loop_now_ns(d->control) + RETRY_NS);
		return;
	}
	if (r < 0) {
		log_error("configuration refused, nothing changed: %s", err_str(&e, text, sizeof(text)));
		notify_state("READY=1");
	}
}

static void reload_again(struct timer *t)
{
	reload(container_of(t, struct daemon, reload_retry));
}

/* --- stopping ----------------------------------------------------------------------------------------- */

/* Runs when the drain took too long, on whichever thread still runs. */
static void overdue(int sig)
{
	static const char text[] = "<3>drain not finished, a disk or a session hangs; ending\n";

	(void)sig;
	(void)!write(STDERR_FILENO, text, sizeof(text) - 1);
	_exit(1);
}

static void stopped(void *ctx, unsigned forced)
{
	struct daemon *d = ctx;

	log_info("drained connections_cut=%u", forced);
	loop_stop(d->control);
}

static void stop(struct daemon *d, int sig)
{
	if (d->stopping)
		return;
	d->stopping = true;
	notify_state("STOPPING=1");
	log_info("draining signal=%s", sigabbrev_np(sig));
	server_stop(d->server, loop_now_ns(d->control) + DRAIN_NS, stopped, d);
}

/* --- signals: a thread waits for them, so that an end comes in time also when a disk holds up the control thread -- */

static sigset_t handled_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	return set;
}

enum { AGAIN_MS = 500 }; /* who starts a program in a group (timeout, make) may end it twice with one intent */

static uint64_t monotonic_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static void *signal_main(void *arg)
{
	static const struct itimerval limit = {
		.it_value = { DRAIN_LIMIT_US / 1000000, DRAIN_LIMIT_US % 1000000 },
	};
	sigset_t set = handled_signals();
	int sig, out = *(const int *)arg;
	uint64_t ending = 0;

	while (sigwait(&set, &sig) == 0) {
		uint8_t byte = (uint8_t)sig;
		if (sig != SIGHUP && ending && monotonic_ms() - ending < AGAIN_MS)
			continue;
		if (sig != SIGHUP && ending) { /* a second Ctrl-C: now */
			fprintf(stderr, "lunetted: ended without draining\n");
			_exit(1);
		}
		if (sig != SIGHUP) {
			ending = monotonic_ms();
			setitimer(ITIMER_REAL, &limit, NULL);
		}
		if (write(out, &byte, 1) != 1)
			log_warn("signal lost number=%d", sig);
	}
	return NULL;
}

/* On the control loop. */
static void on_signal(struct op *op)
{
	struct daemon *d = op->ctx;
	uint8_t sig;

	while (read(op->fd, &sig, 1) == 1) {
		if (sig == SIGHUP)
			reload(d);
		else
			stop(d, sig);
	}
	loop_submit(d->control, op);
}

static int watch_signals(struct daemon *d, struct err *e)
{
	pthread_t thread;

	if (pipe2(d->signal_pipe, O_CLOEXEC | O_NONBLOCK) < 0)
		return err_set(e, -errno, "cannot make a pipe: %s", strerror(errno));
	d->signal_op = (struct op){ .kind = OP_POLL, .fd = d->signal_pipe[0], .done = on_signal, .ctx = d };
	loop_submit(d->control, &d->signal_op);
	signal(SIGALRM, overdue);
	int r = pthread_create(&thread, NULL, signal_main, &d->signal_pipe[1]);
	if (r)
		return err_set(e, -r, "cannot start a thread: %s", strerror(r));
	pthread_detach(thread); /* ends with the process */
	return 0;
}

/* --- starting ----------------------------------------------------------------------------------------- */

static void show_access(struct daemon *d)
{
	if (d->flags.howto || isatty(STDOUT_FILENO)) {
		howto_print(stdout, d->server);
		fflush(stdout);
	} else if (d->flags.generated && !d->ready) {
		fprintf(stderr, "lunetted: initiators log in by CHAP as user lunette with the secret %s\n",
			d->flags.generated);
	}
}

static void published(void *ctx, const struct err *e)
{
	struct daemon *d = ctx;

	if (e) {
		struct err copy = *e;
		say_start(d, &copy);
		api_abandon(d->api);
		fflush(NULL);
		_exit(1);
	}
	if (d->ready) {
		log_info("configuration applied");
	} else {
		log_info("started version=%s loop=%s cores=%u state=%s", LUNETTE_VERSION,
			loop_backend_name(loop_group.loop[0]), loop_group.n, store_dir(d->store));
		show_access(d);
		printf("ready\n");
		fflush(stdout);
		d->ready = true;
	}
	notify_state("READY=1");
}

static void raise_descriptors(void)
{
	struct rlimit rl;

	if (getrlimit(RLIMIT_NOFILE, &rl) == 0 && rl.rlim_cur < rl.rlim_max) {
		rl.rlim_cur = rl.rlim_max;
		setrlimit(RLIMIT_NOFILE, &rl);
	}
}

static int start_loops(struct daemon *d, const struct conf_server *s, struct err *e)
{
	int r = page_arena_init(0, e);

	if (r < 0)
		return r;
	d->control = loop_new(&loop_epoll, LIM_LOOPS, e);
	if (!d->control)
		return e->code ? e->code : -ENOMEM;
	net_blk_iscsi_init(d->control);
	r = cores_init((unsigned)s->cores, (enum conf_loop)s->loop, e);
	if (r == 0)
		r = scsi_init(d->control, e);
	if (r == 0)
		r = net_init(d->control, e);
	return r < 0 ? r : cores_run(e);
}

/* Without a socket of its own choice a daemon serves all the same; one that was asked for must be there. */
static int start_api(struct daemon *d, const char *socket, struct err *e)
{
	struct api_conf ac = { d->control, d->server, socket, store_dir(d->store), d->flags.config };
	int r = api_start(&d->api, &ac, e);

	if (r == 0 || socket)
		return r;
	log_warn("no control socket reason=\"%s\"", e->text);
	*e = (struct err){ 0 };
	return 0;
}

static int start(struct daemon *d, struct conf *c, struct err *e)
{
	struct server_events ev = { published, d };
	int r = start_loops(d, &c->server, e);

	if (r == 0)
		r = store_open(&d->store, c->server.state, d->control, e);
	if (r == 0)
		r = watch_signals(d, e);
	if (r == 0)
		r = server_new(&d->server, d->control, d->store, &ev, e);
	if (r == 0)
		r = start_api(d, c->server.socket, e);
	if (r == 0)
		r = server_apply(d->server, c, e);
	return r;
}

static void finish(struct daemon *d)
{
	api_stop(d->api);
	server_free(d->server);
	net_blk_iscsi_fini();
	net_fini();
	cores_stop();
	work_fini(); /* before the loops that its threads post to */
	integrity_fini();
	scsi_fini();
	cores_fini();
	loop_free(d->control);
	store_close(d->store);
	page_arena_fini();
}

/* RFC 7143 9.2.1 wants 96 random bits; Windows takes 12 to 16 characters without IPsec. */
static void warn_secrets(const struct conf *c)
{
	const struct conf_user *u = c->users.items;

	for (unsigned i = 0; i < c->users.n; i++)
		if (strlen(u[i].secret) < SECRET_MIN)
			log_warn("secret weak user=%s advice=\"use %d to 16 characters\"", u[i].name, SECRET_MIN);
}

static int run(struct daemon *d, struct conf *c)
{
	sigset_t set = handled_signals();
	struct err e = { 0 };

	sigprocmask(SIG_BLOCK, &set, NULL); /* before any thread starts: all inherit it */
	signal(SIGPIPE, SIG_IGN);
	raise_descriptors();
	d->reload_retry.fire = reload_again;
	warn_secrets(c);
	if (start(d, c, &e) < 0) {
		say_start(d, &e);
		api_abandon(d->api);
		fflush(NULL);
		_exit(1); /* threads may run; nothing was acknowledged to anybody */
	}
	loop_run(d->control);
	finish(d);
	return 0;
}

static int print_schema(void)
{
	json_t *schema = conf_json_schema();

	json_dumpf(schema, stdout, JSON_INDENT(2));
	printf("\n");
	json_decref(schema);
	return 0;
}

static int information(const struct flags *f)
{
	if (f->help)
		flags_help();
	else if (f->version)
		printf("lunetted %s\n", LUNETTE_VERSION);
	else
		return print_schema();
	return 0;
}

static int serve(struct daemon *d)
{
	struct err e = { 0 };
	struct conf c;

	if (d->flags.verbose)
		log_set_level(LOG_LEVEL_DEBUG);
	if (flags_load(&d->flags, &c, &e) < 0) {
		say_start(d, &e);
		return EXIT_FAILURE;
	}
	if (!d->flags.check)
		return run(d, &c);
	conf_free(&conf_root_type, &c);
	return 0;
}

int main(int argc, char **argv)
{
	struct daemon d = { 0 };
	struct err e = { 0 };
	int r;

	blk_register(&net_blk_iscsi);
	r = flags_parse(&d.flags, argc, argv, &e);

	if (r < 0) {
		say(&e);
		d.status = r == -EINVAL ? EXIT_USAGE : EXIT_FAILURE;
	} else if (d.flags.help || d.flags.version || d.flags.schema) {
		d.status = information(&d.flags);
	} else {
		d.status = serve(&d);
	}
	flags_free(&d.flags);
	return d.status;
}
