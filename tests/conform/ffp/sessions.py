# SPDX-License-Identifier: BSD-3-Clause
"""Text requests, discovery, sessions (6.3.5, 6.4, 11.10, appendix C)."""
import json, os, struct, subprocess, tempfile

import harness
from ffp.peer import *  # noqa: the cases are written in its words


# --- text

def pairs(p):
    return [x for x in p.data.decode().split("\0") if x]


@case("App. C: SendTargets in a discovery session: All, by name, unknown name")
def send_targets_discovery():
    a = fresh(discovery=True)
    _, p = text(a, b"SendTargets=All\0")
    must(p.op == TEXT_RSP and p.bhs[1] == F and p.u32(20) == NOTAG, f"opcode {p.op:#x}")
    got = pairs(p)
    must(f"TargetName={srv.target}" in got, f"{got}")
    must(any(x.startswith("TargetAddress=") and "," in x for x in got), f"{got}")
    _, p = text(a, f"SendTargets={srv.target}\0".encode())
    must(pairs(p)[0] == f"TargetName={srv.target}" and len(pairs(p)) > 1, f"{pairs(p)}")
    _, p = text(a, b"SendTargets=iqn.2001-04.com.example:nothing\0")
    must(p.op == REJECT or not pairs(p), f"{pairs(p)}")
    _, p = text(a, b"SendTargets=All\0", immediate=True)
    must(pairs(p) == got, "immediate")
    p = logout(a, 0)
    must(p.op == LOGOUT_RSP and p.bhs[2] == 0, "logout")
    return got[1]


