/* SPDX-License-Identifier: BSD-3-Clause
 * The target's side of the security stage, RFC 7143 6.3.2 and 12.1: which method, and the CHAP exchange. Private
 * to login.c. */
#ifndef LUNETTE_ISCSI_AUTH_H
#define LUNETTE_ISCSI_AUTH_H

#include "iscsi/chap.h"
#include "iscsi/login.h"

enum auth_state {
	AUTH_START,      /* no method chosen */
	AUTH_PROPOSED,   /* the initiator left the proposal to us */
	AUTH_CHAP,       /* method chosen; CHAP_A comes next */
	AUTH_CHALLENGED, /* our challenge is out */
	AUTH_PASSED,     /* or no authentication is needed */
};

struct iscsi_auth {
	enum auth_state state;
	int         alg;
	uint8_t     id;
	uint8_t     challenge[CHAP_DIGEST_MAX];
	size_t      challenge_len;
	const char *user;      /* that passed; borrowed from the policy */
	bool        previous;  /* with its previous secret */
	char        why[400];
};

/* Values of the security keys of one text; NULL = absent. */
struct auth_keys {
	const char *method, *chap_a, *chap_i, *chap_c, *chap_n, *chap_r;
	bool transit; /* T bit: the initiator wants to leave the stage */
};

/* One text of the security stage. Answers go to out. 0, or enum iscsi_login_status with a->why. */
uint16_t auth_step(struct iscsi_auth *a, const struct iscsi_login_policy *p, const struct auth_keys *k,
	void (*random)(void *p, size_t n), struct iscsi_text *out);

#endif
