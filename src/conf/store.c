/* SPDX-License-Identifier: BSD-3-Clause */
#include "conf/store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/sha.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/dirs.h"
#include "base/list.h"
#include "base/log.h"

enum { ID_BYTES = 16, KEY_HEX = 32, HEAD = 16, SUM = SHA256_DIGEST_LENGTH, BODY_MAX = 1 << 20 };
static const char magic[8] = { 'L', 'u', 'n', 'e', 't', 't', 'e', '1' };

struct claim { struct list node; int fd; char key[KEY_HEX + 1]; };

struct store {
	char *dir;
	int root, volumes, lu; /* directory descriptors */
	struct list claims;
	struct lu_store ops;
};

bool (*store_step_hook)(const char *step);

static int step(const char *name)
{
	return store_step_hook && !store_step_hook(name) ? -EIO : 0;
}

/* --- one file ----------------------------------------------------------------------------------------- */

/* magic, be32 version, be32 length, body, SHA-256 of all that precedes. */
static uint8_t *frame(const void *body, size_t len, size_t *ret_len)
{
	uint8_t *p = malloc(HEAD + len + SUM);

	if (!p)
		return NULL;
	memcpy(p, magic, sizeof(magic));
	put_be32(p + 8, 1);
	put_be32(p + 12, (uint32_t)len);
	memcpy(p + HEAD, body, len);
	SHA256(p, HEAD + len, p + HEAD + len);
	*ret_len = HEAD + len + SUM;
	return p;
}

