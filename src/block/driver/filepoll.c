/* SPDX-License-Identifier: BSD-3-Clause
 * The size of a file on a file system that may hang (FUSE, NFS): asked for by a worker, told at the next poll, so
 * that the control thread waits for no server. Everything but ask() runs on the control loop. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/check.h"
#include "block/driver/file.h"

struct file_poll {
	struct op op;    /* fd: a duplicate, because the file may be closed before the answer comes */
	uint64_t  bytes, used, left; /* valid when op.res is 0 */
	bool      done, orphan;
};

static void ask(struct op *op)
{
	struct file_poll *p = container_of(op, struct file_poll, op);
	struct stat st;
	struct statvfs fs;

	op->res = fstat(op->fd, &st) < 0 || fstatvfs(op->fd, &fs) < 0 ? -errno : 0;
	if (op->res == 0) {
		p->bytes = (uint64_t)st.st_size;
		p->used = (uint64_t)st.st_blocks * 512;
		p->left = (uint64_t)fs.f_bavail * fs.f_frsize;
	}
	close(op->fd);
}

static void answered(struct op *op)
{
	struct file_poll *p = container_of(op, struct file_poll, op);

	p->done = true;
	if (p->orphan)
		free(p);
}

static int poll_start(struct file *f)
{
	struct file_poll *p = calloc(1, sizeof(*p));

	if (!p)
		return -ENOMEM;
	p->op = (struct op){ .kind = OP_WORK, .work = ask, .done = answered };
	p->op.fd = fcntl(f->fd, F_DUPFD_CLOEXEC, 3);
	if (p->op.fd < 0) {
		free(p);
		return -errno;
	}
	f->poll = p;
	loop_submit(loop_current(), &p->op);
	return 0;
}

void filepoll_space(struct blk *b, uint64_t used, uint64_t left)
{
	b->space_known = true;
	b->space_used = used;
	b->space_free = left;
}

int filepoll_size(struct blk *b)
{
	struct file *f = b->priv;
	struct file_poll *p = f->poll;
	int r;

	if (p && !p->done)
		return f->poll_status; /* hangs: nothing new is known */
	if (p && p->op.res >= 0)
		filepoll_space(b, p->used, p->left);
	if (p)
		f->poll_status = p->op.res < 0 ? p->op.res : fileio_size(b, p->bytes);
	free(p);
	f->poll = NULL;
	r = poll_start(f);
	return r < 0 ? r : f->poll_status;
}

void filepoll_close(struct file *f)
{
	if (f->poll && f->poll->done)
		free(f->poll);
	else if (f->poll)
		f->poll->orphan = true;
	f->poll = NULL;
}
