/* SPDX-License-Identifier: BSD-3-Clause
 * A disk, partition or logical volume of this machine.
 *
 *   option   default  meaning
 *   path     -        the device, such as /dev/disk/by-id/...
 *   direct   on       O_DIRECT: the client caches already, and an error belongs to the write that caused it
 *   ro       off      opened for reading only
 *
 * A device that something else uses (mounted, in a RAID, swap) is refused by O_EXCL unless ro. Its discard is the
 * kernel's hole punch, which for a device means "deallocate so that zeros are read": plain BLKDISCARD leaves
 * what is read afterwards to the device. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/check.h"
#include "block/driver/driver.h"
#include "block/driver/file.h"

struct block_conf {
	char *path;
	bool  direct, ro;
};

static const struct conf_field block_fields[] = {
	{ "path", CONF_TEXT, CONF_REQUIRED, offsetof(struct block_conf, path), NULL, NULL, NULL,
		"The block device.", NULL },
	{ "direct", CONF_BOOL, 0, offsetof(struct block_conf, direct), "on", NULL, NULL,
		"Bypass the page cache (O_DIRECT).", NULL },
	{ "ro", CONF_BOOL, 0, offsetof(struct block_conf, ro), "off", NULL, NULL, "Read only.", NULL },
	{ 0 },
};

static const struct {
	int code;
	const char *text;
} open_hints[] = {
	{ ENOENT, "does not exist: check the path (lsblk lists the disks)" },
	{ EBUSY, "is in use (mounted, or part of a RAID, a volume group or swap): unmount it, or give ro" },
	{ EACCES, "may not be opened by this user: add the user to the group that owns it (often disk)" },
	{ EPERM, "may not be opened here: containers need the device passed in" },
	{ EROFS, "is write protected: give ro" },
	{ ENXIO, "is not there any more: check the cable or the driver" },
	{ ENOMEDIUM, "has no medium: insert one" },
};

static int open_error(struct err *e, int code, const char *path)
{
	for (unsigned i = 0; i < ARRAY_LEN(open_hints); i++)
		if (open_hints[i].code == -code)
			return err_at(e, code, "path", "%s %s", path, open_hints[i].text);
	return err_at(e, code, "path", "%s cannot be opened (%s): check the device", path, strerror(-code));
}

static int check_type(const char *path, struct stat *st, struct err *e)
{
	if (stat(path, st) < 0)
		return open_error(e, -errno, path);
	if (!S_ISBLK(st->st_mode))
		return err_at(e, -ENOTBLK, "path", "%s is no block device: serve a file with the file driver (--file)",
			path);
	return 0;
}

/* A number from /sys for the device; a partition's queue is its disk's. 0 when there is none. */
static uint64_t queue_limit(dev_t dev, const char *name)
{
	static const char *const dirs[] = { "queue", "../queue" };
	char path[128], text[32];

	for (unsigned i = 0; i < ARRAY_LEN(dirs); i++) {
		FILE *f;
		uint64_t v = 0;

		snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%s/%s", major(dev), minor(dev), dirs[i], name);
		f = fopen(path, "re");
		if (!f)
			continue;
		if (fgets(text, sizeof(text), f))
			v = strtoull(text, NULL, 10);
		fclose(f);
		return v;
	}
	return 0;
}

static void block_limits(struct blk *b, dev_t dev)
{
	if (b->caps & BLK_READ_ONLY)
		return;
	if (queue_limit(dev, "discard_max_bytes") && queue_limit(dev, "write_zeroes_max_bytes"))
		b->caps |= BLK_CAN_DISCARD;
	b->discard_bytes = (uint32_t)queue_limit(dev, "discard_granularity");
	b->discard_max = 0; /* the kernel splits what is longer than one command */
}

static int block_size(int fd, uint64_t *ret)
{
	return ioctl(fd, BLKGETSIZE64, ret) < 0 ? -errno : 0;
}

static int block_geometry(struct blk *b, int fd, struct err *e)
{
	int logical = 512, ro = 0;
	unsigned physical = 0;
	uint64_t bytes;
	int r = block_size(fd, &bytes);

	if (r == 0 && (ioctl(fd, BLKSSZGET, &logical) < 0 || ioctl(fd, BLKPBSZGET, &physical) < 0))
		r = -errno;
	if (r < 0)
		return err_at(e, r, "path", "%s does not tell its size (%s): check the device", b->name, strerror(-r));
	if (bytes == 0 || logical < 512 || (size_t)logical > PAGE_BYTES)
		return err_at(e, -EINVAL, "path", "%s has %llu bytes in blocks of %d, which cannot be served: choose "
			"another device", b->name, (unsigned long long)bytes, logical);
	if (ioctl(fd, BLKROGET, &ro) == 0 && ro && !(b->caps & BLK_READ_ONLY))
		return open_error(e, -EROFS, b->name);
	b->block_bytes = (uint32_t)logical;
	b->phys_bytes = MAX(physical, (unsigned)logical);
	fileio_size(b, bytes);
	return 0;
}

static int block_begin(struct blk *b, int fd, const struct block_conf *c, struct err *e)
{
	struct stat st;
	int r;

	snprintf(b->name, sizeof(b->name), "%s", c->path);
	b->caps = c->ro ? BLK_READ_ONLY : 0;
	if (fstat(fd, &st) < 0)
		return open_error(e, -errno, c->path);
	if (!S_ISBLK(st.st_mode))
		return open_error(e, -ENXIO, c->path);
	r = file_lock(fd, c->path, c->ro, e);
	if (r < 0)
		return r;
	fileio_init(b, fd);
	r = block_geometry(b, fd, e);
	if (r < 0)
		return r;
	if (c->direct)
		fileio_direct(b, b->block_bytes);
	block_limits(b, st.st_rdev);
	return 0;
}

static int block_open(struct blk *b, const void *conf, struct err *e)
{
	const struct block_conf *c = conf;
	struct stat st;
	int fd, r = check_type(c->path, &st, e);

	if (r < 0)
		return r;
	fd = open(c->path, (c->ro ? O_RDONLY : O_RDWR | O_EXCL) | O_CLOEXEC | (c->direct ? O_DIRECT : 0));
	if (fd < 0)
		return open_error(e, -errno, c->path);
	r = block_begin(b, fd, c, e);
	if (r < 0)
		close(fd);
	return r;
}

static int block_poll_size(struct blk *b)
{
	struct file *f = b->priv;
	uint64_t bytes;
	int r = block_size(f->fd, &bytes);

	return r < 0 ? r : fileio_size(b, bytes);
}

const struct blk_ops blk_block = {
	.name = "block",
	.priv_bytes = sizeof(struct file),
	.conf_bytes = sizeof(struct block_conf),
	.config = block_fields,
	.open = block_open,
	.close = fileio_close,
	.submit = fileio_submit,
	.poll_size = block_poll_size,
};