@case("11.10.4, App. C: a list of targets longer than any text of the initiator comes whole, in parts of its segment")
def send_targets_many():
    names = [f"iqn.2026-11.com.example:{'x' * 150}{i:03d}" for i in range(500)]
    conf = {"volumes": {"v": {"type": "null", "size": "1MiB"}}, "targets": {n: {"luns": {"0": "v"}} for n in names}}
    before = srv.port
    with tempfile.TemporaryDirectory() as d:
        with open(f"{d}/conf.json", "w") as f:
            json.dump(conf, f)
        binary = os.environ.get("LUNETTED") or os.path.join(harness.flavour_dir("release"), "src/lunetted/lunetted")
        port = harness.free_port()
        many = subprocess.Popen([binary, "--listen", f"127.0.0.1:{port}", "--state", f"{d}/state", "--config", f"{d}/conf.json"],
                                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            while b"ready" not in (line := many.stdout.readline()):
                must(line, "the server with 500 targets does not start")
            srv.port = port
            a = fresh(discovery=True, MaxRecvDataSegmentLength="4096")
            itt, p = text(a, b"SendTargets=All\0")
            data, parts = p.data, 1
            while not p.bhs[1] & F:
                must(p.bhs[1] == C and p.u32(20) != NOTAG and 0 < len(p.data) <= 4096, f"flags {p.bhs[1]:#x}, {len(p.data)} bytes")
                _, p = text(a, b"", ttt=p.u32(20), itt=itt)
                data, parts = data + p.data, parts + 1
            must(p.u32(20) == NOTAG, "TTT with the last part")
            got = [x[11:] for x in data.decode().split("\0") if x.startswith("TargetName=")]
            must(sorted(got) == names, f"{len(got)} of {len(names)} targets")
        finally:
            srv.port = before
            many.terminate()
            many.wait(20)
            many.stdout.close()
    return f"{len(data)} bytes in {parts} parts"


@case("App. C: SendTargets in a normal session tells only of the session's own target")
def send_targets_normal():
    a = fresh()
    for value in ("", srv.target):
        _, p = text(a, f"SendTargets={value}\0".encode())
        must(p.op == TEXT_RSP and f"TargetName={srv.target}" in pairs(p), f"'{value}': {p.op:#x}")
    for value in ("All", "iqn.2001-04.com.example:nothing", "x" * 300):
        try:
            _, p = text(a, f"SendTargets={value}\0".encode())
            must(p.op == REJECT or all(x == f"TargetName={srv.target}" or x.startswith("TargetAddress=") for x in pairs(p)),
                 f"'{value[:20]}': {pairs(p) if p.op == TEXT_RSP else p.op}")
        except UnicodeDecodeError:
            raise AssertionError("binary rubbish in a text response")
    a.alive()


@case("6.1, 11.10.2: a text request cut at every byte by the C bit")
def text_c_bit():
    whole = b"SendTargets=\0"
    a = fresh()
    _, want = text(a, whole)
    for cut in range(len(whole) + 1):
        itt, p = text(a, whole[:cut], flags=C)
        must(p.op == TEXT_RSP and p.bhs[1] == 0 and not p.data and p.u32(20) != NOTAG,
             f"cut {cut}: opcode {p.op:#x} flags {p.bhs[1]:#x} TTT {p.u32(20):#x}")
        _, p = text(a, whole[cut:], ttt=p.u32(20), itt=itt)
        must(p.op == TEXT_RSP and p.bhs[1] == F and p.data == want.data, f"cut {cut}: {p.op:#x}")
    # a new request with the reserved TTT resets what was begun (11.10.4)
    itt, p = text(a, b"SendTar", flags=C)
    _, p = text(a, whole)
    must(p.op == TEXT_RSP and p.data == want.data, f"after a reset: {p.op:#x}")
    # F and C together
    try:
        _, p = text(a, b"Send", flags=F | C)
        must(p.op == REJECT, f"F and C: opcode {p.op:#x}")
        a.alive()
    except Closed:
        pass


@case("11.10.4: a Target Transfer Tag that was never given")
def text_stale_ttt():
    a = fresh()
    try:
        _, p = text(a, b"", ttt=0x123456)
        must(p.op == REJECT, f"opcode {p.op:#x}")
        a.alive()
        return f"reject {p.bhs[2]:#x}"
    except Closed:
        return "closed"


@case("6.4: F=0 keeps the exchange open; the target answers F=0 with a TTT")
def text_open_exchange():
    a = fresh()
    itt, p = text(a, b"MaxRecvDataSegmentLength=4096\0", flags=0)
    must(p.op == TEXT_RSP and p.bhs[1] == 0 and p.u32(20) != NOTAG, f"opcode {p.op:#x} flags {p.bhs[1]:#x} (11.11.1)")
    _, p = text(a, b"", ttt=p.u32(20), itt=itt)
    must(p.op == TEXT_RSP and p.bhs[1] == F and p.u32(20) == NOTAG, "the end")


@case("13.12, 6.4: MaxRecvDataSegmentLength renegotiated in full feature phase holds for what follows")
def text_mrdsl():
    a = fresh(MaxRecvDataSegmentLength="65536")
    a.poke(0, pattern(16384, 4))
    _, p = text(a, b"MaxRecvDataSegmentLength=1024\0")
    must(p.op == TEXT_RSP and p.bhs[1] == F, f"opcode {p.op:#x}")
    st, _, _, data, _, pdus = a.collect(a.rcmd(0, 32), 16384)
    must(data == pattern(16384, 4), "data")
    must(max(len(p.data) for p in pdus) <= 1024, f"a Data-In of {max(len(p.data) for p in pdus)} bytes")


@case("6.2, 6.4, 7.12: text requests with unknown keys, and with keys that do not belong here")
def text_keys():
    a = fresh()
    notes = []
    _, p = text(a, b"X-com.example.key=1\0")
    if p.op == TEXT_RSP:
        must(pairs(p) == ["X-com.example.key=NotUnderstood"], f"{pairs(p)}")
    else:
        must(p.op == REJECT, f"opcode {p.op:#x}")
        notes.append("unknown key rejected")
    for bad in (b"HeaderDigest=CRC32C\0", b"MaxConnections=4\0", b"SendTargets=All\0SendTargets=All\0", b"rubbish\0", b"=x\0",
                b"MaxRecvDataSegmentLength=1\0", b"SendTargets=All", b"\xff\xfe=1\0", b"AuthMethod=None\0"):
        try:
            _, p = text(a, bad)
            must(p.op == REJECT or p.op == TEXT_RSP and any(w in p.data for w in (b"Reject", b"NotUnderstood", b"Irrelevant")),
                 f"{bad}: opcode {p.op:#x} {p.data}")
            if p.op == REJECT:
                must(p.bhs[2] in (4, 9), f"{bad}: reason {p.bhs[2]:#x}")
            a.alive()
        except Closed:
            a = fresh()
            notes.append(f"closed on {bad}")
    st, _, _, _, _, pdus = a.collect(a.rcmd(0, 64), 64 * BS)
    must(st == 0, "still works")
    return ", ".join(notes)


@case("11.10: text that never ends is bounded")
def text_flood():
    a = fresh()
    ttt, itt = NOTAG, 0x77
    try:
        for i in range(40):
            _, p = text(a, b"K%05d=" % i + b"x" * 8000, flags=C, ttt=ttt, itt=itt)
            if p.op == REJECT:
                a.alive()
                return f"rejected after {i} parts"
            ttt = p.u32(20)
    except Closed:
        return f"closed after {i} parts"
    raise AssertionError("320 KB of text were taken")


# --- sessions

@case("4.3, 13.21: in a discovery session only text and logout are served")
def discovery_only():
    notes = []
    for name, op, flags, w20 in (("command", SCSI_CMD, F | 1, 0), ("task management", TMF, F | 2, NOTAG),
                                 ("Data-Out", DATA_OUT, F, NOTAG), ("NOP-Out", NOP_OUT, F, NOTAG)):
        a = fresh(discovery=True)
        a.raw(a.bhs(op, flags, w20=w20))
        try:
            p = a.poll(2)
            must(p is None or p.op == REJECT or op == NOP_OUT and p.op == NOP_IN or p.op == TMF_RSP and p.bhs[2],
                 f"{name}: opcode {p.op if p else 0:#x}")
            notes.append(f"{name}: {hex(p.op) if p else 'ignored'}")
        except Closed:
            notes.append(f"{name}: closed")
        a.close()
    fresh().alive()
    return ", ".join(notes)


@case("6.3.5: session reinstatement closes the old session and ends its tasks")
def session_reinstatement():
    fresh().poke(0, b"\x11" * 4096)
    isid = 0x800000abcd01
    a = fresh(isid=isid, MaxBurstLength="4096", FirstBurstLength="512", **YES_NO)
    itt = a.wcmd(0, 8)
    ttt = a.want(R2T, itt).u32(20)
    b = fresh(isid=isid)
    try:
        a.out(itt, ttt, 0, b"\x22" * 4096, 0, True)
    except OSError:
        pass
    must(a.gone(), "the old connection stays open")
    must(not [p for p in a.last if p.op == SCSI_RSP], "the old task was answered")
    b.alive()
    must(b.tsih != a.tsih or True, "")
    must(b.peek(0, 8) == b"\x11" * 4096, "the old session's write was carried out")
    c = fresh(isid=isid + 1)  # another ISID is another session
    b.alive()
    c.alive()
    return f"TSIH {a.tsih:#x} then {b.tsih:#x}"


@case("6.3.1: a TSIH that does not exist: 020a; a second connection where one is allowed: refused")
def join_session():
    a = fresh(isid=0x800000abcd05)
    def join(tsih, cid, isid=a.isid):
        s = Session(srv.host, srv.port, srv.target, login=False, timeout=5, isid=int.from_bytes(isid, "big"))
        t = f"InitiatorName={s.initiator}\0TargetName={srv.target}\0SessionType=Normal\0".encode()
        s.send(LOGIN, 0x87, lun=isid + struct.pack(">H", tsih), itt=1, words=struct.pack(">HHII", cid, 0, a.cmdsn, 0), data=t,
               immediate=True)
        p = s.recv()
        return struct.unpack(">H", p.bhs[36:38])[0], s
    st, s = join(a.tsih ^ 0x5555 or 1, 1)
    must(st == 0x020a, f"unknown TSIH: status {st:#06x}")
    must(s.s.recv(1) == b"", "connection stays open after a refused login")
    st, s = join(a.tsih, 5)
    must(st in (0x0206, 0x0208, 0x0200, 0x020a), f"second connection: status {st:#06x}")
    a.alive()
    st, s = join(a.tsih, 5, isid=b"\x80\0\0\0\0\1")
    must(st >> 8 == 2, f"TSIH of another ISID: status {st:#06x}")
    a.alive()
    st, s = join(a.tsih, 0)  # connection reinstatement, 6.3.4
    if st == 0:
        must(a.gone(), "the old connection stays open after reinstatement")
    return f"same CID: {st:#06x}"


@case("6.3: two sessions do not disturb each other; one of them goes away in the middle of everything")
def many_sessions():
    many = [fresh() for _ in range(20)]
    for i, a in enumerate(many):
        a.poke(i * 8, pattern(4096, i))
    for a in many[::2]:
        a.rcmd(0, 160)
        a.s.close()
    for i, a in enumerate(many):
        if i % 2:
            must(a.peek(i * 8 - 8, 8) == pattern(4096, i - 1), "data")
            a.alive()
