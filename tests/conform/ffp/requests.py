# SPDX-License-Identifier: BSD-3-Clause
"""NOP-Out, task management, logout, Reject (11.5, 11.14, 11.17, 11.18)."""
import struct

from ffp.peer import *  # noqa: the cases are written in its words


# --- NOP

@case("11.18, 11.19: pings of all sizes; the echo is cut to the initiator's MaxRecvDataSegmentLength")
def nop_ping():
    a = fresh(MaxRecvDataSegmentLength="1024")
    for n in (0, 1, 3, 4, 1023, 1024):
        a.alive(pattern(n, n))
    h = a.bhs(NOP_OUT, w20=NOTAG, immediate=True)
    a.raw(h, pattern(4096, 9))
    p = a.want(NOP_IN, be32(h, 16))
    must(p.data == pattern(4096, 9)[:1024], f"{len(p.data)} bytes of the ping came back")


@case("11.18.1: NOP-Out without a tag is not answered")
def nop_no_tag():
    a = fresh()
    exp = a.window[0]
    a.raw(a.bhs(NOP_OUT, itt=NOTAG, w20=NOTAG, immediate=True), b"")
    a.raw(a.bhs(NOP_OUT, itt=NOTAG, w20=NOTAG, immediate=True), b"data")
    a.quiet()
    must(a.alive().u32(28) == exp, "ExpCmdSN")
    a.raw(a.bhs(NOP_OUT, itt=NOTAG, w20=0x12345678, immediate=True))  # a TTT that was never given
    note = "ignored"
    try:
        p = a.poll(QUIET_S)
        if p is not None:
            must(p.op == REJECT, f"opcode {p.op:#x}")
            note = f"reject {p.bhs[2]:#x}"
        a.alive()
    except Closed:
        note = "closed"
    return "unknown TTT " + note


# --- task management

@case("11.5.1, 11.6.1: every function code on an idle session")
def tmf_codes():
    allowed = {0: (5, 255), 2: (0,), 3: (0, 5, 255), 4: (0,), 5: (0,), 6: (0, 5, 6), 8: (4, 5, 255, 1),
               9: (5,), 10: (5,), 11: (5,), 12: (5,)}
    got = {}
    for fn in list(range(0, 7)) + list(range(8, 20)) + [64, 127]:
        a = fresh()
        ref, refsn = (0x999, a.cmdsn - 1000) if fn in (1, 8) else (NOTAG, 0)
        r = tmf(a, fn, ref, refsn)
        want = (1,) if fn == 1 else allowed.get(fn, (5, 255, 0x1004, 0x1005, 0x1009))
        must(r in want, f"function {fn}: response {r:#x}")
        got[fn] = r
        a.alive()
        a.close()
    return " ".join(f"{k}:{v}" for k, v in got.items() if k < 13)


@case("11.6.1: functions on a LUN that does not exist")
def tmf_no_lun():
    a = fresh()
    for fn in (2, 4, 5):
        r = tmf(a, fn, lun=99)
        must(r == 2, f"function {fn}: response {r}")


@case("11.5: task management that is not immediate takes its CmdSN")
def tmf_not_immediate():
    a = fresh()
    n = a.cmdsn
    must(tmf(a, 2, immediate=False) == 0, "response")
    must(a.alive().u32(28) == n + 1, "ExpCmdSN")
    must(a.tur()[0] == 0, "next command")


@case("11.5.1, 11.6.1: ABORT TASK of a write that waits for data; late data is swallowed")
def tmf_abort_task():
    fresh().poke(0, b"\x11" * 8192)
    a = fresh(MaxBurstLength="4096", FirstBurstLength="512", **YES_NO)
    itt = a.wcmd(0, 16)
    ttt = a.want(R2T, itt).u32(20)
    a.out(itt, ttt, 0, b"\x22" * 2048, 0, False)
    must(tmf(a, 1, itt, a.cmdsn - 1) == 0, "response")
    a.out(itt, ttt, 2048, b"\x22" * 2048, 1, True)
    p = a.poll(QUIET_S)
    must(p is None or p.op == REJECT, f"opcode {p.op if p else 0:#x} after the abort")
    a.alive()
    must(a.peek(0, 16) == b"\x11" * 8192, "part of the aborted write was written")
    must(tmf(a, 1, itt, a.cmdsn - 2) in (0, 1), "abort again")
    itt2 = a.wcmd(0, 8, itt=itt)  # the tag is free again
    r = a.want(R2T, itt)
    a.serve(r, b"\x33" * 4096)
    must(a.want(SCSI_RSP, itt2).bhs[3] == 0, "status")
    must(a.peek(0, 8) == b"\x33" * 4096, "data")


