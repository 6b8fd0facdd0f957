/* SPDX-License-Identifier: BSD-3-Clause
 * iSCSI PDUs: opcodes, the basic header segment's field offsets, and constants, with the clause of RFC
 * 7143 (or 7144) that defines each. Shared by the target and the initiator. */
#ifndef LUNETTE_ISCSI_PDU_H
#define LUNETTE_ISCSI_PDU_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"

enum { ISCSI_BHS = 48, ISCSI_NO_TAG_32 = -1 };
#define ISCSI_NO_TAG 0xffffffffu

enum iscsi_opcode {                  /* 11.2.1.2 */
	ISCSI_NOP_OUT = 0x00, ISCSI_SCSI_CMD = 0x01, ISCSI_TMF_REQ = 0x02, ISCSI_LOGIN_REQ = 0x03,
	ISCSI_TEXT_REQ = 0x04, ISCSI_DATA_OUT = 0x05, ISCSI_LOGOUT_REQ = 0x06, ISCSI_SNACK = 0x10,
	ISCSI_NOP_IN = 0x20, ISCSI_SCSI_RSP = 0x21, ISCSI_TMF_RSP = 0x22, ISCSI_LOGIN_RSP = 0x23,
	ISCSI_TEXT_RSP = 0x24, ISCSI_DATA_IN = 0x25, ISCSI_LOGOUT_RSP = 0x26, ISCSI_R2T = 0x31,
	ISCSI_ASYNC = 0x32, ISCSI_REJECT = 0x3f,
};

/* Byte offsets in the BHS. Those of one name mean the same in every PDU that has it. */
enum {
	BHS_OPCODE = 0,      /* bit 6: I; bits 5-0: opcode */
	BHS_FLAGS = 1,
	BHS_AHS_LEN = 4,     /* 4-byte words */
	BHS_DATA_LEN = 5,    /* 24 bits, bytes, without padding */
	BHS_LUN = 8,
	BHS_ITT = 16,
	BHS_CMD_SN = 24,     /* requests */
	BHS_EXP_STAT_SN = 28, /* requests */
	BHS_STAT_SN = 24,    /* responses */
	BHS_EXP_CMD_SN = 28, /* responses */
	BHS_MAX_CMD_SN = 32, /* responses */
	BHS_TTT = 20,        /* Data-Out, R2T, NOP, Text, Data-In, SNACK */

	CMD_EDTL = 20, CMD_CDB = 32,                 /* 11.3 */
	RSP_RESPONSE = 2, RSP_STATUS = 3, RSP_SNACK_TAG = 16 + 4, RSP_EXP_DATA_SN = 36, RSP_BIDI_RESID = 40,
	RSP_RESID = 44,                              /* 11.4 */
	RSP_QUALIFIER = 8,                           /* RFC 7144 5.2.1 */
	TMF_RSP_INFO = 8,                            /* RFC 7144 6.4.1 */
	TMF_REF_TAG = 20, TMF_REF_CMD_SN = 32, TMF_EXP_DATA_SN = 36, /* 11.5 */
	DATA_SN = 36, DATA_OFFSET = 40, DATA_RESID = 44, DATA_STATUS = 3, /* 11.7 */
	R2T_SN = 36, R2T_OFFSET = 40, R2T_LEN = 44,  /* 11.8 */
	ASYNC_EVENT = 36, ASYNC_VCODE = 37, ASYNC_P1 = 38, ASYNC_P2 = 40, ASYNC_P3 = 42, /* 11.9 */
	LOGIN_VERSION_MAX = 2, LOGIN_VERSION_MIN = 3, LOGIN_ISID = 8, LOGIN_TSIH = 14, LOGIN_CID = 20, /* 11.12 */
	LOGIN_VERSION_ACTIVE = 3, LOGIN_CLASS = 36, LOGIN_DETAIL = 37, /* 11.13 */
	LOGOUT_CID = 20, LOGOUT_RESPONSE = 2, LOGOUT_TIME2WAIT = 40, LOGOUT_TIME2RETAIN = 42, /* 11.14, 11.15 */
	SNACK_BEG_RUN = 40, SNACK_RUN_LEN = 44,      /* 11.16 */
	REJECT_REASON = 2, REJECT_DATA_SN = 36,      /* 11.17 */
};

