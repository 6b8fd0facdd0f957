/* SPDX-License-Identifier: BSD-3-Clause */
#include "lunetted/cores.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"

static struct { pthread_t thread; int cpu; bool runs; } cores[LIM_LOOPS];

/* The CPUs that the process may use, in order; returns how many. */
static unsigned allowed_cpus(int *cpu, unsigned max)
{
	cpu_set_t set;
	unsigned n = 0;

	if (sched_getaffinity(0, sizeof(set), &set) < 0)
		return 0;
	for (int i = 0; i < CPU_SETSIZE && n < max; i++)
		if (CPU_ISSET(i, &set))
			cpu[n++] = i;
	return n;
}

static const struct loop_backend *backend_of(enum conf_loop kind)
{
	return kind == CONF_LOOP_URING ? &loop_uring : kind == CONF_LOOP_EPOLL ? &loop_epoll : NULL;
}

int cores_init(unsigned n, enum conf_loop kind, struct err *e)
{
	int cpu[LIM_LOOPS];
	unsigned ncpu = allowed_cpus(cpu, LIM_LOOPS);

	if (!n)
		n = ncpu ? ncpu : 1;
	for (unsigned i = 0; i < n; i++) {
		/* More threads than CPUs (tests do that) are left to the scheduler. */
		cores[i].cpu = n <= ncpu ? cpu[i] : -1;
		loop_group.loop[i] = loop_new(backend_of(kind), i, e);
		if (!loop_group.loop[i])
			return e->code ? e->code : -ENOMEM;
		loop_group.n = i + 1;
	}
	return 0;
}

static void *core_main(void *arg)
{
	unsigned i = (unsigned)(uintptr_t)arg;
	char name[16];
	cpu_set_t set;

	snprintf(name, sizeof(name), "lunette-io%u", i);
	pthread_setname_np(pthread_self(), name);
	if (cores[i].cpu >= 0) {
		CPU_ZERO(&set);
		CPU_SET(cores[i].cpu, &set);
		if (pthread_setaffinity_np(pthread_self(), sizeof(set), &set) != 0)
			log_warn("core not pinned index=%u cpu=%d", i, cores[i].cpu);
	}
	loop_run(loop_group.loop[i]);
	return NULL;
}

int cores_run(struct err *e)
{
	for (unsigned i = 0; i < loop_group.n; i++) {
		int r = pthread_create(&cores[i].thread, NULL, core_main, (void *)(uintptr_t)i);
		if (r)
			return err_set(e, -r, "cannot start a thread: %s", strerror(r));
		cores[i].runs = true;
	}
	return 0;
}

void cores_stop(void)
{
	for (unsigned i = 0; i < loop_group.n; i++)
		if (cores[i].runs)
			loop_stop(loop_group.loop[i]);
	for (unsigned i = 0; i < loop_group.n; i++) {
		if (cores[i].runs)
			pthread_join(cores[i].thread, NULL);
		cores[i].runs = false;
	}
}

void cores_fini(void)
{
	for (unsigned i = 0; i < loop_group.n; i++)
		loop_free(loop_group.loop[i]);
	loop_group.n = 0;
}