@case("11.6.1 b: ABORT TASK of a command that did not arrive: its CmdSN counts as received")
def tmf_abort_missing():
    a = fresh()
    n = a.cmdsn
    a.cmdsn = n + 1  # n is lost
    held = a.cmd(bytes(6))
    a.quiet(0.1)
    a.raw(a.bhs(TMF, F | 1, w20=0x4444, immediate=True, rest=struct.pack(">I", n)))
    got = {}
    for _ in range(2):
        p = a.next()
        got[p.op] = p
    must(set(got) == {TMF_RSP, SCSI_RSP}, f"opcodes {[hex(x) for x in got]}")
    must(got[TMF_RSP].bhs[2] == 0, f"response {got[TMF_RSP].bhs[2]}")
    must(got[SCSI_RSP].itt == held, "the command behind the gap")
    a.cmd(bytes(6), cmdsn=n)  # comes after all: outside the window now
    a.quiet()
    must(a.alive().u32(28) == n + 2, "ExpCmdSN")


@case("11.5.1: ABORT TASK of a command that waits for its turn in CmdSN order; its tag is free, its place is kept")
def tmf_abort_held():
    fresh().poke(0, b"\x11" * 4096)
    a = fresh(FirstBurstLength="4096", **NO_YES)
    n = a.cmdsn
    itt = a.wcmd(0, 8, data=b"\x22" * 512, final=False, cmdsn=n + 1)
    a.out(itt, NOTAG, 512, b"\x22" * 512, 0, False)
    a.cmdsn = n + 2
    must(tmf(a, 1, itt, n + 1) == 0, "response")
    a.out(itt, NOTAG, 1024, b"\x22" * 3072, 1, True)  # was on its way
    a.quiet(0.1)
    again = a.wcmd(0, 1, data=b"\x33" * BS, itt=itt)
    first = a.cmd(bytes(6), cmdsn=n)
    got = [a.want(SCSI_RSP), a.want(SCSI_RSP)]
    must({p.itt for p in got} == {first, again} and not any(p.bhs[3] for p in got), f"{[hex(p.itt) for p in got]}")
    a.quiet(0.1)
    must(a.alive().u32(28) == n + 3, "ExpCmdSN")
    must(a.peek(0, 8) == b"\x33" * BS + b"\x11" * 3584, "the aborted write was written")


@case("11.5.1: ABORT TASK of a task management request is rejected")
def tmf_abort_itself():
    a = fresh()
    itt = a.itt
    r = tmf(a, 1, itt, a.cmdsn)
    must(r in (255, 1, 5), f"response {r}")
    a.alive()


@case("4.2.3.3, 11.5.1: ABORT TASK SET and CLEAR TASK SET with data outstanding")
def tmf_abort_task_set():
    for fn in (2, 4):
        fresh().poke(0, b"\x11" * 8192)
        a = fresh(MaxBurstLength="4096", FirstBurstLength="512", **YES_NO)
        tasks = {}
        for i in range(3):
            itt = a.wcmd(i * 4, 4)
            tasks[itt] = a.want(R2T, itt).u32(20)
        a.raw(a.bhs(TMF, F | fn, w20=NOTAG, immediate=True))
        a.quiet(0.2) if False else None
        for itt, ttt in tasks.items():  # 11.5.1: the initiator goes on to answer R2Ts
            a.out(itt, ttt, 0, b"\x22" * 2048, 0, True)
        p = a.next()
        while p.op == REJECT:
            p = a.next()
        must(p.op == TMF_RSP and p.bhs[2] == 0, f"function {fn}: opcode {p.op:#x} response {p.bhs[2]}")
        a.quiet()
        st, *_ = a.tur()
        must(fresh().peek(0, 16) == b"\x11" * 8192, f"function {fn}: an aborted write was written")