enum { /* BHS_FLAGS bits */
	FLAG_FINAL = 0x80,
	FLAG_CONTINUE = 0x40,                        /* Text, Login */
	CMD_READ = 0x40, CMD_WRITE = 0x20, CMD_ATTR = 0x07,
	DATA_ACK = 0x40, DATA_OVERFLOW = 0x04, DATA_UNDERFLOW = 0x02, DATA_STATUS_VALID = 0x01,
	RSP_BIDI_OVERFLOW = 0x10, RSP_BIDI_UNDERFLOW = 0x08, RSP_OVERFLOW = 0x04, RSP_UNDERFLOW = 0x02,
	LOGIN_TRANSIT = 0x80,
	OP_IMMEDIATE = 0x40,                         /* in BHS_OPCODE */
	OP_MASK = 0x3f,
};

enum iscsi_reject {                  /* 11.17.1 */
	REJECT_DATA_DIGEST = 0x02, REJECT_SNACK = 0x03, REJECT_PROTOCOL = 0x04, REJECT_NOT_SUPPORTED = 0x05,
	REJECT_IMMEDIATE = 0x06, REJECT_IN_PROGRESS = 0x07, REJECT_INVALID_DATA_ACK = 0x08, REJECT_INVALID_PDU = 0x09,
	REJECT_LONG_OP = 0x0a, REJECT_LOGOUT = 0x0c,
};

/* Login status, class << 8 | detail, 11.13.5 */
enum iscsi_login_status {
	LOGIN_OK = 0x0000, LOGIN_MOVED_TEMP = 0x0101, LOGIN_MOVED_PERM = 0x0102, LOGIN_INITIATOR_ERROR = 0x0200,
	LOGIN_AUTH_FAILED = 0x0201, LOGIN_FORBIDDEN = 0x0202, LOGIN_NOT_FOUND = 0x0203, LOGIN_REMOVED = 0x0204,
	LOGIN_BAD_VERSION = 0x0205, LOGIN_TOO_MANY_CONNS = 0x0206, LOGIN_MISSING_PARAM = 0x0207,
	LOGIN_CANT_INCLUDE = 0x0208, LOGIN_BAD_SESSION_TYPE = 0x0209, LOGIN_NO_SESSION = 0x020a,
	LOGIN_INVALID_REQUEST = 0x020b, LOGIN_TARGET_ERROR = 0x0300, LOGIN_UNAVAILABLE = 0x0301, LOGIN_NO_RESOURCES = 0x0302,
};

enum iscsi_tmf {                     /* 11.5.1; RFC 7144 4.2 */
	TMF_ABORT_TASK = 1, TMF_ABORT_TASK_SET, TMF_CLEAR_ACA, TMF_CLEAR_TASK_SET, TMF_LU_RESET, TMF_WARM_RESET,
	TMF_COLD_RESET, TMF_REASSIGN, TMF_QUERY_TASK, TMF_QUERY_TASK_SET, TMF_I_T_NEXUS_RESET, TMF_QUERY_ASYNC,
};
enum iscsi_tmf_rsp { /* 11.6.1; RFC 7144 4.3 */
	TMF_RSP_COMPLETE = 0, TMF_RSP_NO_TASK = 1, TMF_RSP_NO_LUN = 2, TMF_RSP_ALLEGIANT = 3, TMF_RSP_NO_REASSIGN = 4,
	TMF_RSP_NOT_SUPPORTED = 5, TMF_RSP_NOT_AUTHORIZED = 6, TMF_RSP_SUCCEEDED = 7, TMF_RSP_REJECTED = 255,
};

static inline uint32_t bhs_data_len(const uint8_t *h) { return be24(h + BHS_DATA_LEN); }
static inline uint32_t pad4(uint32_t n) { return (n + 3) & ~3u; }
/* Serial number arithmetic, RFC 1982 as RFC 7143 4.2.2.1 wants it. */
static inline bool sn_lt(uint32_t a, uint32_t b) { return (int32_t)(a - b) < 0; }
static inline bool sn_le(uint32_t a, uint32_t b) { return (int32_t)(a - b) <= 0; }

#endif
