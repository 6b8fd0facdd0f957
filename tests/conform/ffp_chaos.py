#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Several initiators do random legal things at once: reads and writes with data in every form, aborts, resets, cut
connections, reinstated sessions. Proves that every command is answered once or was aborted, that no read returns a
block that was never written whole, and that a write whose data never came never appears (RFC 7143 4.2, 6.3.5, 11.5).

  ffp_chaos.py [PORT [TARGET]] [-s SEED] [-n RUNS] [-l LOOP]     without PORT it starts its own server"""
import os, random, struct, sys, time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "lib"), HERE]
import harness
from iscsi import Closed, LoginRefused
from ffp.peer import (ASYNC, BS, DATA_IN, F, NOP_IN, NOP_OUT, NOTAG, R2T, REJECT, SCSI_RSP, TMF, TMF_RSP, Adversary, be32,
                      must, sense, srv)

REGION = 256      # blocks that one initiator owns
STUCK_S = 20
ABORT_TASK, ABORT_TASK_SET, LU_RESET = 1, 2, 5


def block(version, lba):
    return struct.pack(">QQ", version, lba) * (BS // 16)


class Task:
    def __init__(self, lba, n, write, version=0):
        self.lba, self.n, self.write, self.version = lba, n, write, version
        self.data = b"".join(block(version, lba + i) for i in range(n)) if write else bytearray(n * BS)
        self.sent = 0                 # bytes of a write that have left
        self.since = time.monotonic()
        self.cmdsn = 0
        self.doomed = self.since < Player.storm_until  # a reset may have ended it without a word
        self.r2ts = []


class Player:
    """One initiator: what it has in flight, and what each of its blocks may hold."""
    storm_until = 0.0

    def __init__(self, rng, number):
        self.rng, self.number = rng, number
        self.base = number * REGION
        self.may = [{0} for _ in range(REGION)]
        self.isid = 0x800000c40000 + number
        self.version = number << 32
        self.a = None
        self.tasks, self.tmfs, self.pings = {}, {}, {}
        self.count = dict.fromkeys(("read", "write", "abort", "reset", "cut", "unit attention", "reject"), 0)

    def connect(self):
        r = self.rng
        keys = {"InitialR2T": r.choice(("Yes", "No")), "ImmediateData": r.choice(("Yes", "No")),
                "FirstBurstLength": str(r.choice((512, 2048, 8192, 65536))), "MaxOutstandingR2T": str(r.choice((1, 2, 5, 32))),
                "MaxRecvDataSegmentLength": str(r.choice((512, 4096, 65536))),
                "HeaderDigest": r.choice(("None", "None", "CRC32C")), "DataDigest": r.choice(("None", "None", "CRC32C"))}
        keys["MaxBurstLength"] = str(max(int(keys["FirstBurstLength"]), r.choice((512, 4096, 262144))))
        self.unsolicited = keys["InitialR2T"] == "No"
        self.a = Adversary(isid=self.isid, **keys)
        self.a.cmdsn_start = self.a.cmdsn

    # --- what may be on the medium
    def busy(self, lba, n):
        return any(t.write and t.lba < lba + n and lba < t.lba + t.n for t in self.tasks.values())

    def ended(self, t, good):
        for lba in range(t.lba, t.lba + t.n):
            may = self.may[lba - self.base]
            if not t.write:
                continue
            if good:
                may.clear()
                may.add(t.version)
            elif t.sent >= len(t.data):
                may.add(t.version)
            else:
                may.discard(t.version)

    def check_read(self, t):
        for i in range(t.n):
            lba = t.lba + i
            b = bytes(t.data[i * BS:(i + 1) * BS])
            v, at = struct.unpack(">QQ", b[:16])
            may = set(self.may[lba - self.base]) | {x.version for x in self.tasks.values() if x.write and x.lba <= lba < x.lba + x.n}
            may |= t.seen.get(lba, set())
            must(b == (block(v, lba) if v else bytes(BS)) and v in may,
                 f"block {lba} holds version {v:#x} of block {at}, whole {b == b[:16] * (BS // 16)}; may hold {[hex(x) for x in may]}")

    # --- actions
    def issue(self):
        r, a = self.rng, self.a
        n = r.choice((1, 1, 2, 8, 17, 64))
        lba = self.base + r.randrange(REGION - n)
        if a.window and (a.cmdsn - a.window[1] - 1) & 0xffffffff < 0x80000000:
            return  # the window is closed
        if r.random() < 0.5:
            t = Task(lba, n, False)
            t.seen = {x: set(self.may[x - self.base]) for x in range(lba, lba + n)}
            for x in self.tasks.values():
                if x.write:
                    for y in range(max(lba, x.lba), min(lba + n, x.lba + x.n)):
                        t.seen[y].add(x.version)
            t.cmdsn = a.cmdsn
            self.tasks[a.rcmd(lba, n)] = t
            self.count["read"] += 1
            return
        if self.busy(lba, n) or any(not t.write and t.lba < lba + n and lba < t.lba + t.n for t in self.tasks.values()):
            return
        self.version += 1
        t = Task(lba, n, True, self.version)
        size = len(t.data)
        first = min(a.first_burst, size)
        imm = r.choice((0, min(first, a.max_xmit), min(first, 512))) if a.immediate else 0
        more = self.unsolicited and imm < first and r.random() < 0.5
        t.cmdsn = a.cmdsn
        itt = a.wcmd(lba, n, data=t.data[:imm], final=not more)
        self.tasks[itt] = t
        t.sent = imm
        sn = 0
        while more and t.sent < first:
            m = min(r.choice((512, 3000, 65536)), first - t.sent, a.max_xmit)
            a.out(itt, NOTAG, t.sent, t.data[t.sent:t.sent + m], sn, t.sent + m == first)
            t.sent, sn = t.sent + m, sn + 1
        self.count["write"] += 1

    def serve_one(self):
        waiting = [(i, t) for i, t in self.tasks.items() if t.r2ts]
        if not waiting:
            return
        itt, t = self.rng.choice(waiting)
        p = t.r2ts.pop(0)
        self.a.serve(p, t.data, self.rng.choice((None, 512, 1500)))
        t.sent += p.u32(44)

    def send_tmf(self, fn, itt=NOTAG):
        a = self.a
        ref = self.tasks[itt].cmdsn if itt in self.tasks else 0
        h = a.bhs(TMF, F | fn, w20=itt, immediate=True, rest=struct.pack(">I", ref))
        a.raw(h)
        self.tmfs[be32(h, 16)] = (fn, itt, time.monotonic(), set(self.tasks))

    def cut(self):
        r, a = self.rng, self.a
        if r.random() < 0.5:
            h = a.bhs(NOP_OUT, w20=NOTAG, immediate=True)
            a.s.sendall(h[:r.randrange(48)])
        if r.random() < 0.5:
            a.s.setsockopt(1, 13, struct.pack("ii", 1, 0))  # reset
        if r.random() < 0.7:
            a.s.close()
            old = None
        else:
            old = a.s  # the session is reinstated under its feet
        self.forget()
        self.connect()
        if old:
            old.close()
        self.count["cut"] += 1

    def doom_all(self):
        """A reset ran, or may still run: what anyone has in flight may end without a word."""
        for q in self.all:
            for t in q.tasks.values():
                t.doomed = True

    def forget(self):
        if any(fn == LU_RESET for fn, *_ in self.tmfs.values()):
            self.doom_all()
            Player.storm_until = time.monotonic() + 1  # its answer will not tell when it was over
        for t in self.tasks.values():
            self.ended(t, False)
        self.tasks, self.tmfs, self.pings = {}, {}, {}

    def ping(self):
        h = self.a.bhs(NOP_OUT, w20=NOTAG, immediate=self.rng.random() < 0.5)
        data = self.rng.randbytes(self.rng.randrange(300))
        self.a.raw(h, data)
        self.pings[be32(h, 16)] = data

    # --- what comes back
    def hear(self):
        p = self.a.poll(0)
        if p is None:
            return False
        if p.op == NOP_IN:
            must(self.pings.pop(p.itt) == p.data, "ping data")
        elif p.op == TMF_RSP:
            self.tmf_done(p)
        elif p.op == REJECT:
            self.count["reject"] += 1
            op, itt = p.data[0] & 0x3f, be32(p.data, 16)
            must(op == 5 and itt not in self.tasks, f"Reject {p.bhs[2]:#x} of opcode {op:#x}")
        elif p.op != ASYNC:
            self.answer(p)
        return True

    def answer(self, p):
        must(p.itt in self.tasks, f"opcode {p.op:#x} for tag {p.itt:#x}, which is not in flight")
        t = self.tasks[p.itt]
        if p.op == R2T:
            must(t.write, "R2T for a read")
            t.r2ts.append(p)
            return
        if p.op == DATA_IN:
            must(not t.write, "Data-In for a write")
            t.data[p.u32(40):p.u32(40) + len(p.data)] = p.data
            if not p.bhs[1] & 1:
                return
        must(p.op in (SCSI_RSP, DATA_IN), f"opcode {p.op:#x}")
        del self.tasks[p.itt]
        st = p.bhs[3]
        if st == 0:
            must(p.bhs[1] & 6 == 0, "residual")
            must(not t.write or t.sent == len(t.data), "GOOD before all data was sent")
            self.ended(t, True)
            if not t.write:
                self.check_read(t)
            return
        s = sense(p)
        must(st == 0x40 or st == 2 and s and s[0] == 6 and s[1] in (0x29, 0x2f, 0x47), f"status {st:#x} {s}")
        self.count["unit attention"] += 1
        if st == 2 and t.write:
            for lba in range(t.lba, t.lba + t.n):  # ended before it began
                self.may[lba - self.base].discard(t.version)
        else:
            self.ended(t, False)

    def tmf_done(self, p):
        fn, itt, _, tasks = self.tmfs.pop(p.itt)
        must(p.bhs[2] in (0, 1), f"function {fn}: response {p.bhs[2]}")
        gone = {itt} if fn == ABORT_TASK else tasks
        for i in gone & set(self.tasks):
            self.ended(self.tasks.pop(i), False)
        if fn == LU_RESET:
            self.doom_all()

    def finish_doomed(self):
        now = time.monotonic()
        for i, t in list(self.tasks.items()):
            if t.doomed and now - t.since > 1.5:
                self.ended(self.tasks.pop(i), False)
                self.ghosts = getattr(self, "ghosts", 0) + 1
            elif not t.r2ts:
                must(now - t.since < STUCK_S, f"{'write' if t.write else 'read'} of {t.n} blocks is stuck, {t.sent} bytes sent")
        for fn, itt, since, _ in self.tmfs.values():
            must(now - since < STUCK_S, f"task management function {fn} is stuck")

    def act(self):
        x = self.rng.random()
        if x < 0.45:
            if len(self.tasks) < 12:
                self.issue()
        elif x < 0.80:
            self.serve_one()
        elif x < 0.86:
            self.ping()
        elif x < 0.90 and self.tasks:
            # all its R2Ts are left unanswered from here on
            self.send_tmf(ABORT_TASK, self.rng.choice(list(self.tasks)))
            self.count["abort"] += 1
        elif x < 0.9012:
            self.send_tmf(LU_RESET)
            self.count["reset"] += 1
        elif x < 0.906:
            self.cut()


def run(seed, steps, players):
    rng = random.Random(seed)
    all_players = [Player(random.Random(rng.random()), i) for i in range(players)]
    for p in all_players:
        p.all = all_players
        p.connect()
    # what an earlier run left
    for p in all_players:
        for lba in range(0, REGION, 64):
            p.a.poke(p.base + lba, bytes(64 * BS))
    for step in range(steps):
        p = rng.choice(all_players)
        p.act()
        for q in all_players:
            while q.hear():
                pass
            q.finish_doomed()
    end = time.monotonic() + STUCK_S + 2
    while any(p.tasks or p.tmfs or p.pings for p in all_players) and time.monotonic() < end:
        for p in all_players:
            while p.hear():
                pass
            p.serve_one()
            p.finish_doomed()
        time.sleep(0.001)
    for p in all_players:
        must(not p.tasks and not p.tmfs and not p.pings, f"unanswered: {len(p.tasks)} {len(p.tmfs)} {len(p.pings)}")
        for lba in range(0, REGION, 64):
            t = Task(p.base + lba, 64, False)
            t.seen = {}
            t.data = bytearray(p.a.collect_ready(p.base + lba, 64))
            p.check_read(t)
        p.a.s.close()
    total = {}
    for p in all_players:
        for k, v in p.count.items():
            total[k] = total.get(k, 0) + v
    return " ".join(f"{v} {k}," for k, v in total.items()).rstrip(",")


def collect_ready(self, lba, n):
    for _ in range(8):
        st, _, _, data, s, _ = self.collect(self.rcmd(lba, n), n * BS)
        if st == 0:
            return data
    raise AssertionError(f"read back: status {st:#x} {s}")


Adversary.collect_ready = collect_ready


def main():
    seed, runs, args, options = 1, 6, [], ["--ram", "64M", "--cores", "2"]
    it = iter(sys.argv[1:])
    for x in it:
        if x == "-s":
            seed = int(next(it))
        elif x == "-n":
            runs = int(next(it))
        elif x == "-l":
            options += ["--loop", next(it)]
        else:
            args.append(x)
    rep = harness.Report("conform/ffp-chaos/")
    server = None
    if args:
        srv.port, srv.target = int(args[0]), args[1]
    else:
        server = harness.Server(*options)
        srv.port, srv.target = server.port, server.iqn
    for s in range(seed, seed + runs):
        rep.case(f"seed-{s}", run, s, 1500, 5)
    if server:
        bad = server.finish()
        rep.check("server-ends-well", not bad, bad)
    return rep.status()


if __name__ == "__main__":
    sys.exit(main())
