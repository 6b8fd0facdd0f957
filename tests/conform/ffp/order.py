# SPDX-License-Identifier: BSD-3-Clause
"""Before and during login, and CmdSN order (6.3, 4.2.2.1)."""
import struct

from ffp.peer import *  # noqa: the cases are written in its words


# --- before login

@case("6.3: any PDU before the first Login Request ends the connection")
def other_pdu_before_login():
    for op in (NOP_OUT, SCSI_CMD, TMF, TEXT, DATA_OUT, LOGOUT, SNACK, 0x1c, 0x20, 0x3f):
        a = Session(srv.host, srv.port, srv.target, login=False, timeout=5)
        a.s.sendall(bytes([op | 0x40, 0x80]) + bytes(14) + struct.pack(">II", 1, NOTAG) + bytes(24))
        try:
            p = a.recv()
            raise AssertionError(f"opcode {op:#x} is answered with {p.op:#x}")
        except (Closed, ConnectionError):
            pass
        a.close()


@case("6.3: a PDU other than Login during login is answered with 020b")
def other_pdu_during_login():
    a = Session(srv.host, srv.port, srv.target, login=False, timeout=5)
    a.login_pdu({"InitiatorName": a.initiator, "SessionType": "Normal", "TargetName": srv.target}, 0, 0, transit=False)
    a.send(NOP_OUT, 0x80, words=struct.pack(">III", NOTAG, 1, 1), immediate=True)
    p = a.recv()
    must(p.op == 0x23 and p.bhs[36:38] == b"\x02\x0b", f"opcode {p.op:#x} status {p.bhs[36:38].hex()}")


@case("11.1: a login in single bytes")
def login_byte_by_byte():
    a = Session(srv.host, srv.port, srv.target, login=False, timeout=10)
    whole = []
    real = a.s
    class Sink:
        def sendall(self, b):
            whole.append(b)
    a.s = Sink()
    text = f"InitiatorName={a.initiator}\0TargetName={srv.target}\0SessionType=Normal\0".encode()
    a.send(LOGIN, 0x87, lun=a.isid + b"\0\0", itt=5, words=struct.pack(">HHII", 0, 0, 1, 0), data=text, immediate=True)
    a.s = real
    for b in b"".join(whole):
        a.s.sendall(bytes([b]))
    p = a.recv()
    must(p.op == 0x23 and p.bhs[36:38] == b"\0\0" and p.bhs[1] == 0x87 and p.itt == 5, "login failed")
    a.close()


# --- command numbering

@case("4.2.2.1: commands outside ExpCmdSN..MaxCmdSN are silently ignored")
def cmdsn_outside_window():
    a = fresh()
    exp, top = a.window
    for n in (top + 1, top + 100, exp - 1, exp - 1000, exp + 0x7fffffff):
        a.cmd(bytes(6), cmdsn=n)
    a.quiet()
    must(a.alive().u32(28) == exp, "ExpCmdSN moved")
    must(a.tur()[0] == 0, "a right command afterwards")


@case("4.2.2.1: delivery in CmdSN order; a gap holds what follows")
def cmdsn_out_of_order():
    a = fresh()
    n = a.cmdsn
    second = a.cmd(bytes(6), cmdsn=n + 1)
    third = a.cmd(bytes(6), cmdsn=n + 2)
    a.quiet()
    a.cmdsn = n
    first = a.cmd(bytes(6))
    a.cmdsn = n + 3
    got = [a.want(SCSI_RSP).itt for _ in range(3)]
    must(got == [first, second, third], f"order {got}")
    must(a.alive().u32(28) == n + 3, "ExpCmdSN")


@case("4.2.2.1: duplicates within the window are silently ignored")
def cmdsn_duplicate():
    a = fresh()
    n = a.cmdsn
    one = a.cmd(bytes(6), cmdsn=n + 1)
    a.cmd(bytes(6), cmdsn=n + 1)
    a.cmd(bytes(6), cmdsn=n + 1)
    zero = a.cmd(bytes(6))
    a.cmdsn = n + 2
    must([a.want(SCSI_RSP).itt, a.want(SCSI_RSP).itt] == [zero, one], "tags")
    a.quiet()
    a.alive()


