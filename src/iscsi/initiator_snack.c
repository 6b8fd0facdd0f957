/* SPDX-License-Identifier: BSD-3-Clause
 * The initiator's engine: what level 1 adds - numbers that are missing, SNACK (11.16), commands sent again (7.2.1). At
 * level 0 the same functions find that a number is not the next one and give the connection up. */
#include "iscsi/initiator_impl.h"

enum { SNACK_DATA_R2T = 0, SNACK_STATUS = 1, SNACK_DATA_ACK = 2 };

static struct ini_ctl *snack(struct ini_conn *c, unsigned type, uint32_t itt, uint32_t begin, uint32_t run)
{
	struct ini_ctl *k = ini_ctl(c, ISCSI_SNACK, itt, NULL, 0);

	if (!k)
		return NULL;
	k->bhs[BHS_FLAGS] |= (uint8_t)type;
	/* What it is about may end before it leaves; it must not acknowledge that status (11.16.1). */
	k->sn_set = false;
	put_be32(k->bhs + BHS_EXP_STAT_SN, ini_stat_ack(c));
	put_be32(k->bhs + BHS_TTT, ISCSI_NO_TAG);
	put_be32(k->bhs + SNACK_BEG_RUN, begin);
	put_be32(k->bhs + SNACK_RUN_LEN, run);
	return k;
}

/* --- StatSN --- */

static bool stat_seen(const struct ini_conn *c, uint32_t sn)
{
	uint32_t ahead = sn - c->exp_stat_sn;

	return ahead && ahead <= INI_STATS_AHEAD && (c->stat_seen >> (ahead - 1) & 1);
}

/* Asks for those of from .. end that did not arrive. */
static void stat_ask(struct ini_conn *c, uint32_t from, uint32_t end)
{
	for (uint32_t sn = from; sn_lt(sn, end);) {
		uint32_t begin = sn;

		while (sn_lt(sn, end) && !stat_seen(c, sn))
			sn++;
		if (sn != begin) {
			snack(c, SNACK_STATUS, ISCSI_NO_TAG, begin, sn - begin);
			c->i->stats.status_snacks++;
		}
		while (sn_lt(sn, end) && stat_seen(c, sn))
			sn++;
	}
	c->stat_asked_ns = c->i->now_ns;
}

void ini_stat_ahead(struct ini_conn *c, uint32_t next)
{
	uint32_t from = sn_lt(c->exp_stat_sn, c->stat_asked) ? c->stat_asked : c->exp_stat_sn;

	if (!ini_level(c->i, 1) || sn_le(next, from))
		return;
	if (next - c->exp_stat_sn > INI_STATS_AHEAD) {
		ini_fail(c, 0, "StatSN out of order");
		return;
	}
	stat_ask(c, from, next);
	c->stat_asked = next;
}

void ini_stat_spoilt(struct ini_conn *c, uint32_t sn)
{
	if (!stat_seen(c, sn) && sn_le(c->exp_stat_sn, sn))
		ini_stat_ahead(c, sn + 1);
}

bool ini_stat_sn(struct ini_conn *c, uint32_t sn)
{
	uint32_t ahead = sn - c->exp_stat_sn;
	bool more;

	if (!ahead) {
		do {
			c->exp_stat_sn++;
			more = c->stat_seen & 1;
			c->stat_seen >>= 1;
		} while (more);
		c->stat_tries = 0;
		return true;
	}
	if (!ini_level(c->i, 1) || (sn_lt(c->exp_stat_sn, sn) && ahead > INI_STATS_AHEAD)) {
		ini_fail(c, 0, "StatSN out of order");
		return false;
	}
	if (sn_lt(sn, c->exp_stat_sn) || stat_seen(c, sn)) {
		c->i->stats.duplicates++;
		return false;
	}
	c->stat_seen |= 1ull << (ahead - 1);
	ini_stat_ahead(c, sn);
	return true;
}

/* 11.16.1: SNACKs for a command precede the acknowledgement of its status. */
uint32_t ini_stat_ack(const struct ini_conn *c)
{
	uint32_t ack = c->exp_stat_sn;
	const struct iscsi_ini_cmd *cmd;

	if (c->held)
		list_for_each(cmd, &c->cmds, node)
			if (cmd->ended && sn_lt(cmd->stat_sn, ack))
				ack = cmd->stat_sn;
	return ack;
}

/* --- Data-In --- */

static void gap_add(struct iscsi_ini_cmd *cmd, struct ini_gap g)
{
	struct ini_gap *last = cmd->ngaps ? &cmd->gap[cmd->ngaps - 1] : NULL;

	if (last && (cmd->ngaps == INI_GAPS_MAX || last->end == g.sn)) { /* what lies between comes again */
		last->end = g.end;
		last->off_end = g.off_end;
		return;
	}
	cmd->gap[cmd->ngaps++] = g;
}

static void gap_drop(struct iscsi_ini_cmd *cmd, struct ini_gap *g)
{
	memmove(g, g + 1, (size_t)(&cmd->gap[cmd->ngaps] - (g + 1)) * sizeof(*g));
	cmd->ngaps--;
}

