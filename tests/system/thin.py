#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""A sparse disk on a file system that really fills: the warning at the threshold (38/07), the end (07/27/07) without loss of
what was written, and UNMAP as the way out (SBC-4 4.7.3.6, 4.7.3.7); what a hypervisor's thin provisioning stun relies on."""
import os, struct, sys, tempfile, time
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
import harness as h
import iscsi

rep = h.Report("system/thin/")
MIB, BLOCKS = 1 << 20, 2048  # blocks of a MiB
FULL, SOFT = (7, 0x27, 0x07), (6, 0x38, 0x07)


def sense_of(fn, *args):
    try:
        fn(*args)
        return None
    except iscsi.ScsiError as e:
        return (e.key, e.asc, e.ascq)


def chunk(i):
    return bytes([i & 255, i >> 8, 0xA5, 0x5A]) * (MIB // 4)


def fill(c, first, last):
    """Writes chunks until one is refused; (what was written, the refusal)."""
    done, warned = [], 0
    for i in range(first, last):
        got = sense_of(c.write, i * BLOCKS, chunk(i))
        if got == SOFT:
            warned += 1
            got = sense_of(c.write, i * BLOCKS, chunk(i))
        if got:
            return done, got, warned
        done.append(i)
    return done, None, warned


def unmap(c, i, n):
    c.scsi(bytes([0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0]),
           struct.pack(">HH4xQI4x", 22, 16, i * BLOCKS, n * BLOCKS))


def arm(c):
    """The threshold is a fifth of all there is; LBPERE is on."""
    page = c.scsi(bytes([0x5A, 0x08, 0x1C, 0x02, 0, 0, 0, 0, 255, 0]), want=255)
    assert page[8] & 0x3F == 0x1C and page[9] == 2, page.hex()
    recovery = bytearray(c.scsi(bytes([0x5A, 0x08, 0x01, 0, 0, 0, 0, 0, 255, 0]), want=255))
    assert recovery[8 + 3] & 0x80, "LBPERE is off"
    select = bytearray(8) + bytearray(page[8:8 + 32])
    select[8] &= 0x7F
    select[8 + 16] |= 0x80
    select[8 + 23] = 20
    c.scsi(bytes([0x55, 0x10, 0, 0, 0, 0, 0, 0, len(select), 0]), bytes(select))


def until(fn, what):
    end = time.monotonic() + 20
    while not fn():
        assert time.monotonic() < end, what
        time.sleep(0.1)


def fills(d, loop):
    with h.Server("--file", f"{d}/lun,size=1G", loop=loop) as s:
        c = iscsi.Session(s.host, s.port, s.iqn)
        c.ready()
        until(lambda: sense_of(c.scsi, bytes([0x5A, 0x08, 0x1C, 0x02, 0, 0, 0, 0, 255, 0]), b"", 255) is None,
              "no page of thresholds: the server does not know its space")
        arm(c)
        done, got, warned = fill(c, 0, 48)
        assert got is None and not warned, (got, warned)
        time.sleep(2)  # the space is looked at about once a second
        assert sense_of(c.scsi, bytes(6)) is None, "a warning long before there is need"
        more, got, warned = fill(c, 48, 56)
        assert got is None, got
        done += more
        if not warned:
            until(lambda: sense_of(c.scsi, bytes(6)) == SOFT, "no warning")
        more, got, warned = fill(c, 56, 100)
        assert got == FULL and not warned, (got, warned)
        done += more
        for i in done:  # neither reads nor writes over what has its space are hindered
            assert c.read(i * BLOCKS, BLOCKS) == chunk(i), f"chunk {i} is lost"
        c.write(0, chunk(7))
        c.flush()
        assert c.read(0, BLOCKS) == chunk(7)
        unmap(c, 0, 16)
        assert not any(c.read(0, BLOCKS)), "unmapped blocks are not zeros"
        more, got, _ = fill(c, 200, 212)
        assert got is None, f"space that UNMAP gave back is not used: {got}"
        for i in done[16:] + more:
            assert c.read(i * BLOCKS, BLOCKS) == chunk(i), f"chunk {i} is lost"
        c.flush()
        s.kill()
        s.start()
        c = iscsi.Session(s.host, s.port, s.iqn)
        c.ready()
        for i in done[16:] + more:
            assert c.read(i * BLOCKS, BLOCKS) == chunk(i), f"chunk {i} is lost over a restart"


def mounted(loop):
    with tempfile.TemporaryDirectory(prefix="lunette-thin-") as d:
        r = h.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", d], 10)
        if r.returncode:
            raise h.Skip("no file system of its own can be mounted: " + h.tail(r.stdout))
        try:
            fills(d, loop)
        finally:
            h.run(["umount", d], 10)


for loop in ("uring", "epoll"):
    if not h.binaries_there():
        rep.skip(loop, "lunetted is not built")
    else:
        rep.case(loop, mounted, loop)
sys.exit(rep.status())
