#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""SANITIZE of a disk in a file: it goes on after SIGKILL without being asked, refuses the data meanwhile, and in the end
no byte of what was stored is in the file, whose space is given back (SBC-4 4.11). FORMAT UNIT the same, with its own words and
with the type of protection that it was asked for (SBC-4 4.33)."""
import json, os, sys, tempfile, time
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
import harness as h
import iscsi

rep = h.Report("system/sanitize/")
MIB = 1 << 20
SIZE, MARK = 24 * MIB, b"what must not be found again...."
TUR, BLOCK_ERASE = bytes(6), bytes([0x48, 0x82]) + bytes(8)
FORMAT_TYPE_1 = bytes([0x04, 0x90, 0, 0, 0, 0])  # FMTPINFO 10b, FMTDATA
PATTERN = b"fill"
SANITIZING, FORMATTING = (2, 0x04, 0x1B), (2, 0x04, 0x04)


def sense_of(c, cdb=TUR):
    """None where the command succeeds. Unit attentions are passed over."""
    for _ in range(8):
        try:
            c.scsi(cdb)
            return None
        except iscsi.ScsiError as e:
            if e.key != 6:
                return (e.key, e.asc, e.ascq)
    raise RuntimeError("unit attentions without end")


def marked(path):
    with open(path, "rb") as f:
        return f.read().count(MARK)


def slow_disk(d, **keys):
    """A write takes a while, so that SIGKILL meets the work half done. (path, configuration, target)"""
    path, conf, iqn = f"{d}/disk", f"{d}/conf.yaml", "iqn.2025-01.test.lunette:disk"
    with open(path, "wb") as f:
        f.write(MARK * (SIZE // len(MARK)))
    with open(conf, "w") as f:
        json.dump({"volumes": {"v": {"type": "file", "path": path,
                                     "filters": [{"type": "delay", "time": "100ms", "op": "write"}], **keys}},
                   "targets": {iqn: {"luns": {"0": {"volume": "v"}}}}}, f)
    return path, conf, iqn


def until_done(c, word):
    end = time.monotonic() + 60
    while True:
        got = sense_of(c)
        if not got:
            return
        assert got == word, got
        assert time.monotonic() < end, "it does not end"
        time.sleep(0.1)


def format_over_restart(d):
    path, conf, iqn = slow_disk(d, integrity=f"{d}/sums")
    with h.Server(config=conf) as s:
        c = iscsi.Session(s.host, s.port, iqn)
        c.ready()
        assert c.scsi(bytes([0x9E, 0x10]) + bytes(11) + bytes([32, 0, 0]), want=32)[12] == 0, "protected already"
        c.scsi(FORMAT_TYPE_1, bytes([0, 0x8A, 0, 0, 0, 1, 0, len(PATTERN)]) + PATTERN)  # FOV, IP, IMMED
        assert sense_of(c) == FORMATTING, "the work is not under way"
        time.sleep(0.6)
        s.kill()
        left = marked(path)
        assert 0 < left < SIZE // len(MARK), f"killed too early or too late: {left}"
        s.start()
        c = iscsi.Session(s.host, s.port, iqn)
        assert sense_of(c) == FORMATTING, "forgotten over the restart"
        until_done(c, FORMATTING)
        for again in (False, True):
            assert c.scsi(bytes([0x9E, 0x10]) + bytes(11) + bytes([32, 0, 0]), want=32)[12] == 1, "not protected by type 1"
            block = c.scsi(bytes([0x88, 0x20]) + bytes(11) + bytes([1, 0, 0]), want=520)
            assert block == PATTERN * 128 + b"\xff" * 8, block[-16:].hex()
            assert c.read(SIZE // 512 - 2048, 2048) == PATTERN * (MIB // 4), "the end of the disk is not formatted"
            if not again:
                s.kill()
                s.start()
                c = iscsi.Session(s.host, s.port, iqn)
                c.ready()
    assert not marked(path), "something is left"


def over_restart(d):
    path, conf, iqn = slow_disk(d)
    with h.Server(config=conf) as s:
        c = iscsi.Session(s.host, s.port, iqn)
        c.ready()
        c.scsi(BLOCK_ERASE)
        assert sense_of(c) == SANITIZING, "the work is not under way"
        data = c.scsi(bytes([0x03, 0, 0, 0, 18, 0]), want=18)
        assert data[2] == 2 and data[15] == 0x80, data.hex()
        time.sleep(0.6)
        s.kill()
        left = marked(path)
        assert 0 < left < SIZE // len(MARK), f"killed too early or too late: {left}"
        s.start()
        c = iscsi.Session(s.host, s.port, iqn)
        assert sense_of(c) == SANITIZING, "forgotten over the restart"
        until_done(c, SANITIZING)
        assert c.scsi(bytes([0x28]) + bytes(7) + bytes([1, 0]), want=512) == bytes(512)
    with open(path, "rb") as f:
        assert not any(f.read().lstrip(b"\0")), "something is left"
    assert os.stat(path).st_blocks * 512 <= MIB, "the space was not given back"
    assert os.stat(path).st_size == SIZE


for name, fn in (("over-restart", over_restart), ("format-over-restart", format_over_restart)):
    with tempfile.TemporaryDirectory(prefix="lunette-sanitize-") as d:
        rep.case(name, fn, d)
sys.exit(rep.status())