static struct ini_gap *gap_at(struct iscsi_ini_cmd *cmd, uint32_t sn)
{
	for (unsigned k = 0; k < cmd->ngaps; k++)
		if (cmd->gap[k].sn == sn)
			return &cmd->gap[k];
	return NULL;
}

/* 11.7; PDUs and sequences are in order (13.18, 13.19), so DataSN and offset grow together. */
enum ini_take ini_data_take(struct ini_conn *c, struct iscsi_ini_cmd *cmd, const uint8_t *bhs, uint32_t len)
{
	uint32_t sn = be32(bhs + DATA_SN), off = be32(bhs + DATA_OFFSET);
	const struct ini_gap *g;

	if (off > cmd->in_len || len > cmd->in_len - off)
		return TAKE_BAD;
	if (sn == cmd->next_data_sn)
		return off == cmd->in_got ? TAKE_NEW : TAKE_BAD;
	if (!ini_level(c->i, 1))
		return TAKE_BAD;
	if (sn_lt(cmd->next_data_sn, sn))
		return off >= cmd->in_got && sn - cmd->next_data_sn <= cmd->in_len ? TAKE_NEW : TAKE_BAD;
	g = gap_at(cmd, sn);
	if (!g)
		return TAKE_NOT;
	return off == g->off && len <= g->off_end - off ? TAKE_GAP : TAKE_BAD;
}

static bool taken_new(struct iscsi_ini_cmd *cmd, uint32_t sn, uint32_t off, uint32_t len, bool good)
{
	struct ini_gap g = { cmd->next_data_sn, good ? sn : sn + 1, cmd->in_got, good ? off : off + len };

	cmd->next_data_sn = sn + 1;
	cmd->in_got = off + len;
	if (g.sn != g.end)
		gap_add(cmd, g);
	return g.sn != g.end;
}

static bool taken_gap(struct ini_conn *c, struct iscsi_ini_cmd *cmd, uint32_t sn, uint32_t len)
{
	struct ini_gap *g = gap_at(cmd, sn);

	if (!g)
		return true;
	g->sn++;
	g->off += len;
	if (g->sn != g->end)
		return true;
	if (g->off != g->off_end) {
		ini_fail(c, 0, "Data-In that came again with other lengths");
		return false;
	}
	gap_drop(cmd, g);
	return true;
}

/* 11.16.2 */
static void data_ack(struct ini_conn *c, struct iscsi_ini_cmd *cmd)
{
	struct ini_ctl *k;

	if (!cmd->ack_due || cmd->ngaps)
		return;
	cmd->ack_due = false;
	k = snack(c, SNACK_DATA_ACK, ISCSI_NO_TAG, cmd->next_data_sn, 0);
	if (!k)
		return;
	put_be64(k->bhs + BHS_LUN, cmd->lun);
	put_be32(k->bhs + BHS_TTT, cmd->ack_ttt);
	c->i->stats.data_acks++;
}

void ini_data_taken(struct ini_conn *c, struct iscsi_ini_cmd *cmd, const uint8_t *bhs, uint32_t len, bool good)
{
	uint32_t sn = be32(bhs + DATA_SN);
	bool ask = !good;

	if (c->rx_take == TAKE_NEW)
		ask |= taken_new(cmd, sn, be32(bhs + DATA_OFFSET), len, good);
	else if (good && !taken_gap(c, cmd, sn, len))
		return;
	if (good) {
		cmd->moved_ns = c->i->now_ns;
		cmd->asked = 0;
	}
	if (ask)
		ini_data_ask(c, cmd);
	/* With its status beside it, whose acknowledgement says as much, it needs none. */
	if ((bhs[BHS_FLAGS] & (DATA_ACK | DATA_STATUS_VALID)) == DATA_ACK && ini_level(c->i, 1) &&
	    (c->rx_take == TAKE_NEW || !cmd->ack_due)) { /* the last that asks for it answers for those before */
		cmd->ack_due = true;
		cmd->ack_ttt = be32(bhs + BHS_TTT);
	}
	data_ack(c, cmd);
}

/* Everything that is known to be missing. */
void ini_data_ask(struct ini_conn *c, struct iscsi_ini_cmd *cmd)
{
	cmd->asked_ns = c->i->now_ns;
	for (unsigned k = 0; k < cmd->ngaps; k++) {
		struct ini_ctl *s = snack(c, SNACK_DATA_R2T, cmd->itt, cmd->gap[k].sn, cmd->gap[k].end - cmd->gap[k].sn);

		if (!s)
			return;
		put_be64(s->bhs + BHS_LUN, cmd->lun);
		c->i->stats.data_snacks++;
	}
	if (cmd->ended && sn_lt(cmd->next_data_sn, cmd->exp_data_sn)) {
		struct ini_ctl *s = snack(c, SNACK_DATA_R2T, cmd->itt, cmd->next_data_sn, cmd->exp_data_sn - cmd->next_data_sn);

		if (!s)
			return;
		put_be64(s->bhs + BHS_LUN, cmd->lun);
		c->i->stats.data_snacks++;
	}
}

