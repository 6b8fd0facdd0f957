/* SPDX-License-Identifier: BSD-3-Clause
 * Runs a fuzz target without libFuzzer: every file of a corpus, then seeded mutations of them. The same arguments give
 * the same inputs. An input that ends the program is left in fuzz-crash.bin, which can be given back as a file.
 *
 *   fuzz_X_replay [-n MUTATIONS] [-s SEED] FILE|FOLDER... */
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fuzz.h"

enum { INPUT_MAX = 256 << 10, FILES_MAX = 4096 };

struct input { uint8_t *data; size_t len; };

static struct input corpus[FILES_MAX];
static unsigned nfiles;
static uint8_t now[INPUT_MAX]; /* the input that runs */
static size_t now_len;
static uint64_t rng;

static uint32_t rnd(uint32_t below)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return below ? (uint32_t)(rng >> 11) % below : 0;
}

static void on_crash(int sig)
{
	int fd = open("fuzz-crash.bin", O_WRONLY | O_CREAT | O_TRUNC, 0644);

	if (fd >= 0 && write(fd, now, now_len) >= 0)
		close(fd);
	signal(sig, SIG_DFL);
	raise(sig);
}

static void load_file(const char *path)
{
	FILE *f = fopen(path, "rb");

	if (!f || nfiles == FILES_MAX) {
		fprintf(stderr, "%s: cannot read\n", path);
		exit(2);
	}
	uint8_t *data = malloc(INPUT_MAX);
	size_t len = data ? fread(data, 1, INPUT_MAX, f) : 0;
	fclose(f);
	corpus[nfiles++] = (struct input){ data, len };
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static void load(const char *path)
{
	struct dirent **names;
	struct stat st;

	if (stat(path, &st) || !S_ISDIR(st.st_mode)) {
		load_file(path);
		return;
	}
	int n = scandir(path, &names, NULL, by_name);
	for (int i = 0; i < n; i++) {
		char full[4096];
		snprintf(full, sizeof(full), "%s/%s", path, names[i]->d_name);
		if (names[i]->d_name[0] != '.')
			load_file(full);
		free(names[i]);
	}
	if (n >= 0)
		free(names);
}

static void run(void)
{
	uint8_t *exact = malloc(now_len ? now_len : 1); /* so that a sanitizer sees a read past the end */

	if (!exact)
		exit(2);
	memcpy(exact, now, now_len);
	LLVMFuzzerTestOneInput(exact, now_len);
	free(exact);
}

static void take(const struct input *in)
{
	memcpy(now, in->data, in->len);
	now_len = in->len;
}

static void cut(size_t at, size_t len)
{
	memmove(now + at, now + at + len, now_len - at - len);
	now_len -= len;
}

static void paste(size_t at, const uint8_t *data, size_t len)
{
	if (len > INPUT_MAX - now_len)
		return;
	memmove(now + at + len, now + at, now_len - at);
	memcpy(now + at, data, len);
	now_len += len;
}

/* One small change. */
static void mutate(void)
{
	static const uint8_t odd[] = { 0, 1, 0x7f, 0x80, 0xff, '=', ',', '\n', '|', '0' };
	size_t at = rnd((uint32_t)now_len + 1), left = now_len - at;
	const struct input *other = &corpus[rnd(nfiles)];
	size_t from = rnd((uint32_t)other->len + 1);
	uint8_t byte = odd[rnd(sizeof(odd))];

	switch (rnd(6)) {
	case 0:
		if (left)
			now[at] ^= (uint8_t)(1u << rnd(8));
		break;
	case 1:
		if (left)
			now[at] = byte;
		break;
	case 2:
		cut(at, rnd((uint32_t)(left < 64 ? left : 64) + 1));
		break;
	case 3:
		paste(at, &byte, 1);
		break;
	case 4:
		paste(at, other->data + from, rnd((uint32_t)(other->len - from < 256 ? other->len - from : 256) + 1));
		break;
	default:
		if (left)
			now[at] = (uint8_t)rnd(256);
	}
}

int main(int argc, char **argv)
{
	unsigned long mutations = 0, seed = 1;
	int opt;

	while ((opt = getopt(argc, argv, "n:s:")) != -1) {
		if (opt == 'n')
			mutations = strtoul(optarg, NULL, 0);
		else if (opt == 's')
			seed = strtoul(optarg, NULL, 0);
		else
			return 2;
	}
	for (int i = optind; i < argc; i++)
		load(argv[i]);
	if (!nfiles) {
		fprintf(stderr, "no input\n");
		return 2;
	}
	signal(SIGABRT, on_crash);
	signal(SIGSEGV, on_crash);
	for (unsigned i = 0; i < nfiles; i++) {
		take(&corpus[i]);
		run();
	}
	for (unsigned long i = 0; i < mutations; i++) {
		rng = (seed * 0x9e3779b97f4a7c15ull) ^ (i + 1) * 0xbf58476d1ce4e5b9ull;
		take(&corpus[rnd(nfiles)]);
		for (uint32_t k = 1 + rnd(6); k; k--)
			mutate();
		run();
	}
	printf("%u inputs, %lu mutations, seed %lu\n", nfiles, mutations, seed);
	for (unsigned i = 0; i < nfiles; i++)
		free(corpus[i].data);
	return 0;
}
