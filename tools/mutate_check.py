#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Plants faults in the target's engine one after the other and runs `lunette check` against each: a suite that only
agrees with us proves nothing. Writes its part of docs/faults.md. Shares the workings of mutate.py.

  mutate_check.py [-n NUMBER]... [--dry]     -n: only those; the table keeps what is known of the others"""
import argparse, json, os, shutil, sys, tempfile, time
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE] + [os.path.join(os.path.dirname(HERE), "tests", d) for d in ("lib", "conform")]
import lunette_check, mutate, harness as h

FAULTS = [
    ("an R2T takes a StatSN of its own", "src/iscsi/tx.c",
     "put_numbers(c, h, k->sn == CTL_STAT_SN);", "put_numbers(c, h, true);"),
    ("DataSN does not go up", "src/iscsi/tx.c",
     "put_be32(h + DATA_SN, t->data_sn++);", "put_be32(h + DATA_SN, t->data_sn);"),
    ("a Data-In sequence has no F at its end, but the last", "src/iscsi/tx.c",
     "if (last || !t->burst_left)", "if (last)"),
    ("the initiator's MaxRecvDataSegmentLength is ignored in Data-In", "src/iscsi/tx.c",
     "return MIN(c->params.max_xmit_segment, (uint32_t)TX_PDU_BYTES);", "return MIN(c->params.max_xmit_segment * 8, (uint32_t)TX_PDU_BYTES);"),
    ("an underflow of a read is counted, but not flagged", "src/iscsi/tx.c",
     "return *ret ? RSP_UNDERFLOW : 0;", "return 0;"),
    ("the data digest of padded data leaves out the padding", "src/iscsi/tx.c",
     "put_le32(p + pad, crc32c(crc, zero, pad));", "put_le32(p + pad, crc);"),
    ("a Reject does not advance StatSN", "src/iscsi/tx.c",
     "tx_ctl(c, ISCSI_REJECT, CTL_STAT_SN)", "tx_ctl(c, ISCSI_REJECT, CTL_NEXT_STAT_SN)"),
    ("R2TSN begins with 1", "src/iscsi/data.c",
     ".len = len, .sn = t->r2t_sn++ };", ".len = len, .sn = ++t->r2t_sn };"),
    ("an R2T may ask for twice MaxBurstLength", "src/iscsi/data.c",
     "MIN(want - t->r2t_off, t->session->params.max_burst);", "MIN(want - t->r2t_off, 2 * t->session->params.max_burst);"),
    ("the target transfer tag of Data-Out is not looked at", "src/iscsi/data_out.c",
     "return t->r2t_n && nth(t, 0)->ttt == ttt ? nth(t, 0) : NULL;", "return t->r2t_n ? nth(t, 0) : NULL;"),
    ("the offset of Data-Out is not looked at", "src/iscsi/data_out.c",
     "if (sn == *next_sn && be32(c->bhs + DATA_OFFSET) == at && !*bad) {", "if (sn == *next_sn && !*bad) {"),
    ("DataSN of Data-Out is not looked at", "src/iscsi/data_out.c",
     "if (sn == *next_sn && be32(c->bhs + DATA_OFFSET) == at && !*bad) {", "if (be32(c->bhs + DATA_OFFSET) == at && !*bad) {"),
    ("a Data-Out with a wrong digest counts as received", "src/iscsi/data_out.c",
     "if (!ok && c->recover) {\n\t\t*bad = true;\n\t\treturn;\n\t}\n\tif (!ok)", "if (0)"),
    ("a Data SNACK brings one PDU more than it asks for", "src/iscsi/keep.c",
     "*end = *beg + len;", "*end = *beg + len + (*beg + len < next);"),
    ("what was acknowledged is sent again on SNACK", "src/iscsi/keep.c",
     "if (sn_lt(*beg, low) || !sn_lt(*beg, next)", "if (!sn_lt(*beg, next)"),
    ("SNACK for what was never sent is served", "src/iscsi/keep.c",
     "|| !sn_lt(*beg, next) || len > next - *beg)\n\t\treturn false;", ")\n\t\treturn false;"),
    ("DataACK is forgotten", "src/iscsi/keep.c",
     "\tfound->ack_sn = sn;", "\tfound->ack_sn += 0;"),
    ("the SNACK Tag of R-Data is lost", "src/iscsi/keep.c",
     "t->snack_tag = tag;", "t->snack_tag = 0;"),
    ("a Data-In that is sent again has another DataSN", "src/iscsi/tx.c",
     "put_be32(h + DATA_SN, t->redo_sn++);", "put_be32(h + DATA_SN, t->redo_sn++ + 1);"),
    ("A is set in every Data-In", "src/iscsi/tx.c",
     "if (c->recover && !last && !t->burst_left)", "if (c->recover && !last)"),
    ("Data-Out is taken on any connection of the session", "src/iscsi/data_out.c",
     "if (!t || t->conn != c ||", "if (!t ||"),
    ("immediate data is taken though ImmediateData=No", "src/iscsi/data.c",
     "if (c->rx_len && !p->immediate_data)", "if (0)"),
    ("CmdSN is compared without wrap-around", "src/iscsi/session.c",
     "return sn_le(s->exp_cmd_sn, cmd_sn) &&", "return s->exp_cmd_sn <= cmd_sn &&"),
    ("an immediate command advances ExpCmdSN", "src/iscsi/session.c",
     "\tif (immediate)\n\t\treturn SN_NOW;", "\tif (immediate) {\n\t\ts->exp_cmd_sn++;\n\t\treturn SN_NOW;\n\t}"),
    ("a gap in CmdSN holds nothing: what comes behind it runs", "src/iscsi/session.c",
     "if (cmd_sn != s->exp_cmd_sn)\n\t\treturn SN_HOLD;\n\ts->exp_cmd_sn++;",
     "if (cmd_sn != s->exp_cmd_sn)\n\t\treturn SN_NOW;\n\ts->exp_cmd_sn++;"),
    ("a ping longer than the initiator may receive is not cut", "src/iscsi/request.c",
     "uint32_t n = MIN(r->len, c->params.max_xmit_segment);", "uint32_t n = r->len;"),
    ("a request with a wrong data digest is carried out", "src/iscsi/request.c",
     "if (!digest_ok) {", "if (0 && !digest_ok) {"),
    ("logout of an unknown CID is told as done", "src/iscsi/request.c",
     "LOGOUT_OK : LOGOUT_NO_CID;", "LOGOUT_OK : LOGOUT_OK;"),
    ("ABORT TASK of a lost command does not plug the gap", "src/iscsi/request_tmf.c",
     "|| plug_missing(c, h))", "|| sn_lt(be32(h + TMF_REF_CMD_SN), be32(h + BHS_CMD_SN)))"),
    ("event 5 is sent without FastAbort", "src/iscsi/request_tmf.c",
     "void tmf_lost(void *session, const uint8_t lun[8])\n{\n\tstruct iscsi_session *s = session;\n\n\tif (!s->params.fast_abort)",
     "void tmf_lost(void *session, const uint8_t lun[8])\n{\n\tstruct iscsi_session *s = session;\n\n\tif (0)"),
    ("the response to task management does not wait for the R2Ts that are out", "src/iscsi/request_tmf.c",
     "return !out || s->params.fast_abort || ", "return true || s->params.fast_abort || "),
    ("DefaultTime2Wait is the minimum of both sides", "src/iscsi/keys.c",
     '{ "DefaultTime2Wait", RULE_MAX,', '{ "DefaultTime2Wait", RULE_MIN,'),
    ("several R2Ts may be outstanding at level 1", "src/iscsi/keys.c",
     "if (key->at == P(max_r2t) && p->erl && p->sequence_in_order)", "if (0)"),
    ("unknown digests of a list are taken for None", "src/iscsi/keys.c",
     'bool none = len == 4 && !memcmp(it, "None", 4);', "bool none = !crc;"),
    ("login may go from a stage back to an earlier one", "src/iscsi/login.c",
     "if (to && (nsg(h) == 2 || nsg(h) <= csg(h)))", "if (to && nsg(h) == 2)"),
    ("a login in a version that is not spoken goes on", "src/iscsi/login.c",
     "if (bhs[LOGIN_VERSION_MIN] > 0)", "if (bhs[LOGIN_VERSION_MIN] > 9)"),
    ("a text's continuation is answered with the reserved tag", "src/iscsi/request_text.c",
     "put_be32(k->bhs + BHS_TTT, last ? ISCSI_NO_TAG : c->text_ttt);", "put_be32(k->bhs + BHS_TTT, ISCSI_NO_TAG);"),
    ("a reassigned write takes a half-answered R2T for answered", "src/iscsi/lost.c",
     "got = MIN(got, r->off + r->got);", "got = MIN(got, r->off + r->len);"),
    ("TASK REASSIGN of a task that is still allegiant is told that there is none", "src/iscsi/lost.c",
     "} else if (!l || !l->logged_out) {\n\t\tanswer(c, h, TMF_RSP_ALLEGIANT);",
     "} else if (!l || !l->logged_out) {\n\t\tanswer(c, h, TMF_RSP_NO_TASK);"),
    ("what waits for reassignment is kept for ever", "src/iscsi/lost.c",
     "if (now_ns >= l->expire_ns)", "if (0)"),
    ("the status of a reassigned task is not sent again", "src/iscsi/lost.c",
     "\t\ttx_respond(t);\n\t\tkeep_rewind(t);", "\t\tkeep_rewind(t);"),
    ("\"remove for recovery\" is done below level 2", "src/iscsi/request.c",
     "if (reason == FOR_RECOVERY && s->params.erl < 2)", "if (0)"),
]
KEPT = os.path.join(mutate.ROOT, "build/mutate-check.json")  # of earlier runs, for -n
MARK = "<!-- written by tools/mutate_check.py -->\n"


def failing(work):
    """The names of failing cases of lunette check against the lunetted of work."""
    binary = os.path.join(work, "build-test/src/lunetted/lunetted")
    try:
        s = lunette_check.start("release-uring", binary)
    except RuntimeError as e:
        return [f"start: {e}"]
    r = h.run([os.path.join(work, "build-test/src/lunette/lunette"), "check", "--json", "--destructive", "--timeout", "2", s.url()], 900)
    s.finish()
    try:
        return [f"{c['suite']}/{c['case']}" for c in json.loads(r.stdout)["cases"] if c["result"] in ("fail", "lax")]
    except ValueError:
        return ["run: " + h.tail(r.stdout)]


def one(work, fault, healthy):
    what, path, old, new = fault
    full = os.path.join(work, path)
    text = open(full).read()
    try:
        with open(full, "w") as f:
            f.write(text.replace(old, new, 1))
        out, rc = mutate.run(["ninja", "-j2", "-k0", "-C", "build-test", "src/lunetted/lunetted"], work, 600)
        if rc:
            return ["does not compile: " + next((l for l in out.splitlines() if "error:" in l), out[-200:])]
        return [f for f in failing(work) if f not in healthy]
    finally:
        with open(full, "w") as f:
            f.write(text)


def write(found):
    """found: what goes wrong -> names of the cases that failed."""
    path = os.path.join(mutate.ROOT, "docs/faults.md")
    text = open(path).read()
    head = text[:text.index(MARK)] if MARK in text else text.rstrip("\n") + "\n\n"
    out = [MARK, "## Caught by `lunette check`", "",
           "Planted alone in the target's engine by `tools/mutate_check.py`; only `lunette check --destructive` ran.", "",
           "| # | fault | place | caught by | also |", "|--:|---|---|---|--:|"]
    caught = 0
    for n, (what, path_, _, _) in enumerate(FAULTS, 1):
        names = found.get(what)
        caught += bool(names)
        by = f"`{names[0]}`" if names else "**not caught**" if names == [] else "not run"
        out.append(f"| {n} | {what} | `{path_}` | {by} | {max(0, len(names or []) - 1)} |")
    out += ["", f"{caught} of {len(FAULTS)} caught."]
    with open(path, "w") as f:
        f.write(head + "\n".join(out) + "\n")


def kept():
    try:
        with open(KEPT) as f:
            return json.load(f)
    except (OSError, ValueError):
        return {}


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("-n", type=int, action="append")
    ap.add_argument("--dry", action="store_true", help="only check that every fault still applies")
    a = ap.parse_args()
    todo = [(i, f) for i, f in enumerate(FAULTS, 1) if not a.n or i in a.n]
    stale = [i for i, f in todo if open(os.path.join(mutate.ROOT, f[1])).read().count(f[2]) != 1]
    if stale:
        print("stale:", *stale, file=sys.stderr)
    if a.dry:
        return 1 if stale else 0
    work, rows = tempfile.mkdtemp(prefix="lunette-faults-"), []
    try:
        mutate.copy_tree(work)
        mutate.run(["meson", "setup", "--buildtype=release", "-Dtests=false", "build-test"], work, 200)
        out, rc = mutate.run(["ninja", "-j2", "-C", "build-test"], work, 900)
        if rc:
            print(out[-2000:])
            return 1
        healthy = failing(work)
        print("without a fault fail:", *healthy or ["none"], flush=True)
        for i, f in todo:
            if i in stale:
                continue
            t = time.monotonic()
            rows.append((i, f, one(work, f, healthy)))
            print(f"{i:3} {f[0]}: {' '.join(rows[-1][2][:4]) or 'NOT CAUGHT'} ({len(rows[-1][2])})   {time.monotonic() - t:.0f} s", flush=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    found = kept() if a.n else {}
    found.update({f[0]: names for _, f, names in rows})
    with open(KEPT, "w") as f:
        json.dump(found, f)
    write(found)
    return 1 if stale or any(not r[2] for r in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
