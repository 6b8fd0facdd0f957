/* SPDX-License-Identifier: BSD-3-Clause
 * The target's engine with a RAM disk behind it and a test in front: no socket, no thread. Bytes go in in
 * pieces of any size, what comes out is collected. For unit tests and the PDU fuzzer. */
#ifndef LUNETTE_TESTS_DUPLEX_H
#define LUNETTE_TESTS_DUPLEX_H

#include "iscsi/conn.h"
#include "scsi/lu.h"

enum { DUPLEX_LU_BYTES = 4 << 20, DUPLEX_MAX = 8 << 20 };

struct duplex {
	struct loop          *loop;
	struct iscsi_pool    *pool;
	struct iscsi_conn    *conn;
	struct iscsi_session *session;
	struct iscsi_session *join;  /* of another duplex: the next login joins it, with session NULL */
	struct scsi_nexus    *nexus;
	struct scsi_target   *target;
	struct lu            *lu;
	struct iscsi_offer    offer;
	struct iscsi_login_policy policy;
	bool                  ready, closed, logged_out;
	unsigned              seen;  /* 1 << kind of every event */
	bool                  ending; /* the connection is being freed: it must not wake its host */
	char                  why[256];
	uint16_t              tsih, cid; /* of the login */
	uint32_t              exp_stat_sn; /* likewise */
	uint8_t              *out;   /* what the target sent */
	size_t                out_len, out_at;
	uint32_t              cmd_sn, itt;
	bool                  header_digest, data_digest; /* of what duplex_pdu() makes and duplex_next() takes */
};

void duplex_init(struct duplex *d);      /* once: loop, RAM disk, target */
void duplex_fini(struct duplex *d);
void duplex_open(struct duplex *d);      /* a connection, not logged in */
/* A further connection for the session of `of`, not logged in. d: not used before, or closed by duplex_drop(). */
void duplex_join(struct duplex *d, struct duplex *of, uint16_t cid);
void duplex_drop(struct duplex *d);      /* its connection is lost; the session stays */
void duplex_close(struct duplex *d);     /* connection gone, nexus closed, all memory back */
/* Feeds bytes in pieces of at most `piece` (0 = as much as is wanted). Stops when the engine wants no more. */
size_t duplex_feed(struct duplex *d, const void *p, size_t n, size_t piece);
/* All of it goes in, as few pieces as the engine takes; nothing runs. Returns what was taken. */
size_t duplex_put(struct duplex *d, const void *p, size_t n);
void duplex_run(struct duplex *d);       /* until nothing is left to do */
/* Builds a PDU (with digests if agreed) at out; returns its length. */
size_t duplex_pdu(const struct duplex *d, uint8_t *out, const uint8_t bhs[48], const void *data, uint32_t len);
void duplex_send(struct duplex *d, const uint8_t bhs[48], const void *data, uint32_t len); /* and runs */
/* The next whole PDU of the target; NULL: none. data: its segment. CRCs are checked. */
const uint8_t *duplex_next(struct duplex *d, const uint8_t **data, uint32_t *len);
/* Logs in with these further keys ("Key=value\0..."), CSG 1 to full feature phase. */
void duplex_login(struct duplex *d, const char *keys, size_t len);
/* A command header with fresh ITT and CmdSN. */
void duplex_cmd(struct duplex *d, uint8_t bhs[48], uint8_t flags, uint32_t edtl, const uint8_t cdb[16]);

#endif