@case("11.5.1: LOGICAL UNIT RESET ends all tasks of the LUN, of every session, and raises a unit attention")
def tmf_lu_reset():
    fresh().poke(0, b"\x11" * 8192)
    a = fresh(MaxBurstLength="4096", FirstBurstLength="512", **YES_NO)
    b = fresh(MaxBurstLength="4096", FirstBurstLength="512", **YES_NO)
    mine = a.wcmd(0, 8)
    t1 = a.want(R2T, mine).u32(20)
    other = b.wcmd(8, 8)
    t2 = b.want(R2T, other).u32(20)
    must(tmf(a, 5) == 0, "response")
    a.out(mine, t1, 0, b"\x22" * 4096, 0, True)
    b.out(other, t2, 0, b"\x22" * 4096, 0, True)
    p = a.poll(QUIET_S)
    must(p is None or p.op == REJECT, "a response to an aborted task after the task management response")
    p = b.poll(1)
    if p is not None and p.op == SCSI_RSP:
        must(p.bhs[3] in (2, 0x40), f"other session's write: status {p.bhs[3]:#x}")
    uas = []
    for s in (a, b):
        st, _, _, _, sn, _ = s.tur()
        uas.append(sn)
        must(st == 2 and sn and sn[0] == 6 and sn[1] in (0x29, 0x2f, 0x47), f"no unit attention after reset: {st} {sn}")
    must(fresh().peek(0, 16) == b"\x11" * 8192, "a write that the reset ended was written")
    return str(uas)


# --- logout

@case("11.14, 11.15: close session and close connection, immediate and not; then the connection closes")
def logout_right():
    for reason in (0, 1):
        for immediate in (True, False):
            a = fresh()
            p = logout(a, reason, 0, immediate)
            must(p.op == LOGOUT_RSP and p.bhs[2] == 0 and p.bhs[4:8] == bytes(4), f"opcode {p.op:#x} response {p.bhs[2]}")
            must(a.gone(), "connection stays open")


@case("11.15.1: a CID that does not exist; recovery that is not supported; an unknown reason")
def logout_wrong():
    a = fresh()
    p = logout(a, 1, 77)
    must(p.op == LOGOUT_RSP and p.bhs[2] == 1, f"wrong CID: opcode {p.op:#x} response {p.bhs[2]}")
    a.alive()
    p = logout(a, 2, 0)
    must(p.op == LOGOUT_RSP and p.bhs[2] == 2, f"recovery: opcode {p.op:#x} response {p.bhs[2]}")
    a.alive()
    try:
        p = logout(a, 0x7f, 0)
        note = f"opcode {p.op:#x} {p.bhs[2]:#x}"
        must(p.op == REJECT or p.op == LOGOUT_RSP and p.bhs[2], "an unknown reason succeeded")
    except Closed:
        note = "closed"
    return note


@case("11.14.5: logout ends the tasks that wait; nothing follows the Logout Response, nothing is written")
def logout_with_tasks():
    fresh().poke(0, b"\x11" * 4096)
    a = fresh(MaxBurstLength="4096", FirstBurstLength="512", **YES_NO)
    itt = a.wcmd(0, 8)
    a.out(itt, a.want(R2T, itt).u32(20), 0, b"\x22" * 2048, 0, False)
    p = logout(a, 0)
    must(p.op == LOGOUT_RSP and p.bhs[2] == 0, f"opcode {p.op:#x}")
    must(a.gone() and not a.last, "PDUs after the Logout Response")
    must(fresh().peek(0, 8) == b"\x11" * 4096, "part of a write was written")


# --- Reject and odd requests