/* R2TSN from what is expected to end; end == expected: all that there may be. */
void ini_r2t_ask(struct ini_conn *c, struct iscsi_ini_cmd *cmd, uint32_t end)
{
	struct ini_ctl *s = snack(c, SNACK_DATA_R2T, cmd->itt, cmd->exp_r2t_sn, end - cmd->exp_r2t_sn);

	cmd->asked_ns = c->i->now_ns;
	if (!s)
		return;
	put_be64(s->bhs + BHS_LUN, cmd->lun);
	c->i->stats.r2t_snacks++;
}

/* --- commands that the target has not seen --- */

/* 7.2.1: the same PDU again, with its data, on the connection that the command is on. */
void ini_resend(struct ini_conn *c, struct iscsi_ini_cmd *cmd)
{
	list_del(&cmd->datanode);
	list_add_tail(&c->again, &cmd->datanode);
	cmd->r2t_n = 0;
	cmd->exp_r2t_sn = 0;
	cmd->unsol_at = cmd->unsol_end = 0;
	cmd->moved_ns = c->i->now_ns;
	c->i->stats.commands_resent++;
}

static struct iscsi_ini_cmd *numbered(struct iscsi_ini *i, uint32_t cmd_sn)
{
	for (unsigned s = 0; s < i->nslots; s++) {
		struct iscsi_ini_cmd *cmd = i->slot[s];

		if (cmd && cmd->conn && !cmd->immediate && cmd->cmd_sn == cmd_sn)
			return cmd;
	}
	return NULL;
}

/* What was sent before the ping has been received before it, or never will be. */
void ini_probe_answered(struct ini_conn *c)
{
	struct iscsi_ini *i = c->i;
	struct iscsi_ini_cmd *cmd;

	if (ini_level(i, 1) && !sn_lt(c->exp_stat_sn, c->stat_asked))
		ini_tmf_again(c);
	if (!ini_level(i, 1) || !sn_lt(i->exp_cmd_sn, i->cmd_sn))
		return;
	cmd = numbered(i, i->exp_cmd_sn);
	if (!cmd)
		ini_fill_hole(c, i->exp_cmd_sn);
	else if (cmd->conn == c && !cmd->orphan && cmd->moved_ns < c->probed_ns)
		ini_resend(c, cmd);
}

void ini_probe(struct ini_conn *c)
{
	uint32_t before = c->i->own_itt;

	if (c->probe_itt && c->i->now_ns < c->probed_ns + c->i->conf.probe_ns)
		return;
	if (!iscsi_ini_ping(c->i, c->k, NULL, 0)) {
		c->probe_itt = INI_ITT_OWN | before;
		c->probed_ns = c->i->now_ns;
	}
}

static bool asked_in_vain(struct ini_conn *c, struct iscsi_ini_cmd *cmd)
{
	if (++cmd->asked <= INI_ASK_MAX)
		return false;
	ini_fail(c, 0, "data was asked for in vain");
	return true;
}

/* Looks after one command; false: the connection was given up. */
static bool look_after(struct ini_conn *c, struct iscsi_ini_cmd *cmd)
{
	uint64_t now = c->i->now_ns, wait = c->i->conf.probe_ns;
	bool incomplete = cmd->ngaps || (cmd->ended && sn_lt(cmd->next_data_sn, cmd->exp_data_sn));

	if (incomplete && now >= cmd->asked_ns + wait) {
		if (asked_in_vain(c, cmd))
			return false;
		ini_data_ask(c, cmd);
	}
	if (now < cmd->moved_ns + wait)
		return true;
	ini_probe(c);
	if (cmd->out_len && !cmd->r2t_n && list_empty(&cmd->datanode) && now >= cmd->moved_ns + 4 * wait &&
	    now >= cmd->asked_ns + 4 * wait && sn_lt(cmd->cmd_sn, c->i->exp_cmd_sn))
		ini_r2t_ask(c, cmd, cmd->exp_r2t_sn);
	return true;
}

uint64_t ini_snack_tick(struct ini_conn *c)
{
	uint64_t now = c->i->now_ns, wait = c->i->conf.probe_ns;
	bool missing = sn_lt(c->exp_stat_sn, c->stat_asked);
	struct iscsi_ini_cmd *cmd, *next;

	if (!ini_level(c->i, 1) || c->state != CONN_FFP || (!c->ncmds && !missing && !c->logouts && !c->unsure &&
	    !ini_tmf_waits(c)))
		return UINT64_MAX;
	if (now < c->scan_ns)
		return c->scan_ns;
	c->scan_ns = now + wait / 4 + 1;
	if (missing && now >= c->stat_asked_ns + wait) {
		if (++c->stat_tries > INI_ASK_MAX) {
			ini_fail(c, 0, "status was asked for in vain");
			return UINT64_MAX;
		}
		stat_ask(c, c->exp_stat_sn, c->stat_asked);
	}
	if (c->unsure || ini_tmf_waits(c))
		ini_probe(c);
	ini_logout_again(c);
	list_for_each_safe(cmd, next, &c->cmds, node)
		if (!look_after(c, cmd))
			return UINT64_MAX;
	return c->scan_ns;
}
