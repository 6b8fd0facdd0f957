/* SPDX-License-Identifier: BSD-3-Clause
 * Asynchronous messages, RFC 7143 11.9: what the target says without having been asked. All of them need full feature
 * phase; before it, and after the end, nothing is sent. */
#include <stdlib.h>

#include "iscsi/impl.h"

enum async_event {                   /* 11.9.1 */
	ASYNC_SCSI, ASYNC_LOGOUT, ASYNC_CONN_DROP, ASYNC_SESSION_DROP, ASYNC_NEGOTIATE, ASYNC_TERMINATED,
};

static struct iscsi_ctl *async(struct iscsi_conn *c, enum async_event event)
{
	struct iscsi_ctl *k = c->state == CONN_FFP && !c->deaf ? tx_ctl_last(c, ISCSI_ASYNC, CTL_STAT_SN) : NULL;

	if (!k)
		return NULL;
	put_be32(k->bhs + BHS_ITT, ISCSI_NO_TAG);
	k->bhs[ASYNC_EVENT] = (uint8_t)event;
	return k;
}

void iscsi_conn_ask_logout(struct iscsi_conn *c, uint16_t seconds)
{
	struct iscsi_ctl *k = async(c, ASYNC_LOGOUT);

	if (k)
		put_be16(k->bhs + ASYNC_P3, seconds);
}

void iscsi_conn_ask_text(struct iscsi_conn *c, uint16_t seconds)
{
	struct iscsi_ctl *k = async(c, ASYNC_NEGOTIATE);

	if (k)
		put_be16(k->bhs + ASYNC_P3, seconds);
}

static struct iscsi_ctl *drop(struct iscsi_conn *c, enum async_event event, uint16_t cid, const uint16_t time[2])
{
	struct iscsi_ctl *k = async(c, event);

	if (!k)
		return NULL;
	put_be16(k->bhs + ASYNC_P1, cid);
	put_be16(k->bhs + ASYNC_P2, time[0]);
	put_be16(k->bhs + ASYNC_P3, time[1]);
	return k;
}

void iscsi_conn_tell_drop(struct iscsi_conn *c, uint16_t cid, uint16_t time2wait, uint16_t time2retain)
{
	drop(c, ASYNC_CONN_DROP, cid, (uint16_t[]){ time2wait, time2retain });
}

void iscsi_conn_tell_session_drop(struct iscsi_conn *c, uint16_t time2wait, uint16_t time2retain)
{
	drop(c, ASYNC_SESSION_DROP, 0, (uint16_t[]){ time2wait, time2retain });
}

void iscsi_conn_quiesce(struct iscsi_conn *c)
{
	c->no_commands = true;
}

void iscsi_conn_drop(struct iscsi_conn *c, bool session, uint16_t time2wait, uint16_t time2retain, const char *why)
{
	struct iscsi_ctl *k = drop(c, session ? ASYNC_SESSION_DROP : ASYNC_CONN_DROP, session ? 0 : c->cid,
		(uint16_t[]){ time2wait, time2retain });

	if (!k) {
		conn_close(c, why);
		return;
	}
	k->after = AFTER_CLOSE;
	c->why = why;
	c->deaf = true;
}

void iscsi_conn_scsi_event(struct iscsi_conn *c, const uint8_t lun[8], const void *sense, uint16_t len)
{
	uint8_t *data = malloc(len + 2u);
	struct iscsi_ctl *k = data ? async(c, ASYNC_SCSI) : NULL;

	if (!k) {
		free(data);
		return;
	}
	memcpy(k->bhs + BHS_LUN, lun, 8);
	put_be16(data, len); /* 11.9.4.1 */
	memcpy(data + 2, sense, len);
	tx_ctl_data(c, k, data, len + 2u);
}

void async_terminated(struct iscsi_conn *c, const uint8_t lun[8])
{
	struct iscsi_ctl *k = async(c, ASYNC_TERMINATED);

	if (k)
		memcpy(k->bhs + BHS_LUN, lun, 8);
}
