/* SPDX-License-Identifier: BSD-3-Clause
 * A disk in a regular file.
 *
 *   option   default  meaning
 *   path     -        the file
 *   size     -        capacity of a file that is made, sparse, when there is none; a shorter file grows to it
 *   direct   off      O_DIRECT: past the page cache; for storage that is faster than memory copies
 *   ro       off      opened for reading only */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <linux/stat.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/check.h"
#include "base/log.h"
#include "block/driver/driver.h"
#include "block/driver/file.h"

struct file_conf {
	char    *path;
	uint64_t size;
	bool     direct, ro;
};

static const struct conf_field file_fields[] = {
	{ "path", CONF_TEXT, CONF_REQUIRED, offsetof(struct file_conf, path), NULL, NULL, NULL,
		"The file that holds the disk.", NULL },
	{ "size", CONF_BYTES, 0, offsetof(struct file_conf, size), NULL, NULL, "8EiB",
		"Capacity in bytes; the file is made, sparse, when there is none, and grows when it is shorter.", NULL },
	{ "direct", CONF_BOOL, 0, offsetof(struct file_conf, direct), "off", NULL, NULL,
		"Bypass the page cache (O_DIRECT).", NULL },
	{ "ro", CONF_BOOL, 0, offsetof(struct file_conf, ro), "off", NULL, NULL, "Read only.", NULL },
	{ 0 },
};

/* What to do about a path that cannot be opened. */
static const struct {
	int code;
	const char *text;
} open_hints[] = {
	{ ENOENT, "does not exist: check the path, or give size= to make it" },
	{ EACCES, "may not be opened by this user: change its owner or mode, or give ro if it may be read" },
	{ EPERM, "may not be opened by this user: it may be immutable (lsattr); give ro to read it" },
	{ EROFS, "lies on a file system that is read only: give ro" },
	{ ETXTBSY, "is in use as a program or swap file: choose another file" },
	{ ENOTDIR, "has a part that is no directory: check the path" },
	{ ELOOP, "has too many symbolic links: check the path" },
	{ EINVAL, "lies on a file system without direct I/O: leave out direct" },
	{ ENAMETOOLONG, "is too long a path: use a shorter one" },
	{ EMFILE, "cannot be opened, this process has too many files open: raise its limit (ulimit -n)" },
	{ ENOSPC, "cannot be made, the file system is full: free some space" },
	{ EFBIG, "cannot be made, the file system has no files so large: make it smaller or move it" },
	{ EDQUOT, "cannot be made, the quota is used up: free some space" },
};

static int open_error(struct err *e, int code, const char *path)
{
	for (unsigned i = 0; i < ARRAY_LEN(open_hints); i++)
		if (open_hints[i].code == -code)
			return err_at(e, code, "path", "%s %s", path, open_hints[i].text);
	return err_at(e, code, "path", "%s cannot be opened (%s): check the storage below it", path, strerror(-code));
}

static int check_type(mode_t mode, const char *path, struct err *e)
{
	if (S_ISREG(mode))
		return 0;
	if (S_ISDIR(mode))
		return err_at(e, -EISDIR, "path", "%s is a directory: name a file in it", path);
	if (S_ISBLK(mode))
		return err_at(e, -EINVAL, "path", "%s is a block device: serve it with the block driver (--block)",
			path);
	return err_at(e, -EINVAL, "path", "%s is neither a file nor a disk: choose another path", path);
}

/* The name of a new file is durable only when its directory is. */
static int sync_parent(const char *path)
{
	char *copy = strdup(path);
	int fd, r = 0;

	if (!copy)
		return -ENOMEM;
	fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	free(copy);
	if (fd < 0)
		return errno == EACCES ? 0 : -errno; /* a directory that may be written but not read */
	if (fsync(fd) < 0 && errno != EINVAL)
		r = -errno;
	close(fd);
	return r;
}

static int fill_new(int fd, const struct file_conf *c)
{
	if (ftruncate(fd, (off_t)c->size) < 0 || fsync(fd) < 0)
		return -errno;
	return sync_parent(c->path);
}

static int open_flags(const struct file_conf *c)
{
	return (c->ro ? O_RDONLY : O_RDWR) | O_CLOEXEC | (c->direct ? O_DIRECT : 0);
}

/* Makes the file with its lock and its size before anyone is told of it. */
static int make_file(int *ret, const struct file_conf *c, struct err *e)
{
	int fd = open(c->path, (open_flags(c) & ~O_ACCMODE) | O_RDWR | O_CREAT | O_EXCL, 0600);
	int r;

	if (fd < 0)
		return open_error(e, -errno, c->path);
	r = file_lock(fd, c->path, c->ro, e);
	if (r == 0) {
		r = fill_new(fd, c);
		if (r < 0)
			open_error(e, r, c->path);
	}
	if (r < 0) {
		unlink(c->path);
		close(fd);
		return r;
	}
	*ret = fd;
	return 0;
}

static int open_old(int *ret, const struct file_conf *c, struct err *e)
{
	int fd = open(c->path, open_flags(c)), r;

	if (fd < 0)
		return open_error(e, -errno, c->path);
	r = file_lock(fd, c->path, c->ro, e);
	if (r < 0)
		close(fd);
	else
		*ret = fd;
	return r;
}

static int get_file(int *ret, const struct file_conf *c, struct err *e)
{
	struct stat st;

	/* Before open, because opening a pipe waits and opening a tape may wind it. */
	if (stat(c->path, &st) == 0) {
		int r = check_type(st.st_mode, c->path, e);
		return r < 0 ? r : open_old(ret, c, e);
	}
	if (errno == ENOENT && c->size && !c->ro)
		return make_file(ret, c, e);
	return open_error(e, -errno, c->path);
}

