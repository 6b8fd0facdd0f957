/* SPDX-License-Identifier: BSD-3-Clause
 * The state directory: identities for life, atomic replacement, damage that is found. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "conf/store.h"

static char dir[64];
static const uint8_t lu_id[16] = "0123456789abcdef";

static struct store *open_store(void)
{
	struct store *s = NULL;
	struct err e = { 0 };

	assert_int_equal(store_open(&s, dir, NULL, &e), 0);
	return s;
}

static int setup(void **state)
{
	strcpy(dir, "/tmp/lunette-store-XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

static void remove_in(const char *sub)
{
	char path[400];
	struct dirent *d;

	snprintf(path, sizeof(path), "%s/%s", dir, sub);
	DIR *list = opendir(path);
	while (list && (d = readdir(list))) {
		snprintf(path, sizeof(path), "%s/%s/%s", dir, sub, d->d_name);
		unlink(path);
	}
	if (list)
		closedir(list);
	snprintf(path, sizeof(path), "%s/%s", dir, sub);
	rmdir(path);
}

static int teardown(void **state)
{
	store_step_hook = NULL;
	remove_in("volumes");
	remove_in("lu");
	return rmdir(dir);
}

static void identity(const char *name, bool volatile_, uint8_t id[16])
{
	struct store *s = open_store();
	struct err e = { 0 };

	assert_int_equal(store_lu(s)->identity(store_lu(s)->ctx, name, volatile_, id, &e), 0);
	store_close(s);
}

/* Proves that a disk keeps its identity over restarts, that names have different ones, and that a volatile disk is a
 * new one each time. */
static void test_identity(void **state)
{
	uint8_t a[16], b[16], other[16], v1[16], v2[16];

	identity("db", false, a);
	identity("db", false, b);
	identity("db2", false, other);
	identity("db", true, v1);
	identity("db", true, v2);
	assert_memory_equal(a, b, 16);
	assert_memory_not_equal(a, other, 16);
	assert_memory_not_equal(v1, v2, 16);
	assert_memory_not_equal(a, v1, 16);
}

/* Proves that a medium made anew gets a new identity. */
static void test_forget(void **state)
{
	uint8_t a[16], b[16];
	struct err e = { 0 };

	identity("db", false, a);
	struct store *s = open_store();
	assert_int_equal(store_forget(s, "db", &e), 0);
	assert_int_equal(store_forget(s, "never-seen", &e), 0);
	store_close(s);
	identity("db", false, b);
	assert_memory_not_equal(a, b, 16);
}

static bool is_there(const char *name)
{
	char path[400];

	snprintf(path, sizeof(path), "%s/lu/%s", dir, name);
	return access(path, F_OK) == 0;
}

static void put_file(const char *name)
{
	char path[400];

	snprintf(path, sizeof(path), "%s/lu/%s", dir, name);
	FILE *f = fopen(path, "w");
	assert_non_null(f);
	fclose(f);
}

/* Proves that what a dead process left half written is removed at start, and nothing else: neither what a process that
 * lives is writing, nor what only looks alike. */
static void test_leftovers(void **state)
{
	char dead[64], own[64], alive[64];
	pid_t child = fork();

	if (child == 0)
		_exit(0);
	waitpid(child, NULL, 0);
	store_close(open_store());
	snprintf(dead, sizeof(dead), "00.pr.tmp%d", (int)child);
	snprintf(own, sizeof(own), "00.pr.tmp%d", (int)getpid());
	snprintf(alive, sizeof(alive), "00.pr.tmp%d", (int)getppid());
	const char *const names[] = { dead, own, alive, "00.pr", "00.tmp", "00.tmpx1" };
	for (unsigned i = 0; i < 6; i++)
		put_file(names[i]);
	store_close(open_store());
	for (unsigned i = 0; i < 6; i++)
		assert_int_equal(is_there(names[i]), i >= 2);
}

/* Flips one byte of the only regular file in a folder that does not end in .lock. */
static void damage(const char *sub, long at)
{
	char path[400];
	struct dirent *d;

	snprintf(path, sizeof(path), "%s/%s", dir, sub);
	DIR *list = opendir(path);
	assert_non_null(list);
	while ((d = readdir(list))) {
		if (d->d_name[0] == '.' || strstr(d->d_name, ".lock"))
			continue;
		snprintf(path, sizeof(path), "%s/%s/%s", dir, sub, d->d_name);
		int fd = open(path, O_RDWR);
		uint8_t c;
		assert_int_equal(pread(fd, &c, 1, at), 1);
		c ^= 0x40;
		assert_int_equal(pwrite(fd, &c, 1, at), 1);
		close(fd);
	}
	closedir(list);
}

/* Proves that a damaged identity is reported with the file's name, never replaced by a guess. */
static void test_identity_damage(void **state)
{
	uint8_t id[16];
	struct err e = { 0 };

	for (long at = 0; at < 40; at += 3) {
		identity("db", false, id);
		damage("volumes", at);
		struct store *s = open_store();
		assert_int_equal(store_lu(s)->identity(store_lu(s)->ctx, "db", false, id, &e), -EBADMSG);
		assert_non_null(strstr(e.text, "damaged"));
		assert_non_null(strstr(e.text, dir));
		assert_int_equal(store_forget(s, "db", &e), 0);
		store_close(s);
	}
}

