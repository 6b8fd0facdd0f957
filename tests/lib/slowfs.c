/* SPDX-License-Identifier: BSD-3-Clause
 * A file system with one file, "disk" of 64 MiB of the letter s, whose reads, writes and syncs hang.
 *
 *   slowfs MS DIRECTORY
 *
 * Mounts itself there and stays in the foreground. Each request is answered after MS milliseconds; with 0 not
 * before SIGUSR1 arrives, which releases all that hang and all that follow. From SIGUSR2 on asking for the size
 * hangs too. SIGTERM unmounts. */
#define FUSE_USE_VERSION 31
#include <errno.h>
#include <fuse3/fuse.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { DISK_BYTES = 64 << 20, POLL_MS = 5 };

static long delay_ms;
static _Atomic int released, sizes_hang; /* set by signals, read by every thread of the file system */

static void on_release(int sig)
{
	released = 1;
}

static void on_sizes(int sig)
{
	sizes_hang = 1;
}

static void sleep_ms(long ms)
{
	struct timespec ts = { ms / 1000, ms % 1000 * 1000000 };

	nanosleep(&ts, NULL);
}

static void hang(void)
{
	if (delay_ms)
		sleep_ms(delay_ms);
	else
		while (!released)
			sleep_ms(POLL_MS);
}

static int slow_getattr(const char *path, struct stat *st, struct fuse_file_info *fi)
{
	memset(st, 0, sizeof(*st));
	if (strcmp(path, "/") == 0) {
		st->st_mode = S_IFDIR | 0755;
		st->st_nlink = 2;
		return 0;
	}
	if (strcmp(path, "/disk") != 0)
		return -ENOENT;
	if (sizes_hang)
		hang();
	st->st_mode = S_IFREG | 0600;
	st->st_nlink = 1;
	st->st_size = DISK_BYTES;
	return 0;
}

static int slow_readdir(const char *path, void *buf, fuse_fill_dir_t add, off_t off, struct fuse_file_info *fi,
	enum fuse_readdir_flags flags)
{
	add(buf, "disk", NULL, 0, 0);
	return 0;
}

/* No attribute is remembered by the kernel. */
static void *slow_init(struct fuse_conn_info *conn, struct fuse_config *cfg)
{
	cfg->attr_timeout = 0;
	return NULL;
}

/* Past the page cache, so that every request comes here. */
static int slow_open(const char *path, struct fuse_file_info *fi)
{
	fi->direct_io = 1;
	return 0;
}

static int slow_read(const char *path, char *buf, size_t len, off_t off, struct fuse_file_info *fi)
{
	hang();
	if (off >= DISK_BYTES)
		return 0;
	len = len < (size_t)(DISK_BYTES - off) ? len : (size_t)(DISK_BYTES - off);
	memset(buf, 's', len);
	return (int)len;
}

static int slow_write(const char *path, const char *buf, size_t len, off_t off, struct fuse_file_info *fi)
{
	hang();
	return (int)len;
}

static int slow_fsync(const char *path, int data, struct fuse_file_info *fi)
{
	hang();
	return 0;
}

static const struct fuse_operations ops = {
	.init = slow_init,
	.getattr = slow_getattr,
	.readdir = slow_readdir,
	.open = slow_open,
	.read = slow_read,
	.write = slow_write,
	.fsync = slow_fsync,
};

int main(int argc, char **argv)
{
	if (argc != 3) {
		fprintf(stderr, "usage: slowfs MS DIRECTORY\n");
		return 2;
	}
	char *args[] = { argv[0], (char *)"-f", argv[2], NULL };

	delay_ms = strtol(argv[1], NULL, 10);
	signal(SIGUSR1, on_release);
	signal(SIGUSR2, on_sizes);
	return fuse_main(3, args, &ops, NULL);
}
