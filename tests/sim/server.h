/* SPDX-License-Identifier: BSD-3-Clause
 * The server under test in the simulated world: the real net/, iscsi/, scsi/ and block/ over one simulated disk. */
#ifndef LUNETTE_TESTS_SIM_SERVER_H
#define LUNETTE_TESTS_SIM_SERVER_H

#include "iscsi/params.h"

#define SERVER_TARGET "iqn.2026-11.sim.lunette:disk"
#define SERVER_USER "alice"
#define SERVER_SECRET "one-way-secret"
#define SERVER_NAME "disk"
#define SERVER_NAME_SECRET "and-the-way-back"
enum { SERVER_PORT = 3260, SERVER_BLOCKS = 512, SERVER_DISK_BYTES = SERVER_BLOCKS * 512 };

struct server_conf {
	unsigned loops;
	bool     wce, ram; /* ram: a RAM disk; it does not survive */
	bool     chap;
	struct iscsi_offer offer;
};

/* Starts on the disk; the world runs until it listens. Fails the test when it does not. */
void server_start(const struct server_conf *c, int disk_fd);
/* kill -9, or the mains fail. Returns the disk's new descriptor. The old server's objects are taken down in a
 * corner of the world that nobody sees. */
int  server_kill(bool power);
/* Its loops and its control thread get no processor for so long. */
void server_stall(uint64_t ns);
/* In good order, at the end of a run. */
void server_stop(void);
void test_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));

#endif
