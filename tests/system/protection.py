#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Checksums and protection information through the whole server: an image that is changed below it gives MEDIUM ERROR
with the LBA and never data; kill -9 at any moment makes no block unreadable and tears no atomic write; blocks travel
with their eight bytes."""
import os, random, struct, sys, tempfile, threading
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
import harness as h
import integrity
import iscsi

MIB = 1 << 20
rep = h.Report("system/protection/")
KILLS = int(os.environ.get("LUNETTE_KILLS", "30"))


def session(s):
    c = iscsi.Session(s.host, s.port, s.iqn)
    c.ready()
    return c


def sense_of(fn):
    """(key, asc, ascq, information) of the command that must fail."""
    try:
        fn()
    except iscsi.ScsiError as e:
        x = e.sense
        return x[2] & 15, x[12], x[13], struct.unpack(">I", x[3:7])[0] if x[0] & 0x80 else None
    raise RuntimeError("the command ended with GOOD")


def corrupted(loop, bs):
    """Bytes of the image change while it is served: those blocks fail, at their LBA, in long reads and short ones; all
    others are right; a write heals; the same after a restart."""
    rng = random.Random(bs)
    with tempfile.TemporaryDirectory(prefix="lunette-sum-") as d:
        s = h.Server("--file", f"{d}/lun,size=8M,bs={bs},integrity={d}/sums", loop=loop)
        c = session(s)
        data = bytearray(os.urandom(4 * MIB))
        for at in range(0, len(data), MIB):
            c.write(at // bs, bytes(data[at:at + MIB]), bs=bs)
        c.flush()
        bad = sorted(rng.sample(range(len(data) // bs), 8))
        with open(f"{d}/lun", "r+b") as f:
            for b in bad:
                at = b * bs + rng.randrange(bs)
                f.seek(at)
                f.write(bytes([data[at] ^ (1 << rng.randrange(8))]))
            f.seek(6 * MIB)  # a block that nobody wrote
            f.write(b"x")
        for again in (False, True):
            for b in bad:
                got = sense_of(lambda: c.read(b, 1, bs=bs))
                if got != (3, 0x11, 0x0c, b):
                    raise RuntimeError(f"block {b} gave {got}")
            got = sense_of(lambda: c.read(0, MIB // bs, bs=bs)) if bad[0] < MIB // bs else None
            if got and got[3] != bad[0]:
                raise RuntimeError(f"a long read names {got[3]}, not {bad[0]}")
            if sense_of(lambda: c.read(6 * MIB // bs, 1, bs=bs))[:2] != (3, 0x11):
                raise RuntimeError("a changed block that was never written could be read")
            for b in range(0, len(data) // bs, 61):
                if b not in bad and c.read(b, 1, bs=bs) != bytes(data[b * bs:(b + 1) * bs]):
                    raise RuntimeError(f"block {b} changed")
            if not again:
                c.logout()
                s.stop()
                s.start()
                c = session(s)
        for b in bad:
            c.write(b, bytes(data[b * bs:(b + 1) * bs]), bs=bs)
        c.write(6 * MIB // bs, bytes(bs), bs=bs)
        if c.read(0, MIB // bs, bs=bs) != bytes(data[:MIB]):
            raise RuntimeError("not healed")
        c.logout()
        err = s.finish()
        if err:
            raise RuntimeError(err)
        with open(f"{d}/lun", "rb") as f:
            if f.read(len(data)) != data:
                raise RuntimeError("the image is no raw image of the disk")


def atomic(loop, kills):
    """WRITE ATOMIC of 64 KiB, killed at any moment: each range is wholly one write or another."""
    rng = random.Random(kills)
    n, ranges = 128, 4
    with tempfile.TemporaryDirectory(prefix="lunette-atomic-") as d:
        s = h.Server("--file", f"{d}/lun,size=1M,integrity={d}/sums", loop=loop)
        acked, gen = [0] * ranges, 0
        for _ in range(kills):
            c = session(s)
            for r in range(ranges):
                got = {struct.unpack("<I", c.read(r * n + i, 1)[:4])[0] for i in range(0, n, 7)}
                whole = c.read(r * n, n)
                got |= {struct.unpack("<I", whole[i:i + 4])[0] for i in range(0, len(whole), 512)}
                if len(got) != 1:
                    raise RuntimeError(f"range {r} is torn: {sorted(got)}")
                if got.pop() < acked[r]:
                    raise RuntimeError(f"range {r} lost an acknowledged write over a kill, which leaves the page cache")
            timer = threading.Timer(rng.uniform(0.002, 0.05), s.kill)
            timer.start()
            try:
                while True:
                    r, gen = rng.randrange(ranges), gen + 1
                    c.scsi(struct.pack(">BBQHHBB", 0x9c, 0, r * n, 0, n, 0, 0), out=struct.pack("<I", gen) * (n * 128))
                    acked[r] = gen
            except OSError:
                pass
            timer.join()
            s.proc.wait()
            s.proc.stdout.close()
            c.close()
            s.start()
        err = s.finish()
        if err:
            raise RuntimeError(err)
        return f"{gen} writes"


def crc16(data):
    crc = 0
    for b in data:
        crc ^= b << 8
        for _ in range(8):
            crc = crc << 1 ^ (0x18bb7 if crc & 0x8000 else 0)
    return crc


def tuples(loop):
    """Type 1 over the wire: blocks of 520 bytes are kept over kill -9, a bad guard and a wrong LBA are refused."""
    with tempfile.TemporaryDirectory(prefix="lunette-pi-") as d:
        with h.Server("--file", f"{d}/lun,size=1M,integrity={d}/sums,pi=1", loop=loop) as s:
            c = session(s)
            blocks = b""
            for i in range(8):
                data = os.urandom(512)
                blocks += data + struct.pack(">HHI", crc16(data), 0x1234, 40 + i)
            cdb = lambda op, prot, lba: struct.pack(">BBQIBB", op, prot << 5, lba, 8, 0, 0)
            c.scsi(cdb(0x8a, 1, 40), out=blocks)
            if sense_of(lambda: c.scsi(cdb(0x8a, 1, 41), out=blocks))[:3] != (0xb, 0x10, 3):
                raise RuntimeError("a wrong reference tag was accepted")
            spoiled = bytes([blocks[0] ^ 1]) + blocks[1:]
            if sense_of(lambda: c.scsi(cdb(0x8a, 1, 40), out=spoiled)) != (0xb, 0x10, 1, 40):
                raise RuntimeError("a bad guard was accepted")
            c.flush()
            s.kill()
            s.proc.wait()
            s.proc.stdout.close()
            c.close()
            s.start()
            c = session(s)
            if c.scsi(cdb(0x88, 1, 40), want=8 * 520) != blocks:
                raise RuntimeError("blocks or tuples changed")
            if c.scsi(b"\x9e\x10" + bytes(11) + b"\x20\0\0", want=32)[12] & 15 != 1:
                raise RuntimeError("READ CAPACITY does not say type 1")
            c.logout()


def main():
    if not h.binaries_there():
        rep.skip("all", "lunetted is not built")
        return 0
    for loop in ("uring", "epoll"):
        rep.case(f"{loop}/corrupted-512", corrupted, loop, 512)
        rep.case(f"{loop}/corrupted-4096", corrupted, loop, 4096)
        rep.case(f"{loop}/kill9", integrity.kill9, "release", loop, KILLS, "on", ",integrity={d}/sums")
        rep.case(f"{loop}/atomic-kill9", atomic, loop, KILLS)
        rep.case(f"{loop}/tuples", tuples, loop)
    return rep.status()


if __name__ == "__main__":
    sys.exit(main())