static int check_size(const struct file_conf *c, uint64_t bytes, struct err *e)
{
	if (c->size && c->size < bytes)
		return err_at(e, -EINVAL, "size", "%s has %llu bytes, more than %llu: leave out size to serve it as it is; "
			"a disk that shrinks would lose its end", c->path, (unsigned long long)bytes,
			(unsigned long long)c->size);
	if (c->size > bytes && c->ro)
		return err_at(e, -EINVAL, "size", "%s has %llu bytes, less than %llu, and is read only: leave out size",
			c->path, (unsigned long long)bytes, (unsigned long long)c->size);
	if (bytes < 512)
		return err_at(e, -EINVAL, "path", "%s is empty: make it longer (truncate -s), or remove it and give "
			"size", c->path);
	return 0;
}

/* Alignment that direct I/O needs here, as far as the kernel tells. */
static int direct_align(struct blk *b, const struct file_conf *c, struct err *e)
{
	struct file *f = b->priv;

	b->block_bytes = 512;
	fileio_direct(b, 512);
#ifdef STATX_DIOALIGN
	struct statx sx;

	if (statx(f->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) == 0 && (sx.stx_mask & STATX_DIOALIGN)) {
		if (!sx.stx_dio_offset_align || sx.stx_dio_offset_align > PAGE_BYTES)
			return open_error(e, -EINVAL, c->path);
		b->block_bytes = MAX(sx.stx_dio_offset_align, 512u);
		fileio_direct(b, MAX(sx.stx_dio_mem_align, 512u));
	}
#endif
	return 0;
}

static void probe_caps(struct blk *b, int fd, uint64_t bytes)
{
	off_t behind = (off_t)((bytes + PAGE_BYTES - 1) & ~(uint64_t)(PAGE_BYTES - 1));

	if (lseek(fd, 0, SEEK_HOLE) >= 0)
		b->caps |= BLK_CAN_MAP;
	/* Behind the end of the file there is nothing to lose. */
	if (!(b->caps & BLK_READ_ONLY) &&
	    fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, behind, PAGE_BYTES) == 0)
		b->caps |= BLK_CAN_DISCARD;
	if (!loop_sim_fd(fd))
		b->caps |= BLK_CAN_COPY;
}

static int make_longer(int fd, const struct file_conf *c, struct err *e)
{
	if (ftruncate(fd, (off_t)c->size) < 0 || fsync(fd) < 0)
		return open_error(e, -errno, c->path);
	log_info("file grows path=%s bytes=%llu", c->path, (unsigned long long)c->size);
	return 0;
}

static int file_begin(struct blk *b, int fd, const struct file_conf *c, struct err *e)
{
	struct stat st;
	int r;

	if (fstat(fd, &st) < 0)
		return open_error(e, -errno, c->path);
	r = check_type(st.st_mode, c->path, e);
	if (r == 0)
		r = check_size(c, (uint64_t)st.st_size, e);
	if (r == 0 && c->size > (uint64_t)st.st_size) {
		r = make_longer(fd, c, e);
		st.st_size = (off_t)c->size;
	}
	if (r < 0)
		return r;
	b->caps = c->ro ? BLK_READ_ONLY : 0;
	fileio_init(b, fd);
	fileio_size(b, (uint64_t)st.st_size);
	probe_caps(b, fd, (uint64_t)st.st_size);
	b->discard_bytes = (uint32_t)MAX(st.st_blksize, 512);
	if (c->direct)
		return direct_align(b, c, e);
	filemap_open(b);
	return 0;
}

static int file_open(struct blk *b, const void *conf, struct err *e)
{
	const struct file_conf *c = conf;
	size_t n = strlen(c->path), room = sizeof(b->name) - 1;
	int fd = -1, r;

	snprintf(b->name, sizeof(b->name), "%s", c->path + (n > room ? n - room : 0)); /* its end tells more */
	r = get_file(&fd, c, e);
	if (r < 0)
		return r;
	r = file_begin(b, fd, c, e);
	if (r < 0)
		close(fd);
	return r;
}

static int file_poll_size(struct blk *b)
{
	struct file *f = b->priv;
	struct statvfs fs;
	struct stat st;

	if ((f->op_flags & OP_MAY_HANG) && loop_current())
		return filepoll_size(b);
	if (fstat(f->fd, &st) < 0)
		return -errno;
	if (fstatvfs(f->fd, &fs) == 0)
		filepoll_space(b, (uint64_t)st.st_blocks * 512, (uint64_t)fs.f_bavail * fs.f_frsize);
	return fileio_size(b, (uint64_t)st.st_size);
}

static int file_grow(struct blk *b, const void *conf, struct err *e)
{
	const struct file_conf *c = conf;
	struct file *f = b->priv;
	struct stat st;

	if (fstat(f->fd, &st) < 0)
		return open_error(e, -errno, c->path);
	int r = check_size(c, (uint64_t)st.st_size, e);
	return r < 0 || c->size == (uint64_t)st.st_size ? r : make_longer(f->fd, c, e);
}

const struct blk_ops blk_file = {
	.name = "file",
	.priv_bytes = sizeof(struct file),
	.conf_bytes = sizeof(struct file_conf),
	.config = file_fields,
	.open = file_open,
	.close = fileio_close,
	.submit = fileio_submit,
	.poll_size = file_poll_size,
	.grow = file_grow,
};
