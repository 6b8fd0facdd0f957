/* SPDX-License-Identifier: BSD-3-Clause
 * Locks that QEMU, qemu-img and qemu-nbd respect, and that respect theirs. Every use of an image is a shared
 * lock on one byte, every use that its owner does not tolerate from others a shared lock on another: first take
 * one's own, then look whether someone holds an opposite one. Both sides do so, hence of two that start
 * together at least one gives up. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "base/check.h"
#include "block/driver/file.h"

enum {
	USE_AT = 100,    /* byte 100 + n: someone uses the image so */
	REFUSE_AT = 200, /* byte 200 + n: someone refuses that others do */
};
enum { USE_READ = 0, USE_WRITE = 1, USE_RESIZE = 3, USES = 4 };

static int lock_byte(int fd, int at)
{
	struct flock l = { .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = at, .l_len = 1 };

	return fcntl(fd, F_OFD_SETLK, &l) < 0 ? -errno : 0;
}

/* 0, -EAGAIN: held by someone else, or another error. */
static int probe_byte(int fd, int at)
{
	struct flock l = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = at, .l_len = 1 };

	if (fcntl(fd, F_OFD_GETLK, &l) < 0)
		return -errno;
	return l.l_type == F_UNLCK ? 0 : -EAGAIN;
}

static int lock_uses(int fd, unsigned uses, unsigned refused)
{
	int r = 0;

	for (int i = 0; i < USES && r == 0; i++) {
		if (uses & 1u << i)
			r = lock_byte(fd, USE_AT + i);
		if (r == 0 && (refused & 1u << i))
			r = lock_byte(fd, REFUSE_AT + i);
	}
	for (int i = 0; i < USES && r == 0; i++) {
		if (uses & 1u << i)
			r = probe_byte(fd, REFUSE_AT + i);
		if (r == 0 && (refused & 1u << i))
			r = probe_byte(fd, USE_AT + i);
	}
	return r;
}

int file_lock(int fd, const char *path, bool ro, struct err *e)
{
	unsigned refused = 1u << USE_WRITE | 1u << USE_RESIZE;
	int r = lock_uses(fd, 1u << USE_READ | (ro ? 0 : 1u << USE_WRITE), refused);

	if (r == 0)
		return 0;
	if (r == -EAGAIN || r == -EACCES)
		return err_at(e, -EBUSY, "path", ro ?
			"%s is being written by another disk, virtual machine or program that has locked it: "
			"end that one first" :
			"%s is in use by another disk, virtual machine or program that has locked it: end that "
			"one first, or serve a copy", path);
	return err_at(e, r, "path", "%s cannot be locked (%s), so two writers could not be told apart: move it to a "
		"file system with locks", path, strerror(-r));
}