@case("11.17, 11.2.1.2: opcodes that do not exist are rejected with the copied header; framing holds")
def opcode_unknown():
    notes = set()
    for op in list(range(0x07, 0x10)) + list(range(0x11, 0x20)):
        a = fresh(HeaderDigest="CRC32C")
        h = bytearray(a.bhs(op, itt=0x5151, immediate=True, rest=bytes(range(1, 17))))
        a.raw(h, b"12345")
        h[5:8] = b"\0\0\5"
        try:
            p = a.want(REJECT)
            must(p.bhs[2] in (4, 5, 9), f"opcode {op:#x}: reason {p.bhs[2]:#x}")
            must(p.itt == NOTAG and p.data[:48] == bytes(h), "tag or header")
            notes.add(f"reject {p.bhs[2]:#x}")
            a.alive()
        except Closed:
            notes.add("closed")
        a.close()
    return ", ".join(sorted(notes))


@case("11.2.1.2: a target's opcodes from an initiator")
def opcode_of_target():
    notes = set()
    for op in (0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x31, 0x32, 0x3f, 0x2a):
        a = fresh()
        a.raw(a.bhs(op, itt=0x5151, immediate=True))
        try:
            p = a.want(REJECT)
            must(p.bhs[2] in (4, 5, 9), f"reason {p.bhs[2]:#x}")
            notes.add(f"reject {p.bhs[2]:#x}")
            a.alive()
        except Closed:
            notes.add("closed")
        a.close()
    return ", ".join(sorted(notes))


@case("6.3: a Login Request in full feature phase is no way to start again")
def login_in_full_feature():
    a = fresh()
    a.send(LOGIN, 0x87, lun=a.isid + b"\0\0", itt=9, words=struct.pack(">HHII", 0, 0, a.cmdsn, a.expstatsn),
           data=f"InitiatorName={a.initiator}\0TargetName={srv.target}\0".encode(), immediate=True)
    try:
        p = a.want(REJECT)
        must(p.bhs[2] in (4, 5, 9), f"reason {p.bhs[2]:#x}")
        a.alive()
        return f"reject {p.bhs[2]:#x}"
    except Closed:
        return "closed"


@case("11.16: SNACK at ErrorRecoveryLevel 0")
def snack():
    notes = set()
    for kind in range(4):
        a = fresh()
        a.raw(a.bhs(SNACK, F | kind, itt=1, w20=NOTAG, immediate=False, cmdsn=0, rest=struct.pack(">III", 0, 0, 0)))
        try:
            p = a.want(REJECT)
            must(p.bhs[2] in (3, 4, 5, 9), f"reason {p.bhs[2]:#x}")
            notes.add(f"reject {p.bhs[2]:#x}")
            a.alive()
        except Closed:
            notes.add("closed")
    return ", ".join(sorted(notes))


@case("11.2.1.8: the reserved tag, and a tag in use, as Initiator Task Tag of a command")
def itt_reserved_or_in_use():
    a = fresh()
    note = []
    a.cmd(bytes(6), itt=NOTAG)
    try:
        p = a.poll(5)
        must(p is not None, "no reaction")
        must(p.op == REJECT or p.op == SCSI_RSP and p.bhs[3], f"opcode {p.op:#x}")
        note.append(f"reserved: {p.op:#x}")
    except Closed:
        note.append("reserved: closed")
    fresh().poke(0, b"\x11" * BS)
    a = fresh(**YES_NO)
    itt = a.wcmd(0, 1)
    r = a.want(R2T, itt)
    a.cmd(bytes(6), itt=itt, immediate=True)
    try:
        p = a.poll(5)
        must(p is not None and p.op == REJECT and p.bhs[2] in (4, 7, 9), f"tag in use: {p and hex(p.op)}")
        note.append(f"in use: reject {p.bhs[2]:#x}")
        a.serve(r, b"\x22" * BS)
        must(a.want(SCSI_RSP, itt).bhs[3] == 0, "the first task")
        must(a.peek(0, 1) == b"\x22" * BS, "data")
    except Closed:
        note.append("in use: closed")
    return ", ".join(note)