@case("4.2.2.1: a gap of non-SCSI requests: NOP-Out and Text wait for their turn")
def cmdsn_order_of_other_requests():
    a = fresh()
    n = a.cmdsn
    h = a.bhs(NOP_OUT, w20=NOTAG, cmdsn=n + 1)
    a.raw(h, b"later")
    a.raw(a.bhs(TEXT, w20=NOTAG, cmdsn=n + 2), b"SendTargets=\0")
    a.quiet()
    first = a.cmd(bytes(6))
    a.cmdsn = n + 3
    got = {p.op: p for p in (a.next(), a.next(), a.next())}  # delivery is in order; responses may overtake each other
    must(set(got) == {SCSI_RSP, NOP_IN, TEXT_RSP}, f"opcodes {[hex(x) for x in got]}")
    must(got[SCSI_RSP].itt == first and got[NOP_IN].data == b"later", "tag or ping data")
    a.alive()


@case("4.2.2.1: CmdSN wraps at 2**32 (RFC 1982)")
def cmdsn_wraps():
    a = fresh(cmdsn=0xfffffffa)
    for _ in range(16):
        must(a.tur()[0] == 0, "status")
    must(a.window[0] == a.cmdsn and a.cmdsn < 0x100, f"ExpCmdSN {a.window[0]:#x}")
    n = a.cmdsn
    a.close()
    a = fresh(cmdsn=0xfffffff0)
    while a.cmdsn != 0xffffffff:
        a.tur()
    one = a.cmd(bytes(6), cmdsn=0)
    zero = a.cmd(bytes(6), cmdsn=0xffffffff)
    a.cmdsn = 1
    must([a.want(SCSI_RSP).itt, a.want(SCSI_RSP).itt] == [zero, one], "order over the wrap")


@case("4.2.2.1: immediate commands do not advance ExpCmdSN")
def immediate_commands():
    a = fresh()
    exp = a.alive().u32(28)
    for _ in range(5):
        must(a.tur(immediate=True)[0] == 0, "status")
        must(a.window[0] == exp, "ExpCmdSN moved")
    must(a.collect(a.rcmd(0, 1, immediate=True), BS)[0] == 0, "immediate read")
    must(a.window[0] == exp, "ExpCmdSN moved")
    a.raw(a.bhs(NOP_OUT, w20=NOTAG), b"")
    must(a.want(NOP_IN).u32(28) == exp + 1, "a NOP-Out that is not immediate advances ExpCmdSN")


@case("4.2.2.1: the whole window may be used, stays consistent when closed, and opens again")
def window_full():
    a = fresh(**YES_NO)
    exp, top = a.window
    n = top - exp + 1
    must(n >= 1, "no window")
    data = {a.wcmd(i, 1): pattern(BS, i) for i in range(n)}
    # immediate requests still work on a closed window: one task management, one other
    pend, replied, pinged = dict(data), 0, False
    a.raw(a.bhs(NOP_OUT, w20=NOTAG, immediate=True), b"ping")
    a.cmd(bytes(6), cmdsn=top + 1)  # must be ignored
    while pend or not pinged:
        p = a.next()
        if p.op == NOP_IN:
            pinged = True
        elif p.op == R2T:
            a.serve(p, data[p.itt])
        else:
            must(p.op == SCSI_RSP and p.bhs[3] == 0, f"opcode {p.op:#x}")
            del pend[p.itt]
    a.quiet(0.1)
    a.alive()
    exp2, top2 = a.window
    must(top2 - exp2 + 1 >= n, f"window shrank from {n} to {top2 - exp2 + 1}")
    for i, itt in enumerate(data):
        if i % 37 == 0:
            must(a.peek(i, 1) == data[itt], "data")
    return f"window of {n}"


@case("4.2.2.1: many immediate requests at once: each is answered or rejected with 06")
def immediate_flood():
    a = fresh()
    tags = {}
    for i in range(300):
        h = a.bhs(NOP_OUT, w20=NOTAG, immediate=True)
        a.raw(h, b"%04d" % i)
        tags[be32(h, 16)] = b"%04d" % i
    rejected = 0
    while tags:
        p = a.next()
        if p.op == REJECT:
            must(p.bhs[2] == 6, f"Reject {p.bhs[2]:#x}")
            del tags[be32(p.data, 16)]
            rejected += 1
        else:
            must(p.op == NOP_IN and tags.pop(p.itt) == p.data, "echo")
    a.alive()
    return f"{rejected} rejected"
