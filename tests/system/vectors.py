#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""What VMware ESXi and Windows send to a disk, replayed command by command. Neither system can run here: the sequences
are written from their makers' public documentation of VAAI, of offloaded data transfer (ODX) and of thin provisioning,
and from the standards, not recorded from the systems."""
import json, os, struct, subprocess, sys, tempfile
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
import harness as h
import iscsi

rep = h.Report("system/vectors/")
MIB, BS = 1 << 20, 512
XCOPY1, POPULATE, USE = 0x00, 0x10, 0x11
STATUS1, PARAMETERS, TOKENS = 0x00, 0x03, 0x07


def login(s, lun=0, port=1):
    c = iscsi.Session(s.host, s.port, s.iqn, lun=lun, isid=0x80 << 40 | port << 8 | lun)
    c.ready()
    return c


def expect(key, asc, ascq, c, *args):
    try:
        c.scsi(*args)
    except iscsi.ScsiError as e:
        if (e.key, e.asc, e.ascq) != (key, asc, ascq):
            raise RuntimeError(f"{args[0][:2].hex()} ended with {e}, not {key:x}/{asc:02x}/{ascq:02x}")
        return e
    raise RuntimeError(f"{args[0][:2].hex()} succeeded")


def same(what, have, want):
    if have != want:
        raise RuntimeError(f"{what}: {have!r}, not {want!r}")


# --- VMware: VAAI (ATS, XCOPY, WRITE SAME, UNMAP), thin provisioning stun

def naa(c):
    d = c.inquiry(0x83)
    at, end = 4, 4 + struct.unpack(">H", d[2:4])[0]
    while at < end:
        if d[at + 1] & 0x3f == 3:
            return d[at:at + 4 + d[at + 3]]
        at += 4 + d[at + 3]
    raise RuntimeError("no NAA designator")


def attach(s):
    """The questions when a device is claimed: it must offer all four primitives."""
    c = login(s)
    std = c.inquiry(n=36)
    same("third-party copy", std[5] & 8, 8)
    pages = c.inquiry(0)
    for page in (0x80, 0x83, 0xb0, 0xb2):
        assert page in pages[4:], f"no page {page:x}"
    same("NAA of 8 bytes", len(naa(c)), 12)
    b0 = c.inquiry(0xb0)
    assert b0[5] >= 1, "no COMPARE AND WRITE"
    assert struct.unpack(">I", b0[20:24])[0] >= 8192 and struct.unpack(">I", b0[24:28])[0] >= 1, "no UNMAP"
    assert struct.unpack(">Q", b0[36:44])[0] >= 2048, "WRITE SAME of less than 1 MiB"
    same("LBPU, LBPWS, LBPRZ", c.inquiry(0xb2)[5] & 0xc4, 0xc4)
    same("LBPME, LBPRZ", c.scsi(bytes([0x9e, 0x10]) + bytes(11) + b"\x20" + bytes(2), want=32)[14] & 0xc0, 0xc0)
    for what in ((0x89, None), (0x93, None), (0x42, None), (0x83, 0), (0x84, 3)):
        cdb = bytes([0xa3, 0x0c, 1 if what[1] is None else 2, what[0]]) + struct.pack(">HI", what[1] or 0, 64) + bytes(2)
        same(f"{what[0]:x} supported", c.scsi(cdb, want=64)[1] & 7, 3)
    c.close()


def ats(s):
    """The heartbeat of a datastore: each host changes its own block only from what it knows to be there."""
    a, b = login(s, 0, 1), login(s, 0, 2)
    caw = struct.pack(">BBQ3xBBx", 0x89, 0, 40960, 1, 0)
    free, mine, yours = bytes(BS), b"A" * BS, b"B" * BS
    a.write(40960, free)
    a.scsi(caw, free + mine)                       # takes the lock
    e = expect(0xe, 0x1d, 0, b, caw, free + yours)  # comes too late
    same("offset of the difference", struct.unpack(">I", e.sense[3:7])[0], 0)
    for n in range(50):                            # and keeps its heart beating
        nxt = b"A" * (BS - 4) + struct.pack(">I", n)
        a.scsi(caw, mine + nxt)
        mine = nxt
    a.scsi(caw, mine + free)
    b.scsi(caw, free + yours)
    same("the block", b.read(40960, 1), yours)
    a.close()
    b.close()


def xcopy(c, lid, src, dst, extents):
    """Two CSCD descriptors of type E4h and a segment 02h for each extent of (from, to, blocks)."""
    cscd = b"".join(struct.pack(">B3x", 0xe4) + d.ljust(24, b"\0") + bytes(1) + BS.to_bytes(3, "big") for d in (src, dst))
    segs = b"".join(struct.pack(">BBHHHHHQQ", 2, 0, 24, 0, 1, 0, n, a, b) for a, b, n in extents)
    head = struct.pack(">BBH4xII", lid, 0, len(cscd), len(segs), 0)
    out = head + cscd + segs
    c.scsi(bytes([0x83, XCOPY1]) + bytes(8) + struct.pack(">I", len(out)) + bytes(2), out)


def clone(s):
    """A virtual disk of 64 MiB is cloned within a datastore and to another one, in extents of 4 MiB."""
    a, b = login(s, 0), login(s, 1)
    p = a.scsi(bytes([0x84, PARAMETERS]) + bytes(8) + struct.pack(">I", 1024) + bytes(2), want=1024)
    most = struct.unpack(">H", p[10:12])[0]
    assert struct.unpack(">I", p[16:20])[0] >= 4 * MIB and {2, 0xe4} <= set(p[44:44 + p[43]])
    data = os.urandom(MIB)
    for i in range(16):                            # 16 of 64 MiB hold data, the rest holes
        a.write(i * 8192, data)
    extents = [(i * 8192, 262144 + i * 8192, 8192) for i in range(16)]
    for at in range(0, 16, min(most, 16)):
        xcopy(a, 1 + at, naa(a), naa(a), extents[at:at + most])
    xcopy(a, 77, naa(a), naa(b), [(x, x, n) for x, _, n in extents])
    st = a.scsi(bytes([0x84, STATUS1, 77]) + bytes(7) + struct.pack(">I", 12) + bytes(2), want=12)
    same("copy status, segments", (st[4], struct.unpack(">H", st[5:7])[0]), (1, 16))
    for i in range(16):
        for c, lba in ((a, 262144 + i * 8192), (b, i * 8192)):
            same("data", c.read(lba, 2048), data)
            same("hole", c.read(lba + 2048, 2048), bytes(MIB))
    expect(0xa, 0x0d, 2, a, bytes([0x83, 0]) + bytes(8) + struct.pack(">I", 16 + 64 + 28) + bytes(2),  # another array
           struct.pack(">BBH4xII", 9, 0, 64, 28, 0) + (struct.pack(">B3xBBxB", 0xe4, 1, 3, 16) + os.urandom(16) + bytes(8)) * 2 +
           struct.pack(">BBHHHHHQQ", 2, 0, 24, 0, 1, 0, 8, 0, 0))
    a.close()
    b.close()


def conf(d, disks):
    """One target per disk, the first two for alice by CHAP, the third for anybody."""
    iqn, who = "iqn.2025-01.test.lunette:t", {"users": ["alice"]}
    path = os.path.join(d, "c.json")
    with open(path, "w") as f:
        json.dump({"volumes": {f"v{i}": dict(v) for i, v in enumerate(disks)}, "users": {"alice": "a" * 16},
                   "targets": {f"{iqn}{i}": {"luns": {"0": f"v{i}"}, **(who if i < 2 else {})} for i in range(3)}}, f)
    return path, iqn


def targets(flavour, loop, disks):
    """One target per disk: copies and tokens go between them while the initiator has a session with both by the same user,
    and not else: not by its name alone, not by another name (SPC-4 5.17.2, sense of an unreachable CSCD)."""
    with tempfile.TemporaryDirectory(prefix="lunette-vectors-") as d:
        path, iqn = conf(d, [{k: v.format(d=d) for k, v in x.items()} for x in disks])
        with h.Server(flavour=flavour, loop=loop, config=path) as s:
            def session(i, name="iqn.2025-01.test.lunette:one"):
                user = {"user": "alice", "secret": "a" * 16} if i < 2 else {}
                c = iscsi.Session(s.host, s.port, f"{iqn}{i}", initiator=name, **user)
                c.ready()
                return c
            a, b, open_ = session(0), session(1), session(2)
            data, names = os.urandom(MIB), [naa(c) for c in (a, b, open_)]
            b.write(0, data)
            xcopy(a, 1, names[1], names[0], [(0, 8192, 2048)])
            same("data", a.read(8192, 2048), data)
            token = populate(b, 0x1001, [(0, 2048)])
            same("all written", use(a, 0x2001, token, [(16384, 2048)]), (1, 2048))
            same("data", a.read(16384, 2048), data)
            for lid, (c, src, dst) in enumerate(((open_, 1, 2), (a, 1, 2)), 2):  # nobody proved that it is the same
                refused(c, 0xa, 0x0d, 2, xcopy, lid, names[src], names[dst], [(0, 0, 8)])
            refused(open_, 5, 0x23, 4, use, 0x2002, token, [(0, 2048)])
            b.logout()
            other = session(1, "iqn.2025-01.test.lunette:two")
            refused(a, 0xa, 0x0d, 2, xcopy, 4, names[1], names[0], [(0, 0, 8)])
            refused(a, 5, 0x23, 4, use, 0x2003, token, [(0, 2048)])
            b = session(1)
            xcopy(a, 5, names[0], names[1], [(8192, 32768, 2048)])
            same("data", b.read(32768, 2048), data)
            for c in (a, b, open_, other):
                c.close()
    return "EXTENDED COPY and tokens between targets, and who may not"


def refused(c, key, asc, ascq, fn, *args):
    try:
        fn(c, *args)
    except iscsi.ScsiError as e:
        same("sense", (e.key, e.asc, e.ascq), (key, asc, ascq))
        return
    raise RuntimeError("it succeeded")


def zero(s):
    """An eagerly zeroed disk: WRITE SAME (16) with a block of zeros, by 1 MiB and by 32 MiB."""
    c = login(s)
    c.write(100000, b"x" * MIB)
    for lba, n in ((100000, 2048), (131072, 65536)):
        c.scsi(struct.pack(">BBQIBB", 0x93, 0, lba, n, 0, 0), bytes(BS))
    same("zeros", c.read(100000, 2048), bytes(MIB))
    c.close()


def reclaim(s):
    """Space reclamation: UNMAP of ranges of 1 MiB; what it freed reads as zeros and is told by GET LBA STATUS."""
    c = login(s)
    c.write(8192, b"y" * MIB)
    c.write(12288, b"y" * MIB)
    ranges = b"".join(struct.pack(">QI4x", lba, 2048) for lba in (8192, 10240))
    c.scsi(struct.pack(">B6xHx", 0x42, 8 + len(ranges)), struct.pack(">HH4x", 6 + len(ranges), len(ranges)) + ranges)
    same("freed", c.read(8192, 2048), bytes(MIB))
    same("kept", c.read(12288, 2048), b"y" * MIB)
    d = c.scsi(bytes([0x9e, 0x12]) + struct.pack(">QI", 8192, 24) + bytes(2), want=24)
    same("deallocated", d[20], 1)
    c.close()


def stun(flavour):
    """A thin disk whose file system is full: the write fails with 7/27/07, upon which the virtual machine is paused. Once
    space was freed the same write succeeds."""
    with tempfile.TemporaryDirectory(prefix="lunette-stun-") as d:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", d], check=True)
        try:
            with h.Server("--file", f"{d}/lun,size=64M", flavour=flavour) as s:
                c = login(s)
                at = 0
                while at < 16:
                    try:
                        c.write(at * 2048, os.urandom(MIB))
                    except iscsi.ScsiError as e:
                        same("sense", (e.key, e.asc, e.ascq), (7, 0x27, 7))
                        break
                    at += 1
                assert 4 < at < 16, at
                same("what was written before", len(c.read(0, 2048)), MIB)
                ranges = struct.pack(">QI4x", 0, 4096)
                c.scsi(struct.pack(">B6xHx", 0x42, 24), struct.pack(">HH4x", 22, 16) + ranges)
                c.write(at * 2048, b"z" * MIB)
                same("after space was freed", c.read(at * 2048, 2048), b"z" * MIB)
                c.close()
        finally:
            subprocess.run(["umount", d], check=True)


# --- Windows: offloaded data transfer, cluster validation

def rod_limits(c):
    """The block device ROD limits of page 8Fh: ranges, optimal and maximal transfer in blocks."""
    assert 0x8f in c.inquiry(0)[4:]
    d = c.inquiry(0x8f, 1024)
    same("first descriptor", struct.unpack(">HH", d[4:8]), (0, 32))
    most, _, _, size, best = struct.unpack(">HIIQQ", d[14:40])
    return most, best, size


def ranges(runs):
    return b"".join(struct.pack(">QI4x", lba, n) for lba, n in runs)


def populate(c, lid, runs):
    r = ranges(runs)
    out = struct.pack(">HBxII2xH", 14 + len(r), 0, 0, 0, len(r)) + r
    c.scsi(bytes([0x83, POPULATE]) + bytes(4) + struct.pack(">II", lid, len(out)) + bytes(2), out)
    d = c.scsi(bytes([0x84, TOKENS]) + struct.pack(">I4xI", lid, 1024) + bytes(2), want=1024)
    same("copy operation status", d[5] & 0x7f, 1)
    same("units", d[15], 0xf1)
    same("blocks represented", struct.unpack(">Q", d[16:24])[0], sum(n for _, n in runs))
    at = 32 + d[13]
    same("descriptor length", struct.unpack(">I", d[at:at + 4])[0], 514)
    return d[at + 6:at + 518]


def use_list(token, runs, offset=0, immed=False):
    r = ranges(runs)
    return struct.pack(">HB5xQ", 534 + len(r), 1 if immed else 0, offset) + token + struct.pack(">6xH", len(r)) + r


def use(c, lid, *args, **kw):
    out = use_list(*args, **kw)
    c.scsi(bytes([0x83, USE]) + bytes(4) + struct.pack(">II", lid, len(out)) + bytes(2), out)
    while True:
        d = c.scsi(bytes([0x84, TOKENS]) + struct.pack(">I4xI", lid, 1024) + bytes(2), want=1024)
        if d[5] & 0x7f not in (0x10, 0x11, 0x12):
            return d[5] & 0x7f, struct.unpack(">Q", d[16:24])[0]


def odx(s):
    """A file of two extents is copied to another disk by another session that was handed the token, and then again in the
    background; its source is written, upon which the token is worth nothing and the client reads and writes."""
    a, b = login(s, 0, 1), login(s, 1, 2)
    most, best, size = rod_limits(a)
    assert most >= 8 and size >= best >= 2048
    data = os.urandom(3 * MIB)
    a.write(20480, data[:2 * MIB])
    a.write(40960, data[2 * MIB:])
    token = populate(a, 0x1001, [(20480, 4096), (40960, 2048)])
    same("all written", use(b, 0x2001, token, [(1000, 3000), (9000, 3144)]), (1, 6144))
    same("first part", b.read(1000, 3000), data[:3000 * BS])
    same("second part", b.read(9000, 3144), data[3000 * BS:])
    same("in the background", use(b, 0x2002, token, [(30000, 2048)], offset=4096, immed=True), (1, 2048))
    same("from an offset", b.read(30000, 2048), data[2 * MIB:])
    a.write(20481, b"w" * BS)
    out = use_list(token, [(1000, 6144)])
    expect(5, 0x23, 8, b, bytes([0x83, USE]) + bytes(4) + struct.pack(">II", 0x2003, len(out)) + bytes(2), out)
    well_known = struct.pack(">I2xH", 0xffff0001, 0x1f8).ljust(512, b"\0")
    same("zeros", use(b, 0x2004, well_known, [(1000, 6144)]), (1, 6144))
    same("zeros", b.read(1000, 2048), bytes(MIB))
    a.close()
    b.close()


def cluster(s):
    """Validation of a cluster's disks: registration, reservation for registrants, challenge by another node, defence."""
    a, b = login(s, 0, 3), login(s, 0, 4)

    def out(c, action, key, new=0, kind=5):
        c.scsi(bytes([0x5f, action, kind, 0, 0, 0, 0, 0, 24]), struct.pack(">QQ8x", key, new))

    out(a, 6, 0, 0xa1)
    out(a, 1, 0xa1)
    a.write(0, bytes(BS))
    try:
        b.write(0, bytes(BS))
        raise RuntimeError("a node that has not registered writes")
    except iscsi.ScsiError as e:
        same("status", e.status, 0x18)
    out(b, 6, 0, 0xb2)
    b.write(0, bytes(BS))
    out(b, 4, 0xb2, 0xa1)                          # preempts
    keys = b.scsi(bytes([0x5e, 0, 0, 0, 0, 0, 0, 0, 64]), want=64)
    same("keys", struct.unpack(">IQ", keys[4:16]), (8, 0xb2))
    try:
        a.write(0, bytes(BS))
        raise RuntimeError("a node that was preempted writes")
    except iscsi.ScsiError as e:
        if e.status != 0x18 and (e.key, e.asc) != (6, 0x2a):
            raise
    out(b, 3, 0xb2)                                # clears
    a.ready()
    a.write(0, bytes(BS))
    a.close()
    b.close()


