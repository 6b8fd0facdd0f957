# SPDX-License-Identifier: BSD-3-Clause
"""The hostile initiator that the cases drive: raw PDUs, checked numbering, and how a refusal may look."""
import random, select, struct, time, types

import iscsi
from iscsi import (ASYNC, DATA_IN, DATA_OUT, LOGIN, LOGOUT, LOGOUT_RSP, NOP_IN, NOP_OUT, R2T, REJECT, SCSI_CMD, SCSI_RSP,
                   TEXT, TEXT_RSP, TMF, TMF_RSP, Closed, LoginRefused, Session, crc32c)

F, R, W, C = 0x80, 0x40, 0x20, 0x40
NOTAG = 0xffffffff
BS = 512
SNACK = 0x10
srv = types.SimpleNamespace(host="127.0.0.1", port=0, target="")  # the server under test
QUIET_S = 0.3
CASES = []


def case(clause):
    def add(fn):
        CASES.append((fn.__name__, clause, fn))
        return fn
    return add


def must(cond, what):
    if not cond:
        raise AssertionError(what)


def be32(b, at):
    return struct.unpack(">I", b[at:at + 4])[0]


def lt(a, b):
    return (a - b) & 0xffffffff >= 0x80000000


def pattern(n, seed):
    return random.Random(seed).randbytes(n)


