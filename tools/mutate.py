#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Plants faults one after the other in a scratch copy of the sources, builds, and runs suites until one fails: a test
that nothing can break proves nothing. Writes docs/faults.md. `make faults` runs all; it is no part of `make check`.

  mutate.py [--keep DIR] [-n NUMBER]... [--list] [--dry]     --dry: only check that every fault still applies"""
import argparse, os, re, shutil, subprocess, sys, tempfile, time
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# (what goes wrong, file, text as it is, text with the fault)
FAULTS = [
    ("a wake-up is lost: a loop that sleeps is not told of its mail", "src/loop/loop.c",
     "if (mailbox_must_wake(&l->mail))", "if (0 && mailbox_must_wake(&l->mail))"),
    ("a flush is skipped: SYNCHRONIZE CACHE answers at once", "src/block/driver/fileio.c",
     "fileio_start(b, io, OP_FSYNC, flush_done);", "(void)flush_done; blk_done(io, 0);"),
    ("FUA is ignored by the file driver", "src/block/driver/fileio.c",
     "(io->req.flags & BLK_FUA) ? OP_DSYNC : 0);", "(io->req.flags & BLK_FUA) ? 0 : 0);"),
    ("a failed fsync is forgotten: the next flush succeeds", "src/block/driver/fileio.c",
     "atomic_store_explicit(&f->lost, true,", "atomic_store_explicit(&f->lost, false,"),
    ("a residual count is wrong: what moved is not subtracted", "src/iscsi/tx.c",
     "*ret = t->edtl - moved;", "*ret = t->edtl - moved / 2;"),
    ("an R2T too many is outstanding", "src/iscsi/data.c",
     "t->r2t_n < t->conn->session->params.max_r2t", "t->r2t_n <= t->conn->session->params.max_r2t"),
    ("a wrong data digest is accepted", "src/iscsi/rx.c",
     "ok = c->rx_crc == le32(p + n - 4);", "ok = true;"),
    ("a wrong header digest is accepted", "src/iscsi/rx.c",
     "if (c->header_digest && crc32c(0, h, need) != le32(h + need))",
     "if (c->header_digest && crc32c(0, h, need) == 0x12345678)"),
    ("a command below the window is executed again", "src/iscsi/session.c",
     "if (!session_in_window(s, cmd_sn))", "if (sn_lt(cmd_sn, s->exp_cmd_sn))\n\t\treturn SN_NOW;\n\tif (!session_in_window(s, cmd_sn))"),
    ("StatSN does not advance", "src/iscsi/tx.c",
     "c->stat_sn++;", "c->stat_sn += 0;"),
    ("a write takes the received page without a reference: its memory is used again (a stale buffer)",
     "src/block/driver/ram.c", "\t\tpage_ref(p);\n\t\tc->at += PAGE_BYTES;", "\t\tc->at += PAGE_BYTES;"),
    ("a read past the end by one block is allowed", "src/scsi/scsi.c",
     "c->nblk > cap - c->lba", "c->nblk > cap - c->lba + 1"),
    ("the last byte of a CHAP response is not compared", "src/iscsi/chap.c",
     "return !CRYPTO_memcmp(a, b, len);", "return !CRYPTO_memcmp(a, b, len - 1);"),
    ("a failed read of the medium is told as a write error", "src/scsi/sense.c",
     "{ EIO, SENSE(3, 0x11, 0x00),", "{ EIO, SENSE(3, 0x0c, 0x00),"),
    ("ABORT TASK answers while the write it aborted can still land", "src/scsi/tmf.c",
     "lu_wait_aborted(ll, leg, NULL);", "round_leg_done(leg);"),
    ("COMPARE AND WRITE is not atomic: what it holds goes on at once", "src/scsi/hold.c",
     "c->state == SCSI_CMD_HELD ? obstacle(ll, c) : LU_FROZEN;", "c->state == SCSI_CMD_HELD ? LU_CLEAR : LU_FROZEN;"),
    ("commands that waited for a freeze are never resumed", "src/scsi/hold.c",
     "\t\tc->resume(c);", "\t\tif (0) c->resume(c);"),
    ("a unit attention is reported again and again", "src/scsi/ua.c",
     "\tua_take(itl, ua);\n\treturn ua;", "\treturn ua;"),
    ("a write-protected disk takes writes", "src/scsi/scsi.c",
     "if ((flags & SCSI_WRITES) && (pub->alert & LU_WRITE_PROTECT)) {",
     "if ((flags & SCSI_WRITES) && (pub->alert & LU_WRITE_PROTECT) && pub->swp) {"),
    ("an image file is not locked", "src/block/driver/filelock.c",
     "return fcntl(fd, F_OFD_SETLK, &l) < 0 ? -errno : 0;", "return l.l_len < 0 ? -errno : 0;"),
    ("a reinstated session's login does not wait for the old session's end", "src/net/home.c",
     "\tif (old) {\n\t\tlist_add_tail(&old->waiters", "\tif (0) {\n\t\tlist_add_tail(&old->waiters"),
    ("GET LBA STATUS calls a hole mapped", "src/scsi/sbc_range.c",
     "bool hole = e[i].kind == BLK_HOLE;", "bool hole = false;"),
]
# Suites from quick to slow; the first that fails has caught it.
SUITES = [
    ("unit", ["tests/run", "unit", "--flavour", "release"], 240),
    ("sim", ["tests/run", "sim", "--flavour", "release"], 400),
    ("conform", ["tests/conform/ffp_adversary.py"], 300),
    ("conform", ["tests/conform/iscsi_test_cu.py", "--config", "release-uring", "--profile", "thin"], 300),
    ("system", ["tests/system/integrity.py"], 400),
    ("system", ["tests/system/clients.py"], 300),
    ("system", ["tests/system/network.py"], 300),
]


def run(cmd, cwd, limit, env=None):
    p = subprocess.Popen(cmd, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                         text=True, errors="replace", start_new_session=True, env=dict(os.environ, **(env or {})))
    try:
        return p.communicate(timeout=limit)[0], p.returncode
    except subprocess.TimeoutExpired:
        os.killpg(p.pid, 9)
        return p.communicate()[0] + "\nFAIL time limit", 124


def failures(out):
    return [m[1].split(" (")[0] for m in re.finditer(r"^FAIL (.+)$", out, flags=re.M)]


def copy_tree(to):
    names = subprocess.run(["git", "-C", ROOT, "ls-files"], capture_output=True, text=True, check=True).stdout.split("\n")
    for n in filter(None, names):
        if os.path.isfile(os.path.join(ROOT, n)):
            os.makedirs(os.path.dirname(os.path.join(to, n)) or to, exist_ok=True)
            shutil.copy2(os.path.join(ROOT, n), os.path.join(to, n))


def suite_failures(work, suite):
    out, _ = run(suite[1], work, suite[2], {"LUNETTE_KILLS": "25", "LUNETTE_SKIP_BUILD": "1"})
    return failures(out)


def one(work, fault, healthy):
    """Returns (suite, names) or (None, why). healthy: what fails without any fault, by suite; filled as needed."""
    what, path, old, new = fault
    full = os.path.join(work, path)
    text = open(full).read()
    try:
        with open(full, "w") as f:
            f.write(text.replace(old, new, 1))
        # the faulty program must compile; warnings do not matter here
        out, rc = run(["ninja", "-k0", "-C", "build-test"], work, 600)
        if rc:
            bad = [l for l in out.splitlines() if "error:" in l]
            return None, "does not compile: " + (bad[0] if bad else out[-200:])
        for i, suite in enumerate(SUITES):
            bad = [b for b in suite_failures(work, suite) if b not in healthy[i]]
            if bad:
                return suite[0], bad
        return None, "not caught"
    finally:
        with open(full, "w") as f:
            f.write(text)


def table(rows):
    out = ["# Planted faults", "",
           "Each fault was planted alone in a copy of the sources (`make faults`, `tools/mutate.py`); the suites ran from quick to "
           "slow until one failed. \"Also\" counts the further cases that failed in the same suite.", "",
           "| # | fault | place | caught by | also |", "|--:|---|---|---|--:|"]
    for n, (what, path, _, _), suite, names in rows:
        if suite:
            out.append(f"| {n} | {what} | `{path}` | {suite}: `{names[0]}` | {len(set(names)) - 1} |")
        else:
            out.append(f"| {n} | {what} | `{path}` | **{names}** | |")
    caught = sum(1 for r in rows if r[2])
    out += ["", f"{caught} of {len(rows)} caught."]
    return "\n".join(out) + "\n"


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("-n", type=int, action="append")
    ap.add_argument("--list", action="store_true")
    ap.add_argument("--dry", action="store_true")
    ap.add_argument("--keep")
    a = ap.parse_args()
    todo = [(i, f) for i, f in enumerate(FAULTS, 1) if not a.n or i in a.n]
    stale = [i for i, f in todo if open(os.path.join(ROOT, f[1])).read().count(f[2]) != 1]
    for i, f in todo if a.list or a.dry else []:
        print(f"{i:3} {'STALE ' if i in stale else ''}{f[0]}")
    if stale:
        print(f"mutate.py: the text of fault {', '.join(map(str, stale))} is not there exactly once", file=sys.stderr)
    if a.list or a.dry:
        return 1 if stale else 0
    work = a.keep or tempfile.mkdtemp(prefix="lunette-faults-")
    rows = []
    try:
        copy_tree(work)
        if not os.path.exists(os.path.join(work, "build-test/build.ninja")):
            run(["meson", "setup", "--buildtype=release", "-Dtests=true", "build-test"], work, 200)
        out, rc = run(["ninja", "-C", "build-test"], work, 900)
        if rc:
            print(out[-2000:])
            return 1
        healthy = [set(suite_failures(work, s)) for s in SUITES]
        print("without a fault fail:", sum(map(len, healthy)), flush=True)
        for i, f in todo:
            if i in stale:
                continue
            t = time.monotonic()
            suite, names = one(work, f, healthy)
            rows.append((i, f, suite, names))
            print(f"{i:3} {f[0]}: " + (f"{suite}: {names[0]} (+{len(set(names)) - 1})" if suite else names) +
                  f"   {time.monotonic() - t:.0f} s", flush=True)
    finally:
        if not a.keep:
            shutil.rmtree(work, ignore_errors=True)
    if not a.n:
        with open(os.path.join(ROOT, "docs/faults.md"), "w") as f:
            f.write(table(rows))
    return 1 if stale or any(not r[2] for r in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
