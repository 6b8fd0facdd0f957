/* SPDX-License-Identifier: BSD-3-Clause
 * A FUSE file system with one file, "slow", of 1 MiB: reads of the second half take 2 s, all else is quick. For the
 * test that a file which is not in page cache stalls nobody but its own commands. */
#define FUSE_USE_VERSION 31
#include <errno.h>
#include <fuse.h>
#include <string.h>
#include <unistd.h>

enum { BYTES = 1 << 20 };

static int slow_getattr(const char *path, struct stat *st, struct fuse_file_info *fi)
{
	(void)fi;
	memset(st, 0, sizeof(*st));
	if (!strcmp(path, "/")) {
		st->st_mode = S_IFDIR | 0755;
		st->st_nlink = 2;
		return 0;
	}
	if (strcmp(path, "/slow"))
		return -ENOENT;
	st->st_mode = S_IFREG | 0644;
	st->st_nlink = 1;
	st->st_size = BYTES;
	return 0;
}

static int slow_open(const char *path, struct fuse_file_info *fi)
{
	fi->direct_io = 1;
	return strcmp(path, "/slow") ? -ENOENT : 0;
}

static int slow_read(const char *path, char *buf, size_t len, off_t off, struct fuse_file_info *fi)
{
	(void)path, (void)fi;
	if (off >= BYTES)
		return 0;
	if (off >= BYTES / 2)
		sleep(2);
	memset(buf, 's', len);
	return (int)len;
}

static int slow_write(const char *path, const char *buf, size_t len, off_t off, struct fuse_file_info *fi)
{
	(void)path, (void)buf, (void)off, (void)fi;
	return (int)len;
}

static int slow_fsync(const char *path, int data, struct fuse_file_info *fi)
{
	(void)path, (void)data, (void)fi;
	return 0;
}

int main(int argc, char **argv)
{
	static const struct fuse_operations ops = {
		.getattr = slow_getattr, .open = slow_open, .read = slow_read, .write = slow_write, .fsync = slow_fsync,
	};
	return fuse_main(argc, argv, &ops, NULL);
}