class Adversary(Session):
    """Checks the numbering of every response (4.2.2, 11.4.9 to 11.4.11) and sends whatever a case asks for."""

    def __init__(self, target=None, discovery=False, cmdsn=1, isid=None, **keys):
        self.stat = None
        self.window = None
        super().__init__(srv.host, srv.port, None if discovery else target or srv.target, keys=keys, timeout=20, isid=isid, login=False)
        self.cmdsn = cmdsn
        self.login()
        self.stat = self.expstatsn
        if not discovery:
            for _ in range(8):
                if self.tur()[0] == 0:
                    break

    # --- sending
    def raw(self, bhs, data=b"", ahs=b"", hflip=0, dflip=0, pad=True):
        bhs = bytearray(bhs)
        bhs[4] = len(ahs) // 4
        bhs[5:8] = len(data).to_bytes(3, "big")
        head = bytes(bhs) + ahs
        out = head
        if self.hdigest:
            out += bytes(b ^ hflip for b in crc32c(head))
        body = data + bytes(-len(data) % 4)
        out += body
        if self.ddigest and data:
            out += bytes(b ^ dflip for b in crc32c(body))
        self.s.sendall(out)

    def bhs(self, op, flags=F, itt=None, w20=0, cmdsn=None, immediate=False, lun=0, rest=b"", b23=b"\0\0"):
        if itt is None:
            itt = self.itt
            self.itt += 1
        n = self.cmdsn if cmdsn is None else cmdsn & 0xffffffff
        if cmdsn is None and not immediate and op in (NOP_OUT, SCSI_CMD, TMF, TEXT, LOGOUT):
            self.cmdsn = (self.cmdsn + 1) & 0xffffffff
        return struct.pack(">BB2sI8sIIII", op | (0x40 if immediate else 0), flags, b23, 0,
                           struct.pack(">H", lun) + bytes(6), itt, w20 & 0xffffffff, n, self.expstatsn) + rest.ljust(16, b"\0")

    def cmd(self, cdb, edtl=0, flags=F, data=b"", attr=1, **kw):
        """Sends a SCSI command; returns its tag."""
        raw = {k: kw.pop(k) for k in ("ahs", "hflip", "dflip") if k in kw}
        h = self.bhs(SCSI_CMD, flags | attr, w20=edtl, rest=cdb, **kw)
        self.raw(h, data, **raw)
        return be32(h, 16)

    def out(self, itt, ttt, off, data, sn, final, lun=0, **raw):
        h = struct.pack(">BB2sI8sIIIIIIII", DATA_OUT, F if final else 0, b"\0\0", 0, struct.pack(">H", lun) + bytes(6), itt, ttt,
                        0, self.expstatsn, 0, sn, off, 0)
        self.raw(h, data, **raw)

    def wcmd(self, lba, blocks, edtl=None, data=b"", final=True, **kw):
        return self.cmd(struct.pack(">BBIBHB", 0x2a, 0, lba, 0, blocks, 0), blocks * BS if edtl is None else edtl,
                        W | (F if final else 0), data, **kw)

    def rcmd(self, lba, blocks, edtl=None, **kw):
        return self.cmd(struct.pack(">BBIBHB", 0x28, 0, lba, 0, blocks, 0), blocks * BS if edtl is None else edtl, F | R, **kw)

    # --- receiving
    def recv(self):
        p = super().recv()
        if self.stat is None or p.op == iscsi.LOGIN_RSP:
            return p
        numbered = p.op in (SCSI_RSP, TMF_RSP, TEXT_RSP, LOGOUT_RSP, ASYNC, REJECT) or p.op == DATA_IN and p.bhs[1] & 1 or \
            p.op == NOP_IN and p.itt != NOTAG
        carries = numbered or p.op in (R2T, NOP_IN)
        if carries:
            must(p.u32(24) == self.stat, f"StatSN {p.u32(24):#x}, expected {self.stat:#x} in opcode {p.op:#x} (11.4.9)")
        if numbered:
            self.stat = (self.stat + 1) & 0xffffffff
        exp, top = p.u32(28), p.u32(32)
        must(not lt(top, (exp - 1) & 0xffffffff), f"MaxCmdSN {top:#x} < ExpCmdSN {exp:#x} - 1 (4.2.2.1)")
        must(not lt((self.cmdsn) & 0xffffffff, exp), f"ExpCmdSN {exp:#x} is beyond what was sent ({self.cmdsn:#x})")
        if self.window:
            must(not lt(exp, self.window[0]), "ExpCmdSN went back")
        self.window = (exp, top)
        return p

    def poll(self, seconds):
        """The next PDU, or None when nothing comes in that time."""
        if not select.select([self.s], [], [], seconds)[0]:
            return None
        return self.next()

    def quiet(self, seconds=QUIET_S):
        p = self.poll(seconds)
        must(p is None, f"unexpected opcode {p.op:#x}" if p else "")

    def want(self, op, itt=None):
        p = self.next()
        must(p.op == op, f"opcode {p.op:#x} instead of {op:#x}" + (f" reason {p.bhs[2]:#x}" if p.op == REJECT else "") +
             (f" sense {sense(p)}" if p.op == SCSI_RSP else ""))
        if itt is not None:
            must(p.itt == itt, f"tag {p.itt:#x} instead of {itt:#x}")
        return p

    def gone(self, seconds=15):
        """True when the target closes the connection in that time; PDUs before that are kept in self.last."""
        self.last = []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                p = self.poll(max(0.01, end - time.monotonic()))
            except (Closed, OSError):
                return True
            if p is not None:
                self.last.append(p)
        return False

    def alive(self, data=b"still there?"):
        h = self.bhs(NOP_OUT, itt=None, w20=NOTAG, immediate=True)
        self.raw(h, data)
        p = self.want(NOP_IN, be32(h, 16))
        must(p.data == data, "ping data differs (11.18.3)")
        must(p.u32(20) == NOTAG, "TTT of a ping echo (11.19)")
        return p

    def collect(self, itt, size=0):
        """Runs a command to its end: (status, residual, flags, data, sense, [PDUs])."""
        buf, pdus = bytearray(size), []
        while True:
            p = self.next()
            if p.op == REJECT:
                raise AssertionError(f"Reject {p.bhs[2]:#x}")
            must(p.itt == itt, f"tag {p.itt:#x} of opcode {p.op:#x} instead of {itt:#x}")
            pdus.append(p)
            if p.op == DATA_IN:
                off = p.u32(40)
                must(off + len(p.data) <= size, "Data-In beyond the expected length")
                buf[off:off + len(p.data)] = p.data
                if p.bhs[1] & 1:
                    must(p.bhs[1] & F, "S without F (11.7.3)")
                    return p.bhs[3], p.u32(44), p.bhs[1], bytes(buf), (), pdus
            elif p.op == SCSI_RSP:
                must(p.bhs[2] == 0, f"response {p.bhs[2]:#x}")
                return p.bhs[3], p.u32(44), p.bhs[1], bytes(buf), sense(p), pdus
            else:
                raise AssertionError(f"opcode {p.op:#x} for a command")

    def tur(self, **kw):
        return self.collect(self.cmd(bytes(6), **kw))

    def peek(self, lba, blocks):
        st, _, _, data, s, _ = self.collect(self.rcmd(lba, blocks), blocks * BS)
        must(st == 0, f"read back: status {st:#x} {s}")
        return data

    def poke(self, lba, data):
        """A plain write by the rules of this session."""
        n = len(data)
        fb = min(self.first_burst, self.max_xmit) if self.immediate else 0
        itt = self.wcmd(lba, n // BS, data=data[:fb])
        while True:
            p = self.next()
            if p.op == R2T:
                self.serve(p, data)
                continue
            must(p.op == SCSI_RSP and p.itt == itt and p.bhs[3] == 0, f"write: opcode {p.op:#x} {sense(p)}")
            return

    def serve(self, r, data, step=None):
        off, n, ttt = r.u32(40), r.u32(44), r.u32(20)
        step = min(step or n, self.max_xmit)
        sn = 0
        for at in range(off, off + n, step):
            m = min(step, off + n - at)
            self.out(r.itt, ttt, at, data[at:at + m], sn, at + m == off + n)
            sn += 1


def sense(p):
    if len(p.data) < 10:
        return ()
    s = p.data[2:]
    return (s[1] & 15, s[2], s[3]) if s[0] & 0x7f in (0x72, 0x73) else (s[2] & 15, s[12], s[13])


def refusal(a, what, senses=((0x0b, 0x0c, 0x0c), (0x0b, 0x0c, 0x0d), (0x0b, 0x47, 0x05), (0x0b, 0x4b, None), (5, None, None)),
            reasons=(0x04, 0x09, 0x05)):
    """The offence was answered: CHECK CONDITION with one of those senses, Reject with one of those reasons, or close. What it
    was is returned. GOOD status or silence fails."""
    rejected = None
    try:
        while True:
            p = a.poll(15)
            if p is None:
                must(rejected, f"{what}: no reaction")
                return f"reject {rejected:#04x}"
            if p.op == REJECT:
                must(p.bhs[2] in reasons, f"{what}: Reject {p.bhs[2]:#x}")
                must(len(p.data) >= 48 and p.itt == NOTAG, "Reject without the header of the bad PDU (11.17.4)")
                rejected = p.bhs[2]
            elif p.op == SCSI_RSP:
                must(p.bhs[3] == 2, f"{what}: status {p.bhs[3]:#x}")
                s = sense(p)
                must(any(all(y is None or x == y for x, y in zip(s, w)) for w in senses), f"{what}: sense {s}")
                return f"check condition {s}" + (f" and reject {rejected:#04x}" if rejected else "")
            elif p.op == R2T:
                continue
            else:
                raise AssertionError(f"{what}: opcode {p.op:#x}")
    except (Closed, OSError):
        return "closed"


def fresh(**keys):
    return Adversary(**keys)


YES_NO = {"InitialR2T": "Yes", "ImmediateData": "No"}
YES_YES = {"InitialR2T": "Yes", "ImmediateData": "Yes"}
NO_NO = {"InitialR2T": "No", "ImmediateData": "No"}
NO_YES = {"InitialR2T": "No", "ImmediateData": "Yes"}


# --- one request and its answer

def tmf(a, fn, ref=NOTAG, refsn=0, lun=0, immediate=True, cmdsn=None):
    a.raw(a.bhs(TMF, F | fn, w20=ref, immediate=immediate, lun=lun, cmdsn=cmdsn, rest=struct.pack(">I", refsn & 0xffffffff)))
    while True:
        p = a.next()
        if p.op == TMF_RSP:
            must(p.bhs[4:8] == bytes(4), "lengths (11.6.2)")
            return p.bhs[2]
        if p.op == REJECT:
            return 0x1000 | p.bhs[2]
        must(p.op in (R2T, ASYNC), f"opcode {p.op:#x} before the task management response")


def logout(a, reason, cid=0, immediate=True):
    a.raw(a.bhs(LOGOUT, F | reason, w20=cid << 16, immediate=immediate))
    p = a.next()
    while p.op in (R2T, NOP_IN):
        p = a.next()
    return p


def text(a, data, flags=F, ttt=NOTAG, itt=None, immediate=False):
    h = a.bhs(TEXT, flags, w20=ttt, itt=itt, immediate=immediate)
    a.raw(h, data)
    p = a.next()
    if p.op == REJECT and not immediate:
        a.cmdsn -= 1  # 7.3: it counts as not received
    return be32(h, 16), p
