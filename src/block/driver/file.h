/* SPDX-License-Identifier: BSD-3-Clause
 * What file.c and block.c share: a descriptor that is read and written at byte addresses (fileio.c), and the
 * locks on it (filelock.c). */
#ifndef LUNETTE_BLOCK_DRIVER_FILE_H
#define LUNETTE_BLOCK_DRIVER_FILE_H

#include <stdatomic.h>

#include "block/blk.h"

enum {
	FILE_IOV_MAX = 1024,   /* entries of one system call (IOV_MAX) */
	FILE_ZERO_PAGES = 256, /* zeros are written 1 MiB at a time where the medium cannot make them */
};

/* priv of both drivers. The atomics are the only things that change after open. */
struct file {
	int              fd;
	uint32_t         op_flags;   /* OP_DIRECT, OP_MAY_HANG */
	uint32_t         mem_align;  /* bytes; memory of direct I/O, 1 when buffered */
	_Atomic uint64_t limit;      /* bytes that the medium has now; below blk.bytes after it was cut short */
	atomic_bool      lost;       /* an fsync failed: nothing is durable until the file is opened again */
	atomic_bool      no_punch, no_zero, no_clone; /* the medium said that it cannot */
	struct file_poll *poll;      /* control thread: the question for the size that is under way */
	int              poll_status;
	struct iovec     zeros[FILE_ZERO_PAGES];
	/* filemap.c */
	char            *map;        /* NULL: none */
	uint64_t         map_bytes;
	_Atomic uint64_t *seen;      /* a bit per page */
	bool             cachestat;
};

/* Control thread. fd is taken over; fills caps for what the medium can. */
void fileio_init(struct blk *b, int fd);
/* The descriptor is O_DIRECT and wants memory aligned so. */
void fileio_direct(struct blk *b, uint32_t align);
void fileio_submit(struct blk *b, struct blk_io *io);
void fileio_close(struct blk *b);
/* The size of the medium is now `bytes`: capacity grows with it, and never shrinks. -ENXIO: cut short. */
int  fileio_size(struct blk *b, uint64_t bytes);

/* Starts io's operation; done ends in blk_done(), or by fileio_changed(). */
void fileio_start(struct blk *b, struct blk_io *io, enum op_kind kind, op_fn *done);
/* The medium was changed without a write, or it failed with res < 0 after scratch[0] bytes: flushes where FUA asks. */
void fileio_changed(struct blk *b, struct blk_io *io, int res);

/* filecopy.c: BLK_COPY between files of one file system. */
void filecopy_submit(struct blk *b, struct blk_io *io);

/* Control thread, once the size is known: maps the file where that can serve reads. */
void filemap_open(struct blk *b);
void filemap_close(struct blk *b);
/* Answers a lent read from the mapping, or says false: then read it. */
bool filemap_lend(struct blk *b, struct blk_io *io);

/* filepoll.c: poll_size() for a file system that may hang; from a loop's turn. The answer is the one to the poll
 * before. */
void filepoll_space(struct blk *b, uint64_t used, uint64_t left); /* control thread */
int  filepoll_size(struct blk *b);
void filepoll_close(struct file *f);

/* Open file description locks on the bytes that QEMU uses: who writes excludes every other writer and resizer,
 * who reads excludes writers. Held until the descriptor is closed; work within one process too. */
int  file_lock(int fd, const char *path, bool ro, struct err *e);

#endif