def replay(flavour, loop, disks):
    with tempfile.TemporaryDirectory(prefix="lunette-vectors-") as d, \
         h.Server(*[x.format(d=d) for x in disks], loop=loop, flavour=flavour) as s:
        for f in (attach, ats, clone, zero, reclaim, odx, cluster):
            try:
                f(s)
            except (iscsi.ScsiError, iscsi.Closed, RuntimeError, AssertionError) as e:
                raise RuntimeError(f"{f.__name__}: {e}")
    return "attach, ATS, XCOPY, WRITE SAME, UNMAP, ODX, cluster validation"


def main():
    if not h.binaries_there():
        rep.skip("all", "lunetted is not built")
        return 0
    ram = ["--ram", "256M", "--ram", "256M"]
    files = ["--file", "{d}/a,size=256M", "--file", "{d}/b,size=256M"]
    for loop in ("uring", "epoll"):
        rep.case(f"{loop}/ram", replay, "release", loop, ram)
        rep.case(f"{loop}/files", replay, "release", loop, files)
        rep.case(f"{loop}/targets", targets, "release", loop, [{"type": "ram", "size": "64MiB"}] * 2 +
                 [{"type": "file", "path": "{d}/c", "size": "64MiB"}])
    rep.case("uring/mixed", replay, "release", "uring", ram[:2] + files[2:])
    if os.geteuid() == 0:
        rep.case("stun", stun, "release")
    else:
        rep.skip("stun", "mounting a small file system needs root")
    if h.binaries_there("asan"):
        rep.case("asan/files", replay, "asan", "epoll", files)
    return rep.status()


if __name__ == "__main__":
    sys.exit(main())
