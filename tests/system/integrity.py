#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Nothing that was acknowledged as durable is lost: the server is killed between flushes, connections are cut under
load, files shrink below a LUN, bits flip on the way. A writer that knows what it was promised checks every byte."""
import os, random, struct, sys, tempfile, threading, time
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
import harness as h
import iscsi
import proxy

MIB = 1 << 20
rep = h.Report("system/integrity/")
KILLS = int(os.environ.get("LUNETTE_KILLS", "100"))


class Model:
    """What each 4 KiB block may hold: the last value that is durable, and every later one that was sent."""

    def __init__(self, blocks):
        self.durable = [0] * blocks
        self.maybe = [set() for _ in range(blocks)]
        self.gen = 0

    @staticmethod
    def content(block, gen):
        return bytes(4096) if gen == 0 else struct.pack("<QQ", block, gen) * 256

    def sent(self, block):
        self.gen += 1
        self.maybe[block].add(self.gen)
        return self.content(block, self.gen)

    def flushed(self, acked):
        """acked: {block: generation} of writes acknowledged before the flush was sent."""
        for b, g in acked.items():
            if g > self.durable[b]:
                self.durable[b] = g
                self.maybe[b] = {x for x in self.maybe[b] if x > g}

    def check(self, block, data):
        b, g = struct.unpack("<QQ", data[:16])
        if data == bytes(4096):
            g = 0
        elif b != block or data != self.content(block, g):
            raise RuntimeError(f"block {block} is torn or holds what was never written there")
        if g != self.durable[block] and g not in self.maybe[block]:
            raise RuntimeError(f"block {block} has generation {g}; {self.durable[block]} was durable")
        self.durable[block], self.maybe[block] = g, set()  # what was read is now the truth to build on


def kill9(flavour, loop, kills, wce, more=""):
    """kills times: write in bursts, flush or FUA at random, SIGKILL at a random moment, restart, verify all. more:
    options of the disk; {d} is its directory."""
    rng = random.Random(kills)
    blocks = 256
    m = Model(blocks)
    with tempfile.TemporaryDirectory(prefix="lunette-k9-") as d:
        s = h.Server("--file", f"{d}/lun,size=1M,wce={wce}{more.format(d=d)}", loop=loop, flavour=flavour)
        acks = flushes = 0
        for _ in range(kills):
            c = iscsi.Session(s.host, s.port, s.iqn)
            c.ready()
            data = c.read(0, blocks * 8)
            for b in range(blocks):
                m.check(b, data[b * 4096:(b + 1) * 4096])
            timer = threading.Timer(rng.uniform(0.002, 0.08), s.kill)
            timer.start()
            acked = {}
            try:
                while True:
                    for _ in range(rng.randrange(1, 12)):
                        b = rng.randrange(blocks)
                        fua = rng.random() < 0.2
                        payload = m.sent(b)
                        g = m.gen
                        c.write(b * 8, payload, fua=fua)
                        acks += 1
                        acked[b] = g
                        if fua or wce == "off":
                            m.flushed({b: g})
                    before = dict(acked)
                    c.flush()
                    flushes += 1
                    m.flushed(before)
            except OSError:
                pass
            timer.join()
            s.proc.wait()
            s.proc.stdout.close()
            c.close()
            s.start()
        c = iscsi.Session(s.host, s.port, s.iqn)
        c.ready()
        data = c.read(0, blocks * 8)
        for b in range(blocks):
            m.check(b, data[b * 4096:(b + 1) * 4096])
        c.logout()
        bad = s.finish()
        if bad:
            raise RuntimeError(bad)
        return f"{kills} kills, {acks} writes, {flushes} flushes"


def cut_under_load(flavour, loop, lun):
    """Connections are reset again and again; each client logs in again and repeats; every block ends as last written,
    and a write of a dead session never lands on a later one."""
    with tempfile.TemporaryDirectory(prefix="lunette-cut-") as d:
        with h.Server(*[o.format(d=d) for o in lun], loop=loop, flavour=flavour) as s:
            p = proxy.Proxy((s.host, s.port))
            errors, cuts = [], [0]
            stop = time.monotonic() + 6

            def client(n):
                rng, base, cut, c = random.Random(n), n * 4096, None, None
                try:
                    while time.monotonic() < stop:
                        try:
                            if c is None:
                                c = iscsi.Session("127.0.0.1", p.port, s.iqn, isid=0x800000000000 + n)
                                c.ready()
                            # after a cut: other bytes to the same place, which the dead session's write must not undo
                            b, size = cut or (rng.randrange(64) * 8, 512 * rng.choice((8, 16, 64)))
                            data, again = rng.randbytes(size), cut is not None
                            cut = (b, size)
                            c.write(base + b, data)
                            for _ in range(3 if again else 1):
                                if c.read(base + b, size // 512) != data:
                                    raise RuntimeError(f"client {n}: block {b} reads back wrong, after a cut: {again}")
                                if again:
                                    time.sleep(0.005)
                            cut = None
                        except (OSError, iscsi.LoginRefused):
                            if c:
                                c.close()
                            c = None
                            time.sleep(0.01)
                except Exception as e:
                    errors.append(f"{type(e).__name__}: {e}")
                finally:
                    if c:
                        c.close()

            ts = [threading.Thread(target=client, args=(n,)) for n in range(4)]
            [t.start() for t in ts]
            while time.monotonic() < stop:
                time.sleep(0.15)
                p.cut()
                cuts[0] += 1
            [t.join(20) for t in ts]
            p.stop()
            if errors:
                raise RuntimeError(errors[0])
            if p.accepted < 8:
                raise RuntimeError(f"only {p.accepted} connections: the test did not test")
            return f"{cuts[0]} cuts, {p.accepted} connections"


def truncated(loop):
    """A file that shrinks under a LUN: the blocks that are gone give an error with sense, the rest goes on, the
    capacity stays, and no signal ends the server."""
    with tempfile.TemporaryDirectory(prefix="lunette-tr-") as d:
        with h.Server("--file", f"{d}/lun,size=8M", loop=loop) as s:
            c = iscsi.Session(s.host, s.port, s.iqn)
            c.ready()
            c.write(0, b"\x11" * MIB)
            c.write(12288, b"\x22" * MIB)
            c.flush()
            os.truncate(f"{d}/lun", 2 * MIB)
            try:
                c.read(12288, 8)
                raise RuntimeError("a read of blocks that are gone succeeded")
            except iscsi.ScsiError as e:
                if e.key not in (3, 4):
                    raise RuntimeError(f"a read of blocks that are gone gives {e}, not MEDIUM ERROR")
                key = e.key
            if c.read(0, 2048) != b"\x11" * MIB:
                raise RuntimeError("blocks that are still there read wrong")
            if c.capacity()[0] != 8 * MIB // 512 - 1:
                raise RuntimeError("the capacity shrank")
            c.logout()
            return f"sense key {key}"


def bit_flips(loop):
    """With both digests on, bits that flip on the way are noticed by one side or the other: no wrong byte is read and
    none is stored. The flips hit each direction, far enough in for logins to end."""
    rng = random.Random(7)
    flips = [0]

    def flip(way, total, data):
        if total > 3000 and rng.random() < 0.02:
            flips[0] += 1
            data = bytearray(data)
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            return bytes(data)
        return data

    with h.Server("--ram", "16M", loop=loop) as s:
        p = proxy.Proxy((s.host, s.port), flip=flip)
        keys = {"HeaderDigest": "CRC32C", "DataDigest": "CRC32C"}
        stored, c, lost, end = {}, None, 0, time.monotonic() + 6
        while time.monotonic() < end:
            try:
                if c is None:
                    c = iscsi.Session("127.0.0.1", p.port, s.iqn, keys=keys, timeout=2)
                    c.ready()
                b, data = rng.randrange(64) * 8, rng.randbytes(4096)
                was = stored.pop(b, None)
                if was is not None and c.read(b, 8) != was:
                    raise RuntimeError(f"block {b} reads wrong bytes")
                c.write(b, data)
                stored[b] = data
            except (OSError, iscsi.LoginRefused, iscsi.ScsiError) as e:
                lost += 1
                if c:
                    c.close()
                c = None
        p.stop()
        c = iscsi.Session(s.host, s.port, s.iqn)
        c.ready()
        for b, data in stored.items():
            if c.read(b, 8) != data:
                raise RuntimeError(f"block {b} was stored wrong")
        c.logout()
        if not flips[0] or not lost:
            raise RuntimeError(f"{flips[0]} flips, {lost} noticed: the test did not test")
        return f"{flips[0]} flips, {lost} sessions lost to them"


def fua_reaches_the_file(loop):
    """After FUA, SYNCHRONIZE CACHE or write cache off, another process sees the bytes in the file at once."""
    with tempfile.TemporaryDirectory(prefix="lunette-fua-") as d:
        with h.Server("--file", f"{d}/lun,size=1M", loop=loop) as s:
            c = iscsi.Session(s.host, s.port, s.iqn)
            c.ready()
            c.write(8, b"f" * 4096, fua=True)
            c.write(16, b"s" * 4096)
            c.flush()
            with open(f"{d}/lun", "rb") as f:
                if f.read(12288) != bytes(4096) + b"f" * 4096 + b"s" * 4096:
                    raise RuntimeError("the file does not hold what was flushed")
            c.logout()


def identity(loop):
    """A file disk keeps its identity over a restart, a RAM disk has a new one."""
    with tempfile.TemporaryDirectory(prefix="lunette-id-") as d:
        ids = []
        for _ in range(2):
            with h.Server("--file", f"{d}/lun,size=1M", "--ram", "1M", loop=loop, state=d + "/state") as s:
                c = iscsi.Session(s.host, s.port, s.iqn)
                c.ready()
                a = c.inquiry(0x83)
                c.lun = 1
                c.ready()
                ids.append((a, c.inquiry(0x83), c.inquiry(0x80)))
                c.logout()
        if ids[0][0] != ids[1][0]:
            raise RuntimeError("the file disk changed its identity over a restart")
        if ids[0][1] == ids[1][1] or ids[0][2] == ids[1][2]:
            raise RuntimeError("the RAM disk kept its identity: its zeros would pass for the old disk")


def holes(loop):
    """UNMAP gives blocks of the file back to the file system."""
    with tempfile.TemporaryDirectory(prefix="lunette-hole-") as d:
        with h.Server("--file", f"{d}/lun,size=64M", loop=loop) as s:
            c = iscsi.Session(s.host, s.port, s.iqn)
            c.ready()
            if os.stat(f"{d}/lun").st_blocks * 512 > MIB:
                raise RuntimeError("a new file is not sparse")
            for i in range(8):
                c.write(i * 2048, os.urandom(MIB))
            c.flush()
            full = os.stat(f"{d}/lun").st_blocks * 512
            c.scsi(struct.pack(">BBIBHB", 0x42, 0, 0, 0, 24, 0),
                   out=struct.pack(">HHI", 22, 16, 0) + struct.pack(">QII", 0, 4 * 2048, 0))
            c.flush()
            left = os.stat(f"{d}/lun").st_blocks * 512
            if full < 8 * MIB or left > full - 3 * MIB:
                raise RuntimeError(f"{full} bytes before UNMAP of half, {left} after")
            if c.read(0, 8) != bytes(4096):
                raise RuntimeError("unmapped blocks do not read zero")
            c.logout()


def main():
    if not h.binaries_there():
        rep.skip("all", "lunetted is not built")
        return 0
    for loop in ("uring", "epoll"):
        rep.case(f"{loop}/kill9-between-flushes", kill9, "release", loop, KILLS, "on")
        rep.case(f"{loop}/kill9-write-cache-off", kill9, "release", loop, max(5, KILLS // 5), "off")
        for name, lun in (("ram", ["--ram", "64M"]), ("file", ["--file", "{d}/lun,size=64M"])):
            rep.case(f"{loop}/cut-under-load-{name}", cut_under_load, "release", loop, lun)
        rep.case(f"{loop}/truncated-file", truncated, loop)
        rep.case(f"{loop}/flushed-is-in-the-file", fua_reaches_the_file, loop)
        rep.case(f"{loop}/bit-flips-with-digests", bit_flips, loop)
        rep.case(f"{loop}/identity", identity, loop)
        rep.case(f"{loop}/unmap-frees-file-space", holes, loop)
    for flavour in ("asan", "tsan"):
        if h.binaries_there(flavour):
            rep.case(f"{flavour}/cut-under-load", cut_under_load, flavour, "uring", ["--ram", "64M"])
            rep.case(f"{flavour}/cut-under-load-file", cut_under_load, flavour, "epoll", ["--file", "{d}/lun,size=64M"])
    return rep.status()


if __name__ == "__main__":
    sys.exit(main())