static int save(const void *p, size_t len)
{
	struct store *s = open_store();
	int r = store_lu(s)->save(store_lu(s)->ctx, lu_id, "mode", p, len);

	store_close(s);
	return r;
}

static int load(void *p, size_t len)
{
	struct store *s = open_store();
	int r = store_lu(s)->load(store_lu(s)->ctx, lu_id, "mode", p, len);

	store_close(s);
	return r;
}

/* Proves that what was saved comes back, that absence and damage are told apart, and that names cannot leave the
 * directory. */
static void test_pages(void **state)
{
	char buf[64];

	assert_int_equal(load(buf, sizeof(buf)), -ENOENT);
	assert_int_equal(save("hello", 6), 0);
	assert_int_equal(load(buf, sizeof(buf)), 6);
	assert_string_equal(buf, "hello");
	assert_int_equal(load(buf, 3), -EMSGSIZE);
	damage("lu", 18);
	assert_int_equal(load(buf, sizeof(buf)), -EBADMSG);
	struct store *s = open_store();
	assert_int_equal(store_lu(s)->save(store_lu(s)->ctx, lu_id, "../x", "y", 1), -EINVAL);
	store_close(s);
}

static int stop_at;
static bool die(const char *step)
{
	if (stop_at-- == 0)
		_exit(9);
	return true;
}

static bool refuse(const char *step)
{
	return stop_at-- != 0;
}

/* Proves invariant 1: killed before any step of a replacement, the old content or the new is there, whole; and once
 * save returned, the new. */
static void test_kill_between_steps(void **state)
{
	bool finished = false;

	for (int n = 0; !finished; n++) {
		char buf[16] = "";
		int status;
		assert_int_equal(save("old", 4), 0);
		pid_t pid = fork();
		if (pid == 0) {
			stop_at = n;
			store_step_hook = die;
			_exit(save("new", 4) == 0 ? 0 : 1);
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		finished = WEXITSTATUS(status) == 0;
		assert_true(finished || WEXITSTATUS(status) == 9);
		assert_int_equal(load(buf, sizeof(buf)), 4);
		assert_true(strcmp(buf, "new") == 0 || (!finished && strcmp(buf, "old") == 0));
		assert_true(n < 20);
	}
}

/* Proves that a step that fails is an error of save, and leaves no temporary file. */
static void test_fail_at_steps(void **state)
{
	char path[400], buf[16];

	for (int n = 0; n < 5; n++) {
		assert_int_equal(save("old", 4), 0);
		stop_at = n;
		store_step_hook = refuse;
		assert_int_equal(save("new", 4), -EIO);
		store_step_hook = NULL;
		assert_int_equal(load(buf, sizeof(buf)), 4);
		assert_string_equal(buf, n < 4 ? "old" : "new");
		snprintf(path, sizeof(path), "%s/lu/30313233343536373839616263646566.mode.tmp%d", dir, (int)getpid());
		assert_int_equal(access(path, F_OK), -1);
	}
}

/* Proves that two daemons do not serve one volume out of one state directory, and that the second hears who it is. */
static void test_claim(void **state)
{
	struct store *a = open_store(), *b = open_store();
	struct err e = { 0 };
	char pid[16];

	snprintf(pid, sizeof(pid), "pid %d", (int)getpid());
	assert_int_equal(store_claim(a, "db", &e), 0);
	assert_int_equal(store_claim(a, "db", &e), -EBUSY);
	assert_int_equal(store_claim(b, "db", &e), -EBUSY);
	assert_non_null(strstr(e.text, pid));
	assert_non_null(strstr(e.text, "--state"));
	assert_int_equal(store_claim(b, "db2", &e), 0);
	store_release(a, "db");
	assert_int_equal(store_claim(b, "db", &e), 0);
	store_close(a);
	store_close(b);
	struct store *c = open_store();
	assert_int_equal(store_claim(c, "db", &e), 0);
	store_close(c);
}

/* Proves that a directory that cannot be written is named, with the way out. */
static void test_unwritable(void **state)
{
	struct store *s = NULL;
	struct err e = { 0 };

	assert_true(store_open(&s, "/proc/lunette", NULL, &e) < 0);
	assert_non_null(strstr(e.text, "--state"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_identity, setup, teardown),
		cmocka_unit_test_setup_teardown(test_forget, setup, teardown),
		cmocka_unit_test_setup_teardown(test_leftovers, setup, teardown),
		cmocka_unit_test_setup_teardown(test_identity_damage, setup, teardown),
		cmocka_unit_test_setup_teardown(test_pages, setup, teardown),
		cmocka_unit_test_setup_teardown(test_kill_between_steps, setup, teardown),
		cmocka_unit_test_setup_teardown(test_fail_at_steps, setup, teardown),
		cmocka_unit_test_setup_teardown(test_claim, setup, teardown),
		cmocka_unit_test(test_unwritable),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
