/* SPDX-License-Identifier: BSD-3-Clause
 * A file that hangs in the kernel stalls its own requests and nothing else of its loop. Needs FUSE; skipped where
 * it cannot be mounted. SLOWFS names the program of tests/lib/slowfs.c. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/check.h"
#include "blktest.h"

enum { SLOW = 100 }; /* requests that hang at once: more than any pool of threads for one disk */

static struct loop *loop;
static char dir[256], slow_path[300];
static char buf[65536];
static pid_t server;
static struct bt_io *slow;

static void sleep_ms(long ms)
{
	struct timespec ts = { ms / 1000, ms % 1000 * 1000000 };

	nanosleep(&ts, NULL);
}

static void serve(const char *program, const char *mount_at)
{
	/* Unmounts itself when this test is killed: by its death, not together with its group. */
	setsid();
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	execl(program, program, "0", mount_at, NULL);
	_exit(127);
}

static bool mount_slow(void)
{
	const char *program = getenv("SLOWFS");
	char mount_at[280];

	snprintf(dir, sizeof(dir), "%s", bt_mkdir());
	snprintf(mount_at, sizeof(mount_at), "%s/slow", dir);
	snprintf(slow_path, sizeof(slow_path), "%s/disk", mount_at);
	if (!program || access("/dev/fuse", R_OK | W_OK) != 0)
		return false;
	mkdir(mount_at, 0700);
	server = fork();
	if (server == 0)
		serve(program, mount_at);
	for (int i = 0; i < 500; i++) {
		if (access(slow_path, F_OK) == 0)
			return true;
		if (waitpid(server, NULL, WNOHANG) == server)
			break;
		sleep_ms(10);
	}
	return false;
}

static void unmount_slow(void)
{
	char mount_at[280];

	snprintf(mount_at, sizeof(mount_at), "%s/slow", dir);
	kill(server, SIGTERM);
	waitpid(server, NULL, 0);
	umount2(mount_at, MNT_DETACH); /* when it died without */
	bt_rmdir();
}

static void work_beside(struct blk *b)
{
	for (int i = 0; i < 50; i++) {
		memset(buf, i, sizeof(buf));
		assert_int_equal(bt_do(loop, b, BLK_WRITE, BLK_PAGES, (uint64_t)i << 16, sizeof(buf), buf), 0);
		assert_int_equal(bt_do(loop, b, BLK_READ, BLK_LEND, (uint64_t)i << 16, sizeof(buf), buf), 0);
		assert_int_equal(buf[77], i);
	}
	assert_int_equal(bt_do(loop, b, BLK_WRITE, BLK_FUA, 0, sizeof(buf), buf), 0);
	assert_int_equal(bt_do(loop, b, BLK_FLUSH, 0, 0, 0, NULL), 0);
	assert_int_equal(bt_do(loop, b, BLK_DISCARD, 0, 0, 4 << 20, NULL), 0);
	static struct bt_io t;
	bt_start(&t, loop, b, BLK_MAP, 0, 0, 4 << 20, NULL);
	assert_int_equal(bt_wait(&t), 0);
}

static void start_slow(struct blk *b)
{
	for (int i = 0; i < SLOW; i++) {
		enum blk_op op = i % 10 == 9 ? BLK_FLUSH : i % 3 ? BLK_READ : BLK_WRITE;
		uint64_t off = op == BLK_FLUSH ? 0 : (uint64_t)i * 4096;

		bt_start(&slow[i], loop, b, op, op == BLK_READ ? BLK_LEND : 0, off, op == BLK_FLUSH ? 0 : 4096, buf);
	}
}

static void end_slow(void)
{
	kill(server, SIGUSR1);
	for (int i = 0; i < SLOW; i++) {
		assert_int_equal(bt_wait(&slow[i]), 0);
		if (slow[i].io.req.op != BLK_READ)
			continue;
		assert_int_equal(*(char *)slow[i].iov[0].iov_base, 's');
		bt_put(&slow[i]);
	}
}

/* Polls the size from the loop, as the control thread does. */
static struct {
	struct task task;
	struct blk *b;
	int result, polls;
} poll;

static void poll_run(struct task *t)
{
	poll.result = poll.b->ops->poll_size(poll.b);
	poll.polls++;
}

static int poll_size(struct blk *b)
{
	int before = poll.polls;

	poll.b = b;
	poll.task.run = poll_run;
	loop_defer(loop, &poll.task);
	while (poll.polls == before)
		loop_turn(loop, 0);
	return poll.result;
}

static void check(const struct loop_backend *backend)
{
	char options[400];
	struct blk *hangs, *file, *ram;
	struct err e;

	if (!mount_slow()) {
		bt_rmdir();
		skip();
	}
	loop = loop_new(backend, 0, &e);
	if (!loop)
		skip();
	snprintf(options, sizeof(options), "path=%s", slow_path);
	if (bt_open(&hangs, "file", options, NULL) < 0)
		fail_msg("%s", bt_error);
	snprintf(options, sizeof(options), "path=%s/fast,size=16MiB", dir);
	assert_int_equal(bt_open(&file, "file", options, NULL), 0);
	assert_int_equal(bt_open(&ram, "ram", "size=16MiB", NULL), 0);
	kill(server, SIGUSR2);
	start_slow(hangs);
	for (int i = 0; i < 5; i++)
		assert_int_equal(poll_size(hangs), 0);
	work_beside(ram);
	work_beside(file);
	for (int i = 0; i < SLOW; i++)
		assert_false(slow[i].done);
	end_slow();
	assert_int_equal(poll_size(hangs), 0);
	blk_close(hangs);
	blk_close(file);
	blk_close(ram);
	work_fini(); /* first: a worker may still be about to wake the loop */
	loop_turn(loop, 0); /* the last question for a size is answered */
	loop_free(loop);
	unmount_slow();
}

/* Proves that with a hundred requests hanging in one file, reads, writes, FUA, flushes, discards and maps of another
 * file and of a RAM disk on the same loop all end, that asking for the size of the hanging file returns at once, and that
 * the hanging ones end when the file answers. */
static void test_slow_on_uring(void **state)
{
	check(&loop_uring);
}

/* Proves the same on epoll, where a pool of threads does what may block. */
static void test_slow_on_epoll(void **state)
{
	check(&loop_epoll);
}

static int setup(void **state)
{
	struct err e;

	slow = calloc(SLOW, sizeof(*slow));
	return page_arena_init(64 << 20, &e);
}

static int teardown(void **state)
{
	page_arena_fini();
	free(slow);
	return 0;
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_slow_on_uring),
		cmocka_unit_test(test_slow_on_epoll),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
