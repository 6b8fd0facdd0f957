/* SPDX-License-Identifier: BSD-3-Clause
 * The control socket's file. A lock beside it tells a living daemon from the remains of a dead one. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "api/impl.h"
#include "base/dirs.h"
#include "base/log.h"

enum { BACKLOG = 64 };

static int make_parent(const char *path, struct err *e)
{
	char dir[sizeof(((struct sockaddr_un *)0)->sun_path)];

	snprintf(dir, sizeof(dir), "%s", path);
	char *slash = strrchr(dir, '/');
	if (!slash || slash == dir)
		return 0;
	*slash = 0;
	if (mkdir(dir, 0700) < 0 && errno != EEXIST)
		return err_set(e, -errno, "cannot make %.200s: %s; choose another place with --socket PATH", dir,
			strerror(errno));
	return 0;
}

static int lock(struct api *a, const char *path, struct err *e)
{
	struct flock fl = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	char file[256];

	snprintf(file, sizeof(file), "%s.lock", path);
	a->lock = open(file, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (a->lock >= 0 && fcntl(a->lock, F_OFD_SETLK, &fl) == 0)
		return 0;
	int r = -errno;
	if (r == -EAGAIN || r == -EACCES)
		r = a->lock >= 0 ? -EBUSY : r;
	if (a->lock >= 0)
		close(a->lock);
	a->lock = -1;
	if (r == -EBUSY)
		return err_set(e, r, "control socket %.108s belongs to another lunetted; choose another place with "
			"--socket PATH", path);
	return err_set(e, r, "cannot make control socket %.108s: %s; choose another place with --socket PATH", path,
		strerror(-r));
}

static int bind_to(struct api *a, const char *path, struct err *e)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };

	memcpy(addr.sun_path, path, strlen(path) + 1);
	unlink(path); /* we hold the lock: what lies there is dead */
	a->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	mode_t old = umask(0177);
	bool ok = a->fd >= 0 && bind(a->fd, (struct sockaddr *)&addr, sizeof(addr)) == 0 &&
		listen(a->fd, BACKLOG) == 0;
	umask(old);
	if (ok)
		return 0;
	return err_set(e, -errno, "cannot listen on control socket %.108s: %s; choose another place with --socket PATH",
		path, strerror(errno));
}

static int try_path(struct api *a, const char *path, struct err *e)
{
	if (strlen(path) >= sizeof(((struct sockaddr_un *)0)->sun_path))
		return err_set(e, -ENAMETOOLONG, "control socket %.120s: the path is longer than a socket's may be; choose "
			"another place with --socket PATH", path);
	int r = make_parent(path, e);
	if (r == 0)
		r = lock(a, path, e);
	if (r == 0)
		r = bind_to(a, path, e);
	if (r < 0) {
		socket_close(a);
		return r;
	}
	a->path = strdup(path);
	return a->path ? 0 : err_set(e, -ENOMEM, "out of memory");
}

int socket_open(struct api *a, struct err *e)
{
	char *dflt, *second;

	if (a->conf.socket)
		return try_path(a, a->conf.socket, e);
	dflt = dirs_socket();
	int r = dflt ? try_path(a, dflt, e) : err_set(e, -ENOMEM, "out of memory");
	if (r < 0 && asprintf(&second, "%s/control.sock", a->conf.state) >= 0) {
		r = strcmp(second, dflt ? dflt : "") == 0 ? r : try_path(a, second, e);
		if (r == 0)
			log_info("control socket path=%s instead_of=%s", second, dflt ? dflt : "-");
		free(second);
	}
	free(dflt);
	return r;
}

void socket_close(struct api *a)
{
	if (a->path)
		unlink(a->path);
	if (a->fd >= 0)
		close(a->fd);
	if (a->lock >= 0)
		close(a->lock);
	a->fd = a->lock = -1;
}
