/* SPDX-License-Identifier: BSD-3-Clause
 * The target's login phase as an engine without I/O (RFC 7143 sections 6, 8, 9.2, 11.12, 11.13, 13). The
 * connection feeds it whole Login Requests (header and data; header and data digests are never used in login)
 * and sends the Login Responses it makes. It also answers text negotiation of discovery and full feature phase.
 * Called on the connection's loop. Everything from the peer is hostile. */
#ifndef LUNETTE_ISCSI_LOGIN_H
#define LUNETTE_ISCSI_LOGIN_H

#include "iscsi/params.h"
#include "iscsi/pdu.h"

/* One CHAP user that may log in here. Borrowed from configuration while a login runs. */
struct iscsi_chap_user {
	const char *name, *secret;
	const char *previous;  /* a secret that is being replaced, or NULL */
	int64_t     until_s;   /* seconds since 1970 (UTC) from which on it is refused; 0 = accepted as long as it is set */
};

/* What the host decides when the login has named initiator and target (asked once per leading login, before
 * authentication). All pointers stay valid until iscsi_login_free(). */
struct iscsi_login_policy {
	uint16_t status;                     /* enum iscsi_login_status: 0, or refuse/redirect at once */
	const char *why;                     /* of status, for the log; NULL = by what it means */
	const char *redirect;                /* TargetAddress for LOGIN_MOVED_* */
	const char *alias;                   /* TargetAlias or NULL */
	const char *target;                  /* canonical name, NULL for discovery */
	uint16_t tpgt;                       /* TargetPortalGroupTag to declare */
	const struct iscsi_offer *offer;
	const struct iscsi_chap_user *users; /* one-way: any of these; nusers 0 = no authentication is needed */
	unsigned nusers;
	const struct iscsi_chap_user *mutual; /* our own name and secret, or NULL */
	bool require_mutual;
	unsigned chap_algs;                  /* bit mask of 1 << alg (5 MD5, 6 SHA1, 7 SHA-256, 8 SHA3-256) */
	int64_t now_s;                       /* wall clock of the host, for iscsi_chap_user.until_s */
};

enum iscsi_login_next {
	ISCSI_LOGIN_MORE,    /* a response is ready to send (tx); then feed the next request */
	ISCSI_LOGIN_ASK,     /* names are known: fill the policy, then call iscsi_login_policy() */
	ISCSI_LOGIN_ADMIT,   /* authenticated and negotiated: the host registers the session (TSIH, reinstatement),
	                      * then calls iscsi_login_admit() */
	ISCSI_LOGIN_DONE,    /* the final response is ready; after it full feature phase begins */
	ISCSI_LOGIN_FAIL,    /* a response with a failure status may be ready; send it, then close. why says the reason */
};

struct iscsi_login;
struct iscsi_login *iscsi_login_new(void (*random)(void *p, size_t n)); /* NULL: out of memory */
void iscsi_login_free(struct iscsi_login *l);

/* One Login Request with its data segment. */
enum iscsi_login_next iscsi_login_rx(struct iscsi_login *l, const uint8_t bhs[ISCSI_BHS], const void *data, uint32_t len);
enum iscsi_login_next iscsi_login_policy(struct iscsi_login *l, const struct iscsi_login_policy *p);
/* status 0 or a refusal; tsih: of the session; exp_cmd_sn/max_cmd_sn go into the final response. */
enum iscsi_login_next iscsi_login_admit(struct iscsi_login *l, uint16_t status, uint16_t tsih, uint32_t exp_cmd_sn,
	uint32_t max_cmd_sn);

/* The response, complete but for nothing: BHS (with StatSN, ExpCmdSN, MaxCmdSN, TSIH) and data. Valid until the
 * next call. Returns false when there is none. */
bool iscsi_login_tx(struct iscsi_login *l, uint8_t bhs[ISCSI_BHS], const void **data, uint32_t *len);

/* Known from the first request on. */
const struct iscsi_params *iscsi_login_params(const struct iscsi_login *l);
const uint8_t *iscsi_login_isid(const struct iscsi_login *l); /* 6 bytes */
uint16_t iscsi_login_tsih(const struct iscsi_login *l);       /* as the initiator asked: 0 = new session */
uint16_t iscsi_login_cid(const struct iscsi_login *l);
uint32_t iscsi_login_exp_stat_sn(const struct iscsi_login *l); /* of the connection that is reinstated, 11.12.9 */
uint32_t iscsi_login_cmd_sn(const struct iscsi_login *l);     /* the session's first CmdSN to expect in FFP */
uint32_t iscsi_login_stat_sn(const struct iscsi_login *l);    /* the next StatSN after the final response */
const char *iscsi_login_user(const struct iscsi_login *l);    /* CHAP user that passed, or NULL */
bool iscsi_login_bad_secret(const struct iscsi_login *l);     /* it failed, because of who it is not */
bool iscsi_login_previous(const struct iscsi_login *l);       /* it passed with its previous secret */
const char *iscsi_login_why(const struct iscsi_login *l);     /* for the log: why it failed, words without secrets */

/* --- text.c: key=value lists ----------------------------------------------------------------------------- */

/* Accumulates the data segments of one text sequence (C bit). max: bytes, 0 = LIM_LOGIN_TEXT. */
struct iscsi_text { char *buf; uint32_t len, size, max; };
int  iscsi_text_add(struct iscsi_text *t, const void *data, uint32_t len); /* -EMSGSIZE past max, -ENOMEM */
void iscsi_text_free(struct iscsi_text *t);
/* Walks pairs: *pos = 0 at first; returns 1 and key/value (NUL-terminated inside buf), 0 at the end, -EPROTO for a
 * pair without '=', a key that breaks 6.1, or text after the last NUL. */
int  iscsi_text_next(struct iscsi_text *t, uint32_t *pos, char **key, char **value);
/* Appends "key=value\0". */
int  iscsi_text_put(struct iscsi_text *t, const char *key, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* What RFC 3722 makes of a character beyond ASCII; 0 = refused. prep.c. */
uint32_t iscsi_prep(uint32_t c);
/* Names, RFC 7143 4.2.7: checks and normalizes in place. 0 or -EINVAL with the reason in *why. */
int iscsi_name_check(char *name, const char **why);

#endif
