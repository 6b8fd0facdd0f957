/* SPDX-License-Identifier: BSD-3-Clause
 * Private to the initiator's engine.
 *
 *   initiator.c        life, requests, events, timeouts
 *   initiator_rx.c     bytes -> PDUs -> results
 *   initiator_tx.c     requests -> bytes: batches, Data-Out, digests
 *   initiator_login.c  login phase: stages, CHAP, keys */
#ifndef LUNETTE_ISCSI_INITIATOR_IMPL_H
#define LUNETTE_ISCSI_INITIATOR_IMPL_H

#include "iscsi/chap.h"
#include "iscsi/initiator.h"
#include "iscsi/keys.h"

enum {
	INI_IOV = 1024,
	INI_HDR = 64 << 10,         /* header, padding and digest bytes of one batch */
	INI_PDU_OVERHEAD = 64,      /* header, its digest, padding, data digest */
	INI_EVENTS_MAX = 256,       /* events that a peer may queue up before it is cut off */
	INI_TMF_MAX = 16,
	INI_ITT_OWN = 1u << 31,     /* ITTs of requests that are no SCSI commands */
};

enum ini_state { INI_LOGIN, INI_FFP, INI_LOGGED_OUT, INI_CLOSED };
enum ini_step { STEP_METHOD, STEP_CHAP_A, STEP_CHAP_R, STEP_OPERATIONAL };
enum ini_rx { RX_BHS, RX_DATA, RX_TRAILER };

/* A request that is no SCSI command. */
struct ini_ctl {
	struct list node;
	bool        sn_set;         /* gets CmdSN and ExpStatSN when sent */
	uint8_t     bhs[ISCSI_BHS];
	uint32_t    len;
	uint8_t     data[];
};

struct ini_tmf { bool used; uint8_t function; uint32_t itt, cmd_sn; uint64_t lun; struct iscsi_ini_cmd *ref; void *ctx; };

struct ini_event { struct list node; struct iscsi_ini_event ev; char data[]; };

struct iscsi_ini {
	struct iscsi_ini_conf conf;
	struct iscsi_params   params;
	enum ini_state        state;
	const char           *why;
	unsigned              closed_code;
	bool                  closed_told;
	bool                  header_digest, data_digest; /* in force */
	uint16_t              tsih;
	char                  moved[288];  /* TargetAddress of a "target moved" answer, or empty */
	uint32_t              cmd_sn, exp_stat_sn, max_cmd_sn, own_itt;
	bool                  stat_sn_known;

	/* login */
	enum ini_step         step;
	struct iscsi_keys     keys;
	struct iscsi_text     text;             /* what the target said, over all C bits */
	unsigned              login_pdus;
	uint8_t               challenge[16], chap_id;
	int                   chap_alg;
	uint8_t               csg, nsg;

	/* commands */
	struct iscsi_ini_cmd **slot;            /* by ITT & mask */
	uint32_t             *gen, *free_slot;
	unsigned              nslots, nfree, max_cmds;
	struct list           waiting, data, done, linger;
	struct ini_tmf        tmf[INI_TMF_MAX];

	/* events and control requests */
	struct list           events, ctl;
	struct ini_event     *last_event;       /* its data is lent until the next iscsi_ini_next() */
	unsigned              nevents;

	/* receive */
	enum ini_rx           rx_state;
	uint8_t               rx_hdr[ISCSI_BHS + LIM_AHS + 4];
	uint32_t              rx_have, rx_need;
	const uint8_t        *bhs;
	uint8_t               rx_bhs[ISCSI_BHS];
	uint32_t              rx_len, rx_at, rx_crc, rx_trailer;
	struct iscsi_ini_cmd *rx_cmd;           /* of a Data-In */
	uint32_t              rx_off;
	uint8_t              *rx_buf;           /* data of anything else */
	uint8_t               rx_tail[8];

	/* transmit */
	struct iovec          iov[INI_IOV];
	int                   niov, at;
	uint32_t              hdr_used, batch;
	size_t                left;
	uint8_t              *hdr;

	uint64_t              now_ns, born_ns, heard_ns, pinged_ns;
	bool                  heard;
};

/* initiator.c */
void ini_close(struct iscsi_ini *i, unsigned code, const char *why);
void ini_finish(struct iscsi_ini *i, struct iscsi_ini_cmd *c, int error);
void ini_event(struct iscsi_ini *i, enum iscsi_ini_event_kind kind, unsigned code, const void *data, uint32_t len, void *ctx);
struct ini_ctl *ini_ctl(struct iscsi_ini *i, uint8_t opcode, uint32_t itt, const void *data, uint32_t len);
struct iscsi_ini_cmd *ini_find(struct iscsi_ini *i, uint32_t itt);
void ini_tmf_done(struct iscsi_ini *i, uint32_t itt, uint8_t response);
/* initiator_login.c */
void ini_login_start(struct iscsi_ini *i);
void ini_login_rx(struct iscsi_ini *i, const uint8_t *bhs, const void *data, uint32_t len);
void ini_text_rx(struct iscsi_ini *i, const uint8_t *bhs, const void *data, uint32_t len);
/* initiator_tx.c */
void ini_tx_fini(struct iscsi_ini *i);

#endif
