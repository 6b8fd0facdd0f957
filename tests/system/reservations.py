#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Persistent reservations with APTPL outlive SIGKILL at any moment: after a restart the unit is in the state that was
acknowledged last, or in that of the one command under way, and keeps out whom that state keeps out (SPC-4 5.12.5)."""
import os, random, struct, sys, tempfile, threading, time
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
import harness as h
import iscsi

rep = h.Report("system/reservations/")
KILLS = int(os.environ.get("LUNETTE_PR_KILLS", "30"))
REGISTER, RESERVE, RELEASE, PREEMPT, IGNORE = 0, 1, 2, 4, 6
EX_ACCESS = 3
CONFLICT = 0x18


def login(s, port):
    c = iscsi.Session(s.host, s.port, s.iqn, isid=0x80 << 40 | port)
    c.ready()
    return c


def pr_out(c, action, kind, key, new=0, aptpl=False):
    c.scsi(bytes([0x5F, action, kind, 0, 0, 0, 0, 0, 24]), struct.pack(">QQ4xB3x", key, new, aptpl))


def state_of(c):
    """(keys, key of the holder, type) as PERSISTENT RESERVE IN tells them."""
    keys = c.scsi(bytes([0x5E, 0, 0, 0, 0, 0, 0, 0, 255]), want=255)
    n = struct.unpack(">I", keys[4:8])[0] // 8
    held = c.scsi(bytes([0x5E, 1, 0, 0, 0, 0, 0, 0, 24]), want=24)
    return (tuple(sorted(struct.unpack(f">{n}Q", keys[8:8 + 8 * n]))),
            *((struct.unpack(">Q", held[8:16])[0], held[21]) if held[7] else (0, 0)))


class Unit:
    """What two initiator ports make of the unit: acked, and what the command under way would make of it."""

    def __init__(self):
        self.key, self.holder, self.pending, self.next_key = {1: 0, 2: 0}, 0, None, 1

    def seen(self, key=None, holder=None):
        key, holder = key or self.key, self.holder if holder is None else holder
        return (tuple(sorted(k for k in key.values() if k)), key[holder] if holder else 0, EX_ACCESS if holder else 0)

    def step(self, rng, port):
        """A random command that succeeds: its arguments and the state after it."""
        key, other = self.key[port], 3 - port
        self.next_key += 1
        if not key or rng.random() < 0.3:
            return (IGNORE, 0, 0, self.next_key, True), {**self.key, port: self.next_key}, self.holder
        if self.holder == port:
            return (RELEASE, EX_ACCESS, key), self.key, 0
        if self.holder == other:
            return (PREEMPT, EX_ACCESS, key, self.key[other]), {**self.key, other: 0}, port
        return (RESERVE, EX_ACCESS, key), self.key, port


def until_killed(s, u, rng):
    """Commands of both ports, one after the other, until the server is gone. Returns how many were acknowledged."""
    done = 0
    try:
        ports = {p: login(s, p) for p in (1, 2)}
        while True:
            port = rng.choice((1, 2))
            args, key, holder = u.step(rng, port)
            u.pending = (key, holder)
            try:
                pr_out(ports[port], *args)
            except iscsi.ScsiError as e:
                if e.key != 6:
                    raise
                continue  # a unit attention for what the other did: nothing happened
            u.key, u.holder, u.pending = key, holder, None
            done += 1
    except OSError:
        return done


def check(s, u):
    c = login(s, 9)
    now = state_of(c)
    if u.pending and now == u.seen(*u.pending):
        u.key, u.holder = u.pending
    elif now != u.seen():
        raise RuntimeError(f"{now} after the restart, {u.seen()} was acknowledged, {u.pending} under way")
    u.pending = None
    for port in (1, 2, 9):
        w = login(s, port)
        try:
            w.write(0, bytes(512))
            status = 0
        except iscsi.ScsiError as e:
            status = e.status
        if status != (CONFLICT if u.holder not in (0, port) else 0):
            raise RuntimeError(f"a write of port {port} ended with {status:#x} while {u.holder} holds")
        w.close()
    c.close()


def kill9(flavour, loop):
    rng, u, done = random.Random(KILLS), Unit(), 0
    with tempfile.TemporaryDirectory(prefix="lunette-pr-") as d:
        s = h.Server("--file", f"{d}/lun,size=1M", loop=loop, flavour=flavour)
        for _ in range(KILLS):
            timer = threading.Timer(rng.uniform(0.02, 0.15), s.kill)
            timer.start()
            done += until_killed(s, u, rng)
            timer.join()
            s.start()
            check(s, u)
        bad = s.finish()
        if bad:
            raise RuntimeError(bad)
    if done < KILLS:
        raise RuntimeError(f"only {done} commands in {KILLS} lives")
    return f"{done} changes acknowledged over {KILLS} kills"


def main():
    if not h.binaries_there():
        rep.skip("all", "lunetted is not built")
        return 0
    for loop in ("uring", "epoll"):
        rep.case(f"{loop}/kill9", kill9, "release", loop)
    if h.binaries_there("asan"):
        rep.case("asan/kill9", kill9, "asan", "epoll")
    return rep.status()


if __name__ == "__main__":
    sys.exit(main())
