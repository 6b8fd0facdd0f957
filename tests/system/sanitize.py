#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""SANITIZE of a disk in a file: it goes on after SIGKILL without being asked, refuses the data meanwhile, and in the end
no byte of what was stored is in the file, whose space is given back (SBC-4 4.11)."""
import json, os, sys, tempfile, time
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
import harness as h
import iscsi

rep = h.Report("system/sanitize/")
MIB = 1 << 20
SIZE, MARK = 24 * MIB, b"what must not be found again...."
TUR, BLOCK_ERASE = bytes(6), bytes([0x48, 0x82]) + bytes(8)
SANITIZING = (2, 0x04, 0x1B)


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


def over_restart(d):
    path, conf = f"{d}/disk", f"{d}/conf.yaml"
    with open(path, "wb") as f:
        f.write(MARK * (SIZE // len(MARK)))
    iqn = "iqn.2025-01.test.lunette:disk"
    with open(conf, "w") as f:  # a write takes a while, so that SIGKILL meets the work half done
        json.dump({"volumes": {"v": {"type": "file", "path": path, "filters": [{"type": "delay", "time": "100ms",
                                                                                "op": "write"}]}},
                   "targets": {iqn: {"luns": {"0": {"volume": "v"}}}}}, f)
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
        end = time.monotonic() + 60
        while sense_of(c):
            assert time.monotonic() < end, "it does not end"
            time.sleep(0.1)
        assert c.scsi(bytes([0x28]) + bytes(7) + bytes([1, 0]), want=512) == bytes(512)
    with open(path, "rb") as f:
        assert not any(f.read().lstrip(b"\0")), "something is left"
    assert os.stat(path).st_blocks * 512 <= MIB, "the space was not given back"
    assert os.stat(path).st_size == SIZE


with tempfile.TemporaryDirectory(prefix="lunette-sanitize-") as d:
    rep.case("over-restart", over_restart, d)
sys.exit(rep.status())
