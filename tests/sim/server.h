/* SPDX-License-Identifier: BSD-3-Clause
 * The server under test in the simulated world: the real net/, iscsi/, scsi/ and block/ over one simulated disk. */
#ifndef LUNETTE_TESTS_SIM_SERVER_H
#define LUNETTE_TESTS_SIM_SERVER_H

#include "iscsi/params.h"

#define SERVER_TARGET "iqn.2026-11.sim.lunette:disk"
enum { SERVER_PORT = 3260, SERVER_BLOCKS = 512, SERVER_DISK_BYTES = SERVER_BLOCKS * 512 };

struct server_conf {
	unsigned loops;
	bool     wce, ram; /* ram: a RAM disk; it does not survive */
	struct iscsi_offer offer;
};

/* Starts on the disk; the world runs until it listens. Fails the test when it does not. */
void server_start(const struct server_conf *c, int disk_fd);
/* kill -9, or the mains fail. Returns the disk's new descriptor. The old server's objects are taken down in a
 * corner of the world that nobody sees. */
int  server_kill(bool power);
/* In good order, at the end of a run. */
void server_stop(void);
void test_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));

#endif