static int write_all(int fd, const uint8_t *p, size_t len)
{
	while (len) {
		ssize_t n = write(fd, p, len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

static int write_temp(int dir, const char *tmp, const uint8_t *p, size_t len)
{
	int r = step("open");
	int fd = r < 0 ? -1 : openat(dir, tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (fd < 0)
		return r < 0 ? r : -errno;
	r = step("write");
	if (r == 0)
		r = write_all(fd, p, len);
	if (r == 0)
		r = step("fsync");
	if (r == 0 && fsync(fd) < 0)
		r = -errno;
	if (close(fd) < 0 && r == 0)
		r = -errno;
	return r;
}

static int file_put(int dir, const char *name, const void *body, size_t len)
{
	char tmp[128];
	size_t total;
	uint8_t *p = frame(body, len, &total);

	if (!p)
		return -ENOMEM;
	snprintf(tmp, sizeof(tmp), "%s.tmp%d", name, (int)getpid());
	int r = write_temp(dir, tmp, p, total);
	free(p);
	if (r == 0)
		r = step("rename");
	if (r == 0 && renameat(dir, tmp, dir, name) < 0)
		r = -errno;
	if (r < 0) {
		unlinkat(dir, tmp, 0);
		return r;
	}
	r = step("dirsync");
	return r < 0 ? r : fsync(dir) < 0 ? -errno : 0;
}

static bool whole(const uint8_t *p, size_t len)
{
	uint8_t sum[SUM];

	if (len < HEAD + SUM || memcmp(p, magic, sizeof(magic)) != 0 || be32(p + 8) != 1 ||
	    be32(p + 12) != len - HEAD - SUM)
		return false;
	SHA256(p, len - SUM, sum);
	return memcmp(sum, p + len - SUM, SUM) == 0;
}

/* Bytes of the body, -ENOENT, -EBADMSG (damaged), -EMSGSIZE (more than room). */
static int file_get(int dir, const char *name, void *body, size_t room)
{
	int fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	struct stat st;
	uint8_t *p;

	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0 || st.st_size > (off_t)(MAX((size_t)BODY_MAX, room) + HEAD + SUM)) {
		close(fd);
		return -EBADMSG;
	}
	p = malloc((size_t)st.st_size + 1);
	ssize_t n = p ? read(fd, p, (size_t)st.st_size) : -1;
	int r = !p ? -ENOMEM : n < 0 ? -errno : 0;
	close(fd);
	if (r == 0 && !whole(p, (size_t)n))
		r = -EBADMSG;
	if (r == 0 && be32(p + 12) > room)
		r = -EMSGSIZE;
	if (r == 0) {
		r = (int)be32(p + 12);
		memcpy(body, p + HEAD, (size_t)r);
	}
	free(p);
	return r;
}

/* --- identities --------------------------------------------------------------------------------------- */

static void hex(const uint8_t *p, size_t n, char *out)
{
	for (size_t i = 0; i < n; i++)
		snprintf(out + 2 * i, 3, "%02x", p[i]);
}

static void key_of(const char *name, char key[KEY_HEX + 1])
{
	uint8_t sum[SUM];

	SHA256((const uint8_t *)name, strlen(name), sum);
	hex(sum, KEY_HEX / 2, key);
}

static int random_id(uint8_t id[ID_BYTES], struct err *e)
{
	ssize_t n = getrandom(id, ID_BYTES, 0);

	return n == ID_BYTES ? 0 : err_set(e, -EIO, "no random numbers: %s", strerror(errno));
}

static int damaged(struct store *s, const char *name, const char *key, struct err *e)
{
	return err_set(e, -EBADMSG,
		"the identity of '%.64s' in %.200s/volumes/%s is damaged; restore that file, or remove it to give the "
		"disk a new identity", name, s->dir, key);
}

static int identity_new(struct store *s, const char *name, const char *key, uint8_t id[ID_BYTES], struct err *e)
{
	uint8_t body[ID_BYTES + 512];
	size_t n = strnlen(name, 512);
	int r = random_id(id, e);

	if (r < 0)
		return r;
	memcpy(body, id, ID_BYTES);
	memcpy(body + ID_BYTES, name, n); /* for people who look, and against a clash of keys */
	r = file_put(s->volumes, key, body, ID_BYTES + n);
	if (r < 0)
		return err_set(e, r, "cannot keep the identity of '%.64s' in %.200s: %s", name, s->dir, strerror(-r));
	return 0;
}

static int store_identity(void *ctx, const char *name, bool volatile_, uint8_t id[ID_BYTES], struct err *e)
{
	struct store *s = ctx;
	uint8_t body[ID_BYTES + 512];
	char key[KEY_HEX + 1];

	if (volatile_)
		return random_id(id, e);
	key_of(name, key);
	int n = file_get(s->volumes, key, body, sizeof(body));
	if (n == -ENOENT)
		return identity_new(s, name, key, id, e);
	if (n == -EBADMSG || (n >= 0 && n < ID_BYTES))
		return damaged(s, name, key, e);
	if (n < 0)
		return err_set(e, n, "cannot read the identity of '%.64s' in %.200s: %s", name, s->dir, strerror(-n));
	memcpy(id, body, ID_BYTES);
	return 0;
}

int store_forget(struct store *s, const char *name, struct err *e)
{
	char key[KEY_HEX + 1];

	key_of(name, key);
	if (unlinkat(s->volumes, key, 0) < 0 && errno != ENOENT)
		return err_set(e, -errno, "cannot renew the identity of '%.64s': %s", name, strerror(errno));
	return fsync(s->volumes) < 0 ? err_set(e, -errno, "cannot renew the identity of '%.64s': %s", name,
		strerror(errno)) : 0;
}

/* --- saved pages -------------------------------------------------------------------------------------- */

static int lu_file(const uint8_t id[ID_BYTES], const char *what, char *out, size_t len)
{
	char text[2 * ID_BYTES + 1];

	if (!what[0] || strlen(what) > 32 || strpbrk(what, "/."))
		return -EINVAL;
	hex(id, ID_BYTES, text);
	snprintf(out, len, "%s.%s", text, what);
	return 0;
}

static int store_load(void *ctx, const uint8_t id[ID_BYTES], const char *what, void *buf, size_t len)
{
	struct store *s = ctx;
	char name[80];
	int r = lu_file(id, what, name, sizeof(name));

	if (r == 0)
		r = file_get(s->lu, name, buf, len);
	if (r == -EBADMSG)
		log_error("state damaged file=%s/lu/%s", s->dir, name); /* what then is the unit's to say */
	return r;
}

static int store_save(void *ctx, const uint8_t id[ID_BYTES], const char *what, const void *buf, size_t len)
{
	struct store *s = ctx;
	char name[80];
	int r = len > BODY_MAX - HEAD - SUM ? -EMSGSIZE : lu_file(id, what, name, sizeof(name));

	if (r == 0)
		r = file_put(s->lu, name, buf, len);
	if (r < 0)
		log_error("state not saved dir=%s what=%s reason=\"%s\"", s->dir, what, strerror(-r));
	return r;
}

/* --- files of the server's own ------------------------------------------------------------------------ */

enum { OWN_MAX = 64 << 20 };

int store_put(struct store *s, const char *name, const void *body, size_t len)
{
	return len > OWN_MAX ? -EMSGSIZE : file_put(s->root, name, body, len);
}

int store_get(struct store *s, const char *name, char **ret)
{
	struct stat st;

	if (fstatat(s->root, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	if (st.st_size > OWN_MAX + HEAD + SUM)
		return -EMSGSIZE;
	char *p = malloc((size_t)st.st_size + 1);
	int r = p ? file_get(s->root, name, p, (size_t)st.st_size) : -ENOMEM;
	if (r == -EBADMSG)
		log_error("state damaged file=%s/%s", s->dir, name);
	if (r < 0) {
		free(p);
		return r;
	}
	p[r] = 0;
	*ret = p;
	return r;
}

int64_t store_now_s(void)
{
	return time(NULL);
}

/* --- claims ------------------------------------------------------------------------------------------- */

static struct claim *claim_find(struct store *s, const char *key)
{
	struct claim *c;

	list_for_each(c, &s->claims, node)
		if (strcmp(c->key, key) == 0)
			return c;
	return NULL;
}

static int claim_lock(struct store *s, const char *name, int fd, struct err *e)
{
	struct flock fl = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	char pid[32] = "";

	if (fcntl(fd, F_OFD_SETLK, &fl) < 0) {
		int r = -errno;
		ssize_t n = pread(fd, pid, sizeof(pid) - 1, 0);
		pid[n > 0 ? n : 0] = 0;
		return err_set(e, r == -EACCES || r == -EAGAIN ? -EBUSY : r,
			"'%.64s' is served by another lunetted%s%s with the same state directory %.120s; stop it, or "
			"give one of them its own with --state DIR", name, pid[0] ? " pid " : "", pid, s->dir);
	}
	int n = snprintf(pid, sizeof(pid), "%d", (int)getpid());
	if (ftruncate(fd, 0) < 0 || pwrite(fd, pid, (size_t)n, 0) != n)
		return err_set(e, -errno, "cannot write in %.200s: %s", s->dir, strerror(errno));
	return 0;
}

int store_claim(struct store *s, const char *name, struct err *e)
{
	char file[KEY_HEX + 8], key[KEY_HEX + 1];

	key_of(name, key);
	if (claim_find(s, key))
		return err_set(e, -EBUSY, "'%.64s' is in use already", name);
	snprintf(file, sizeof(file), "%s.lock", key);
	struct claim *c = malloc(sizeof(*c));
	int fd = openat(s->volumes, file, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (!c || fd < 0) {
		int r = c ? -errno : -ENOMEM;
		free(c);
		if (fd >= 0)
			close(fd);
		return err_set(e, r, "cannot write in %.200s: %s; choose another with --state DIR", s->dir,
			strerror(-r));
	}
	int r = claim_lock(s, name, fd, e);
	if (r < 0) {
		close(fd);
		free(c);
		return r;
	}
	c->fd = fd;
	memcpy(c->key, key, sizeof(c->key));
	list_add_tail(&s->claims, &c->node);
	return 0;
}

static void claim_drop(struct claim *c)
{
	close(c->fd); /* the file stays: removing it would race with another process that opens it */
	list_del(&c->node);
	free(c);
}

void store_release(struct store *s, const char *name)
{
	char key[KEY_HEX + 1];

	key_of(name, key);
	struct claim *c = claim_find(s, key);
	if (c)
		claim_drop(c);
}

/* --- the directory ------------------------------------------------------------------------------------ */

/* A directory that was just made lasts when its parent is on the disk. */
static void sync_parent(const char *path)
{
	char parent[4096];

	snprintf(parent, sizeof(parent), "%s", path);
	char *slash = strrchr(parent, '/');
	if (!slash)
		snprintf(parent, sizeof(parent), ".");
	else
		slash[slash == parent] = 0;
	int fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return;
	if (fsync(fd) < 0)
		log_warn("state directory not synced dir=%s reason=\"%s\"", parent, strerror(errno));
	close(fd);
}

static int make_dirs(const char *dir, struct err *e)
{
	char path[4096];

	if ((size_t)snprintf(path, sizeof(path), "%s", dir) >= sizeof(path))
		return err_set(e, -ENAMETOOLONG, "the name of the state directory is too long");
	for (char *p = path + 1;; p++) {
		char c = *p;
		if (c != '/' && c != 0)
			continue;
		*p = 0;
		if (mkdir(path, 0700) == 0)
			sync_parent(path);
		else if (errno != EEXIST)
			return err_set(e, -errno, "cannot make the state directory %.200s: %s; choose another with --state DIR",
				path, strerror(errno));
		*p = c;
		if (c == 0)
			return 0;
	}
}

static int open_sub(const char *dir, const char *sub, int *ret, struct err *e)
{
	char path[4096];

	snprintf(path, sizeof(path), "%s/%s", dir, sub);
	int r = make_dirs(path, e);
	if (r < 0)
		return r;
	*ret = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (*ret < 0 || faccessat(*ret, ".", W_OK | X_OK, AT_EACCESS) < 0)
		return err_set(e, -errno, "cannot write in %.200s: %s; choose another with --state DIR", path,
			strerror(errno));
	return 0;
}

/* "NAME.tmpPID" of a process that is no more, which a crash left between writing and renaming. Our own number was
 * another's. */
static bool is_leftover(const char *name)
{
	const char *tmp = strstr(name, ".tmp");
	uint64_t pid;

	if (!tmp || parse_uint(tmp + 4, &pid) < 0 || !pid || pid > INT32_MAX)
		return false;
	return pid == (uint64_t)getpid() || (kill((pid_t)pid, 0) < 0 && errno == ESRCH);
}

static void sweep(int dir)
{
	int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* fdopendir() takes it */
	DIR *d = fd < 0 ? NULL : fdopendir(fd);

	if (!d) {
		if (fd >= 0)
			close(fd);
		return; /* they cost room, no more */
	}
	for (struct dirent *e = readdir(d); e; e = readdir(d))
		if (is_leftover(e->d_name) && unlinkat(dir, e->d_name, 0) < 0)
			log_warn("state leftover not removed file=%s reason=\"%s\"", e->d_name, strerror(errno));
	closedir(d);
}

int store_open(struct store **ret, const char *dir, struct loop *control, struct err *e)
{
	struct store *s = calloc(1, sizeof(*s));

	if (!s)
		return err_set(e, -ENOMEM, "out of memory");
	s->root = s->volumes = s->lu = -1;
	list_init(&s->claims);
	s->ops = (struct lu_store){ store_identity, store_load, store_save, s, control };
	s->dir = dir ? strdup(dir) : dirs_state();
	int r = s->dir ? open_sub(s->dir, "volumes", &s->volumes, e) : err_set(e, -ENOMEM, "out of memory");
	if (r == 0)
		r = open_sub(s->dir, "lu", &s->lu, e);
	if (r == 0)
		r = open_sub(s->dir, ".", &s->root, e);
	if (r < 0) {
		store_close(s);
		return r;
	}
	sweep(s->root);
	sweep(s->volumes);
	sweep(s->lu);
	*ret = s;
	return 0;
}

void store_close(struct store *s)
{
	if (!s)
		return;
	while (!list_empty(&s->claims))
		claim_drop(list_first(&s->claims, struct claim, node));
	if (s->root >= 0)
		close(s->root);
	if (s->volumes >= 0)
		close(s->volumes);
	if (s->lu >= 0)
		close(s->lu);
	free(s->dir);
	free(s);
}

const char *store_dir(const struct store *s)
{
	return s->dir;
}

const struct lu_store *store_lu(struct store *s)
{
	return &s->ops;
}