@case("11.3.1: flags that contradict each other, and lengths that cannot be")
def command_flags():
    notes = []
    rows = [  # flags, EDTL, CDB
        ("R and W", F | R | W, 512, bytes([0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0])),
        ("neither W nor F", 0, 0, bytes(6)),
        ("EDTL without direction", F, 512, bytes([0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0])),
        ("read command with W", F | W, 512, bytes([0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0])),
        ("write command with R", F | R, 512, bytes([0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0])),
        ("4 GiB read", F | R, 0xffffffff, bytes([0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0])),
        ("4 GiB write", F | W, 0xffffffff, bytes([0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0])),
        ("TUR with 4 GiB write", F | W, 0xffffffff, bytes(6)),
    ]
    for name, flags, edtl, cdb in rows:
        a = fresh()
        itt = a.cmd(cdb, edtl, flags)
        try:
            p = a.poll(15)
            must(p is not None, f"{name}: no reaction")
            if p.op == DATA_IN:
                while not (p.op == SCSI_RSP or p.op == DATA_IN and p.bhs[1] & 1):
                    p = a.next()
            must(p.op in (SCSI_RSP, REJECT, R2T, DATA_IN), f"{name}: opcode {p.op:#x}")
            must(p.op != R2T or flags & W, f"{name}: R2T for a command without the W flag")
            notes.append(f"{name}: {p.op:#x}" + (f"/{p.bhs[3]:x}" if p.op == SCSI_RSP else ""))
            a.alive()
        except Closed:
            notes.append(f"{name}: closed")
        a.close()
        fresh().alive()
    return ", ".join(notes)


@case("11.3.1: task attributes 0 to 7")
def task_attributes():
    notes = []
    for attr in range(8):
        a = fresh()
        try:
            a.cmd(bytes(6), attr=attr)
            p = a.next()
            must(p.op in (SCSI_RSP, REJECT), f"opcode {p.op:#x}")
            must(attr > 3 or p.op == SCSI_RSP and p.bhs[3] == 0, f"attribute {attr}: {p.op:#x} {sense(p)}")
            notes.append(f"{attr}:{p.op:#x}/{p.bhs[3]:x}")
            a.alive()
        except Closed:
            must(attr > 3, "closed")
            notes.append(f"{attr}:closed")
    return " ".join(notes)


@case("SAM-5 4.7: a LUN that does not exist: 05/25/00; INQUIRY says so by its qualifier")
def lun_missing():
    a = fresh()
    st, _, _, _, s, _ = a.collect(a.cmd(bytes(6), lun=77))
    must(st == 2 and s == (5, 0x25, 0), f"{st} {s}")
    st, _, _, data, s, _ = a.collect(a.cmd(bytes([0x12, 0, 0, 0, 36, 0]), 36, F | R, lun=77), 36)
    must(st == 0 and data[0] == 0x7f, f"INQUIRY: {st} {data[0]:#x}")
    itt = a.wcmd(0, 4, data=b"\x22" * 1024, lun=77)  # with data on its way
    p = a.next()
    while p.op == R2T:
        a.serve(p, b"\x22" * 2048)
        p = a.next()
    must(p.op == SCSI_RSP and sense(p) == (5, 0x25, 0), f"write: {p.op:#x} {sense(p)}")
    a.alive()


@case("11.5.1: TARGET WARM and COLD RESET; cold closes every connection of the target")
def zz_tmf_target_reset():
    a, b = fresh(), fresh()
    r = tmf(a, 6)
    must(r in (0, 5, 6), f"warm: response {r}")
    b.alive()
    a.raw(a.bhs(TMF, F | 7, w20=NOTAG, immediate=True))
    note = "no response"
    try:
        p = a.next()
        must(p.op == TMF_RSP, f"opcode {p.op:#x}")
        note = f"response {p.bhs[2]}"
        if p.bhs[2]:
            a.alive()
            return f"warm {r}, cold {note}"
    except Closed:
        pass
    must(a.gone() and b.gone(), "a connection stays open after TARGET COLD RESET")
    fresh().alive()
    return f"warm {r}, cold {note}"
