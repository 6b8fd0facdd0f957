/* SPDX-License-Identifier: BSD-3-Clause
 * Preloaded into the server, forgets what makes writes durable: the power-cut scenario must then fail, or it proves
 * nothing. Works on the epoll loop, whose workers call these functions. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

int fdatasync(int fd)
{
	(void)fd;
	return 0;
}

int fsync(int fd)
{
	(void)fd;
	return 0;
}

ssize_t pwritev2(int fd, const struct iovec *iov, int n, off_t off, int flags)
{
	static ssize_t (*real)(int, const struct iovec *, int, off_t, int);
	if (!real)
		*(void **)&real = dlsym(RTLD_NEXT, "pwritev2");
	return real(fd, iov, n, off, flags & ~(RWF_DSYNC | RWF_SYNC));
}

ssize_t pwritev64v2(int fd, const struct iovec *iov, int n, off_t off, int flags)
{
	return pwritev2(fd, iov, n, off, flags);
}
