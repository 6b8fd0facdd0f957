#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Writer and checker of the power-cut scenario. `write KIND MODEL` runs a client and marks the log after each
acknowledgement; `check KIND MODEL LOG SECTORS [REPLAYDEV]` replays the log to each mark and compares.

The log is that of the kernel's dm-log-writes: a superblock (magic, version, entries, sector size), then for each entry
one sector of header (sector, count, flags, data length; all little endian) followed by its data."""
import os, pickle, random, struct, subprocess, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import iscsi

MAGIC, FLUSH, FUA, DISCARD, MARK = 0x6a736677736872, 1, 2, 4, 8
BLOCKS = 512


def content(block, gen):
    return bytes(4096) if gen == 0 else struct.pack("<QQ", block, gen) * 256


def mark(name):
    subprocess.run(["dmsetup", "--noudevsync", "message", "lw", "0", "mark", name], check=True)


def write(kind, model):
    """Rounds of writes; each ends in a flush or a FUA write, a mark, and a note of what is durable from here on."""
    rng = random.Random(len(kind))
    c = iscsi.Session("127.0.0.1", 3999, "iqn.2025-01.test.lunette:disk", timeout=60)
    c.ready()
    durable, sent, notes, gen = [0] * BLOCKS, [[0] for _ in range(BLOCKS)], [], 0
    mark("start")
    for i in range(40 if kind == "device" else 10):
        acked = {}
        for _ in range(rng.randrange(1, 8)):
            b = rng.randrange(BLOCKS)
            gen += 1
            sent[b].append(gen)
            c.write(b * 8, content(b, gen))
            acked[b] = gen
        if i % 4 == 3:  # FUA: this block only
            b = rng.randrange(BLOCKS)
            gen += 1
            sent[b].append(gen)
            c.write(b * 8, content(b, gen), fua=True)
            durable[b] = gen
        else:
            c.flush()
            for b, g in acked.items():
                durable[b] = g
        mark(f"ack{i}")
        notes.append((f"ack{i}", list(durable), [s[-1] for s in sent]))
    with open(model, "wb") as f:
        pickle.dump((notes, sent), f)
    c.close()


def entries(log):
    with open(log, "rb") as f:
        magic, version, n, ssize = struct.unpack("<QQQI", f.read(28))
        if magic != MAGIC or version != 1:
            raise SystemExit("no dm-log-writes log here")
        at = ssize
        for _ in range(n):
            f.seek(at)
            sector, count, flags, dlen = struct.unpack("<QQQQ", f.read(32))
            at += ssize
            data = b""
            if flags & MARK:
                f.seek(at - ssize + 32)
                data = f.read(dlen)
            elif not flags & DISCARD and count:
                f.seek(at)
                data = f.read(count * ssize)
                at += count * ssize
            yield sector * ssize, count * ssize, flags, data


def verify(name, image, durable, newest, sent):
    for b in range(BLOCKS):
        data = bytes(image[b * 4096:(b + 1) * 4096])
        g = 0 if data == bytes(4096) else struct.unpack("<QQ", data[:16])[1]
        if data != content(b, g):
            raise SystemExit(f"{name}: block {b} is torn")
        if g < durable[b] or g not in sent[b] or g > newest[b]:
            raise SystemExit(f"{name}: block {b} has generation {g}; {durable[b]} was acknowledged as durable")


def mounted(image, dev):
    """The disk file as it is after the file system has recovered from the cut."""
    with open(dev, "r+b", buffering=0) as f:
        f.write(image)
        os.fsync(f.fileno())
    os.makedirs("/mnt/r", exist_ok=True)
    subprocess.run(["mount", dev, "/mnt/r"], check=True)
    try:
        with open("/mnt/r/disk.img", "rb") as f:
            if os.fstat(f.fileno()).st_size != 16 << 20:
                raise SystemExit("the new file's size was not durable")
            return f.read(BLOCKS * 4096)
    except FileNotFoundError:
        raise SystemExit("the new file's name was not durable")
    finally:
        subprocess.run(["umount", "/mnt/r"], check=True)


def check(kind, model, log, sectors, dev=None):
    with open(model, "rb") as f:
        notes, sent = pickle.load(f)
    notes = {n: (d, s) for n, d, s in notes}
    image, marks = bytearray(int(sectors) * 512), 0
    for off, size, flags, data in entries(log):
        if flags & MARK:
            name = data.rstrip(b"\0").decode()
            if name in notes:
                marks += 1
                verify(name, mounted(image, dev) if kind == "file" else image, *notes[name], sent)
        elif flags & DISCARD:
            image[off:off + size] = bytes(size)
        elif data:
            image[off:off + size] = data
    if marks != len(notes):
        raise SystemExit(f"{marks} of {len(notes)} marks are in the log")
    print(f"{marks} marks")


if __name__ == "__main__":
    {"write": write, "check": check}[sys.argv[1]](*sys.argv[2:])
