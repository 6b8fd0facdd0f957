# SPDX-License-Identifier: BSD-3-Clause
"""Unsolicited and solicited data, R2T, Data-In, residuals (4.2.5.2, 11.4.5, 11.7, 11.8)."""
import random, struct, time

from ffp.peer import *  # noqa: the cases are written in its words


# --- unsolicited data

@case("13.10, 13.11: immediate data where ImmediateData=No")
def immediate_data_forbidden():
    notes = []
    for keys in (YES_NO, NO_NO):
        a = fresh(**keys)
        a.poke(0, b"\x11" * BS)
        a.wcmd(0, 1, data=b"\x22" * BS)
        notes.append(refusal(a, "immediate data"))
        must(fresh().peek(0, 1) == b"\x11" * BS, "forbidden data was written")
    return ", ".join(notes)


@case("13.10: unsolicited Data-Out where InitialR2T=Yes")
def unsolicited_forbidden():
    notes = []
    for keys in (YES_NO, YES_YES):
        a = fresh(**keys)
        a.poke(0, b"\x11" * BS)
        itt = a.wcmd(0, 1, final=False)
        try:
            a.out(itt, NOTAG, 0, b"\x22" * BS, 0, True)
        except OSError:
            pass
        notes.append(refusal(a, "unsolicited data"))
        must(fresh().peek(0, 1) == b"\x11" * BS, "forbidden data was written")
    return ", ".join(notes)


@case("4.2.5.2, 13.10, 13.11: unsolicited data in every allowed form")
def unsolicited_allowed():
    for keys, imm in ((NO_NO, 0), (NO_YES, 0), (NO_YES, 512), (NO_YES, 1536), (NO_YES, 4096)):
        a = fresh(FirstBurstLength="4096", MaxBurstLength="8192", **keys)
        must(a.first_burst == 4096, "FirstBurstLength")
        for blocks in (8, 8 + 16, 64):  # all within the first burst; and more by R2T
            data = pattern(blocks * BS, blocks + imm)
            more = imm < 4096
            itt = a.wcmd(100, blocks, data=data[:imm], final=not more)
            at, sn = imm, 0
            while at < 4096:
                m = min(700 if sn % 2 else 512, 4096 - at)
                a.out(itt, NOTAG, at, data[at:at + m], sn, at + m == 4096)
                at, sn = at + m, sn + 1
            while True:
                p = a.next()
                if p.op != R2T:
                    break
                must(p.u32(40) >= 4096, "R2T asks for what came unsolicited")
                a.serve(p, data)
            must(p.op == SCSI_RSP and p.bhs[3] == 0, f"opcode {p.op:#x} {sense(p)}")
            must(p.bhs[1] & 6 == 0, "residual flags")
            must(a.peek(100, blocks) == data, "data")
        a.logout()


@case("4.2.5.2: an initiator may send only a part as immediate data; the rest is solicited")
def immediate_part():
    a = fresh(FirstBurstLength="8192", **YES_YES)
    for imm in (0, 512, 1000, 4096, 8192):
        data = pattern(16384, imm)
        itt = a.wcmd(7, 32, data=data[:imm])
        p = a.next()
        while p.op == R2T:
            must(p.u32(40) >= imm, "R2T asks for immediate data again")
            a.serve(p, data)
            p = a.next()
        must(p.op == SCSI_RSP and p.itt == itt and p.bhs[3] == 0, f"{p.op:#x}")
        must(a.peek(7, 32) == data, f"data with {imm} immediate")


@case("11.4.7.2: unsolicited data that ends before FirstBurstLength is an incorrect amount (0B/0C/0D)")
def unsolicited_short():
    a = fresh(FirstBurstLength="4096", **NO_YES)
    fresh().poke(0, b"\x11" * 8192)
    itt = a.wcmd(0, 16, final=False)
    a.out(itt, NOTAG, 0, b"\x22" * 512, 0, True)
    note = refusal(a, "short unsolicited burst", senses=((0x0b, 0x0c, 0x0d), (0x0b, 0x0c, 0x0c)))
    must(fresh().peek(0, 16) == b"\x11" * 8192, "part of a failed write was written")
    return note


@case("4.2.5.2: more unsolicited data than FirstBurstLength")
def first_burst_overflow():
    notes = []
    fresh().poke(0, b"\x11" * 16384)
    a = fresh(FirstBurstLength="4096", **NO_YES)
    itt = a.wcmd(0, 32, final=False)
    try:
        for i in range(12):
            a.out(itt, NOTAG, i * 512, b"\x22" * 512, i, i == 11)
    except OSError:
        pass
    notes.append(refusal(a, "12 x 512 of 4096"))
    a = fresh(FirstBurstLength="4096", **NO_YES)
    try:
        a.wcmd(0, 32, data=b"\x22" * 8192)
    except OSError:
        pass
    notes.append(refusal(a, "immediate data beyond FirstBurstLength"))
    a = fresh(FirstBurstLength="4096", **NO_YES)
    itt = a.wcmd(0, 32, data=b"\x22" * 4096, final=False)
    try:
        a.out(itt, NOTAG, 4096, b"\x22" * 512, 0, True)
    except OSError:
        pass
    notes.append(refusal(a, "immediate and unsolicited together too much"))
    must(fresh().peek(0, 32) == b"\x11" * 16384, "data of a failed write was written")
    return ", ".join(notes)


@case("11.7.6: unsolicited data beyond the expected length")
def unsolicited_beyond_edtl():
    fresh().poke(0, b"\x11" * 2048)
    a = fresh(FirstBurstLength="65536", **NO_YES)
    itt = a.wcmd(0, 1, final=False)
    try:
        a.out(itt, NOTAG, 0, b"\x22" * 2048, 0, True)
    except OSError:
        pass
    note = refusal(a, "Data-Out beyond EDTL")
    must(fresh().peek(0, 4) == b"\x11" * 2048, "data beyond the command was written")
    a = fresh(FirstBurstLength="65536", **NO_YES)
    try:
        a.wcmd(0, 1, data=b"\x22" * 2048)
    except OSError:
        pass
    return note + ", immediate: " + refusal(a, "immediate data beyond EDTL")


@case("11.7: Data-Out for a task that does not exist")
def data_out_unknown_task():
    a = fresh()
    a.out(0x7777, 0x1234, 0, b"x" * 512, 0, True)
    a.out(0x7778, NOTAG, 0, b"x" * 512, 0, True)
    got = []
    try:
        while True:
            p = a.poll(QUIET_S)
            if p is None:
                break
            must(p.op == REJECT and p.bhs[2] in (4, 9), f"opcode {p.op:#x}")
            got.append(f"reject {p.bhs[2]:#x}")
        a.alive()
    except Closed:
        got.append("closed")
    return ", ".join(got) or "ignored"


# --- R2T and Data-Out

def solicited(a, lba, data, max_r2t, max_burst, step=None):
    """One solicited write with all R2Ts left unanswered until no more come. Returns how many came at first."""
    blocks = len(data) // BS
    itt = a.wcmd(lba, blocks)
    queue, sn, off, tags, most = [], 0, 0, set(), 0
    first = None
    while True:
        p = a.poll(0.05 if queue else 15)
        if p is None:
            must(queue, "no R2T and no response")
            first = first or len(queue)
            r = queue.pop(0)
            tags.discard(r.u32(20))
            a.serve(r, data, step)
            continue
        must(p.itt == itt, "tag")
        if p.op == SCSI_RSP:
            must(p.bhs[3] == 0, f"status {p.bhs[3]:#x} {sense(p)}")
            must(not queue and off == len(data), f"response before all data was asked for ({off} of {len(data)})")
            return first or 0
        must(p.op == R2T, f"opcode {p.op:#x}")
        must(p.bhs[1] == F and p.bhs[4:8] == bytes(4), "R2T flags and lengths (11.8)")
        must(p.u32(20) != NOTAG and p.u32(20) not in tags, "TTT reserved or in use (11.8.5)")
        must(p.u32(36) == sn, f"R2TSN {p.u32(36)}, expected {sn} (11.8.2)")
        must(p.u32(40) == off, f"offset {p.u32(40)}, expected {off}: continuous (11.8)")
        must(0 < p.u32(44) <= max_burst, f"length {p.u32(44)} (11.8.4)")
        tags.add(p.u32(20))
        queue.append(p)
        most = max(most, len(queue))
        must(len(queue) <= max_r2t, f"{len(queue)} R2Ts outstanding, {max_r2t} negotiated (13.17)")
        sn, off = sn + 1, off + p.u32(44)
        must(off <= len(data), "R2T beyond the command")


@case("11.8, 13.13, 13.17: R2T numbering, lengths and limits")
def r2t_limits():
    notes = []
    for max_r2t in (1, 2, 8, 31, 32):
        for max_burst in (512, 1536, 4096, 65536):
            a = fresh(MaxOutstandingR2T=str(max_r2t), MaxBurstLength=str(max_burst), FirstBurstLength="512", **YES_NO)
            n = int(a.params["MaxOutstandingR2T"])
            must(n <= max_r2t, "answer above the offer")
            size = min(max_burst * (max_r2t + 3), 1 << 19) // BS * BS + (BS if max_burst != 512 else 0)
            data = pattern(size, max_r2t * 7 + max_burst)
            first = solicited(a, 16, data, n, max_burst)
            must(a.peek(16, len(data) // BS) == data, "data")
            if max_burst == 4096:
                notes.append(f"{first}/{n}")
            a.logout()
    return "outstanding at once " + " ".join(notes)


@case("11.8: R2T answered with Data-Out PDUs of any size, empty ones among them (11.7.7)")
def data_out_sizes():
    a = fresh(MaxBurstLength="65536", FirstBurstLength="512", MaxOutstandingR2T="4", **YES_NO)
    for step in (512, 1000, 4, 4093, 65536):
        data = pattern(8192 if step < 100 else 131072, step)
        solicited(a, 0, data, 4, 65536, step)
        must(a.peek(0, len(data) // BS) == data, f"data in steps of {step}")
    data = pattern(4096, 99)
    itt = a.wcmd(0, 8)
    r = a.want(R2T, itt)
    ttt = r.u32(20)
    a.out(itt, ttt, 0, b"", 0, False)
    a.out(itt, ttt, 0, data[:1], 1, False)
    a.out(itt, ttt, 1, b"", 2, False)
    a.out(itt, ttt, 1, data[1:], 3, False)
    a.out(itt, ttt, 4096, b"", 4, True)
    must(a.want(SCSI_RSP, itt).bhs[3] == 0, "status")
    must(a.peek(0, 8) == data, "data with empty PDUs")


@case("11.8: two commands with R2Ts, answered in turns")
def r2t_interleaved():
    a = fresh(MaxBurstLength="2048", FirstBurstLength="512", MaxOutstandingR2T="2", **YES_NO)
    data = {}
    for i in range(4):
        d = pattern(16384, 1000 + i)
        data[a.wcmd(i * 32, 32)] = d
    pending, rs = set(data), []
    rng = random.Random(5)
    while pending:
        p = a.poll(0.05 if rs else 15)
        if p is None:
            mine = rng.choice(rs)
            mine = next(r for r in rs if r.itt == mine.itt)  # in order within a task
            rs.remove(mine)
            a.serve(mine, data[mine.itt], 700)
        elif p.op == R2T:
            rs.append(p)
        else:
            must(p.op == SCSI_RSP and p.bhs[3] == 0, f"{p.op:#x} {sense(p)}")
            pending.discard(p.itt)
    for i, d in enumerate(data.values()):
        must(a.peek(i * 32, 32) == d, "data")


def bad_data_out(name, send, keys=None, **kw):
    """One offence in answer to an R2T of 4096 bytes at LBA 0; then the medium must be as before."""
    fresh().poke(0, b"\x11" * 8192)
    a = fresh(MaxBurstLength="4096", FirstBurstLength="512", **(keys or YES_NO))
    itt = a.wcmd(0, 16)
    r = a.want(R2T, itt)
    try:
        send(a, itt, r.u32(20))
    except OSError:
        pass
    note = refusal(a, name, **kw)
    if note.startswith("reject"):
        # still expects its data: give up the task
        a.raw(a.bhs(TMF, F | 1, w20=itt, immediate=True, rest=struct.pack(">I", a.cmdsn - 1)))
        end = time.monotonic() + 5
        while time.monotonic() < end:
            p = a.next()
            if p.op == TMF_RSP:
                break
    if note != "closed":
        a.alive()
    must(fresh().peek(0, 16) == b"\x11" * 8192, "data of a failed write was written")
    return f"{name}: {note}"


@case("11.7.5, 7.9: Data-Out out of DataSN order")
def data_out_wrong_datasn():
    def send(a, itt, ttt):
        a.out(itt, ttt, 0, b"\x22" * 2048, 27, False)
        a.out(itt, ttt, 2048, b"\x22" * 2048, 28, True)
    def skip(a, itt, ttt):
        a.out(itt, ttt, 0, b"\x22" * 2048, 0, False)
        a.out(itt, ttt, 2048, b"\x22" * 2048, 2, True)
    return bad_data_out("first DataSN 27", send) + "; " + bad_data_out("a DataSN left out", skip)


@case("11.7.6: Data-Out with wrong offsets")
def data_out_wrong_offset():
    def ahead(a, itt, ttt):
        a.out(itt, ttt, 512, b"\x22" * 3584, 0, True)
    def back(a, itt, ttt):
        a.out(itt, ttt, 0, b"\x22" * 2048, 0, False)
        a.out(itt, ttt, 1024, b"\x22" * 2048, 1, True)
    def far(a, itt, ttt):
        a.out(itt, ttt, 0xfffffe00, b"\x22" * 4096, 0, True)
    def beyond(a, itt, ttt):
        a.out(itt, ttt, 4096, b"\x22" * 4096, 0, True)
    return "; ".join(bad_data_out(f.__name__, f) for f in (ahead, back, far, beyond))


@case("11.8, 11.4.7.2: Data-Out longer or shorter than its R2T")
def data_out_wrong_length():
    def long(a, itt, ttt):
        a.out(itt, ttt, 0, b"\x22" * 4608, 0, True)
    def short(a, itt, ttt):
        a.out(itt, ttt, 0, b"\x22" * 2048, 0, True)
    def more(a, itt, ttt):
        a.out(itt, ttt, 0, b"\x22" * 4096, 0, False)
        a.out(itt, ttt, 4096, b"\x22" * 512, 1, True)
    return "; ".join(bad_data_out(f.__name__, f) for f in (long, short, more))


@case("11.7.4: Data-Out with a TTT that was never given, or of another task")
def data_out_wrong_ttt():
    def wrong(a, itt, ttt):
        a.out(itt, ttt ^ 0x5a5a, 0, b"\x22" * 4096, 0, True)
    def none(a, itt, ttt):
        a.out(itt, NOTAG, 0, b"\x22" * 4096, 0, True)
    return "; ".join(bad_data_out(f.__name__, f) for f in (wrong, none))


@case("13.12: a data segment longer than what the target declared ends the connection, and nothing is allocated for it")
def segment_too_long():
    a = fresh(MaxBurstLength="16776192", FirstBurstLength="512", **YES_NO)
    itt = a.wcmd(0, 8192)
    r = a.want(R2T, itt)
    h = struct.pack(">BB2sI8sIIIIIIII", DATA_OUT, F, b"\0\0", a.max_xmit + 512, bytes(8), itt, r.u32(20), 0, a.expstatsn,
                    0, 0, 0, 0)
    a.s.sendall(h + bytes(1024))
    must(a.gone(), "connection stays open")
    a = fresh()
    a.s.sendall(struct.pack(">BB2sI", NOP_OUT | 0x40, F, b"\0\0", 0xffffff) + bytes(8) + struct.pack(">II", 77, NOTAG) + bytes(24))
    must(a.gone(), "connection stays open after a NOP-Out of 16 MiB")


@case("13.12: a data segment of exactly what the target declared is taken")
def segment_longest():
    a = fresh(MaxBurstLength="16776192", FirstBurstLength="16776192", **NO_YES)
    n = min(a.max_xmit, int(a.params["FirstBurstLength"]))
    data = pattern(n, 3)
    itt = a.wcmd(0, n // BS, data=data)
    must(a.want(SCSI_RSP, itt).bhs[3] == 0, "status")
    must(a.peek(0, n // BS) == data, "data")
    a.alive(pattern(min(a.max_xmit, 200000), 4))
    return f"{n} bytes immediate"


# --- residuals, Data-In

@case("11.4.5: residual counts and flags of reads")
def residual_read():
    a = fresh()
    a.poke(0, pattern(4096, 1))
    rows = [  # blocks, edtl, U, O, residual
        (1, 512, 0, 0, 0), (1, 1024, 1, 0, 512), (2, 512, 0, 1, 512), (8, 4096, 0, 0, 0), (1, 513, 1, 0, 1),
        (8, 1, 0, 1, 4095), (0, 512, 1, 0, 512), (3, 1000, 0, 1, 536)]
    for blocks, edtl, u, o, n in rows:
        st, res, fl, data, s, pdus = a.collect(a.rcmd(0, blocks, edtl=edtl), edtl)
        got = (st, bool(fl & 2), bool(fl & 4), res)
        must(got == (0, bool(u), bool(o), n), f"{blocks} blocks, EDTL {edtl}: status, U, O, residual {got}")
        k = min(blocks * BS, edtl)
        must(data[:k] == pattern(4096, 1)[:k], "data")
        must(sum(len(p.data) for p in pdus if p.op == DATA_IN) == k, "bytes sent")
    st, res, fl, *_ = a.collect(a.cmd(struct.pack(">BBIBHB", 0x28, 0, 0, 0, 1, 0), 0, F))
    must((bool(fl & 4), res) == (True, 512), f"READ without R and EDTL 0: flags {fl:#x} residual {res}")
    st, res, fl, *_ = a.collect(a.cmd(bytes(6), 512, F | R), 512)
    must((st, bool(fl & 2), res) == (0, True, 512), "TEST UNIT READY with EDTL 512")
    st, res, fl, data, *_ = a.collect(a.cmd(bytes([0x12, 0, 0, 0, 36, 0]), 255, F | R), 255)
    must((st, bool(fl & 2), res) == (0, True, 255 - 36), "INQUIRY of 36 bytes with EDTL 255 (11.4.5.3)")
    st, res, fl, data, s, _ = a.collect(a.rcmd(0xfffffff0, 1), 512)
    must(st == 2 and bool(fl & 2) and res == 512, f"failed read: status {st:#x} flags {fl:#x} residual {res}")


@case("11.4.5: residual counts and flags of writes")
def residual_write():
    a = fresh(FirstBurstLength="8192", **NO_YES)
    for blocks, edtl, u, o, n in ((1, 512, 0, 0, 0), (1, 1024, 1, 0, 512), (2, 512, 0, 1, 512), (0, 512, 1, 0, 512)):
        a.poke(0, b"\x11" * 2048)
        data = pattern(edtl, edtl + blocks)
        itt = a.wcmd(0, blocks, edtl=edtl, data=data)
        p = a.want(SCSI_RSP, itt)
        got = (bool(p.bhs[1] & 2), bool(p.bhs[1] & 4), p.u32(44))
        must(got == (bool(u), bool(o), n), f"{blocks} blocks, EDTL {edtl}: U, O, residual {got}")
        if not o:
            must(p.bhs[3] == 0, f"status {p.bhs[3]:#x} {sense(p)}")
            must(a.peek(0, 4) == data[:blocks * BS] + b"\x11" * (2048 - blocks * BS), "data")
    a.poke(0, b"\x11" * 2048)  # less than a block: not carried out in part and called GOOD
    itt = a.wcmd(0, 1, edtl=200, data=b"\x22" * 200)
    p = a.want(SCSI_RSP, itt)
    must(bool(p.bhs[1] & 4) and p.u32(44) == 312, f"200 of 512 bytes: flags {p.bhs[1]:#x} residual {p.u32(44)}")
    want = b"\x22" * 200 + b"\x11" * 312 if p.bhs[3] == 0 else b"\x11" * 512
    must(a.peek(0, 1) == want, f"200 of 512 bytes: status {p.bhs[3]:#x} {sense(p)}, data differs")
    a.alive()
    a = fresh(MaxBurstLength="512", FirstBurstLength="512", **YES_NO)  # the same, solicited
    data = pattern(2048, 8)
    itt = a.wcmd(0, 1, edtl=2048)
    p = a.next()
    while p.op == R2T:
        a.serve(p, data)
        p = a.next()
    must(p.op == SCSI_RSP and bool(p.bhs[1] & 2) and p.u32(44) == 1536, f"solicited: flags {p.bhs[1]:#x} residual {p.u32(44)}")
    a.alive()


@case("11.7, 13.12, 13.13: Data-In sequences: numbering, offsets, F bits, lengths, status in the last")
def data_in_sequences():
    size = 100 * BS
    fresh().poke(0, pattern(size, 77))
    for mrdsl, burst in ((512, 512), (512, 1536), (1024, 512), (8192, 65536), (65536, 4096), (262144, 262144), (700, 2000)):
        a = fresh(MaxRecvDataSegmentLength=str(mrdsl), MaxBurstLength=str(burst), FirstBurstLength="512")
        for blocks in (1, 3, 16, 100):
            st, res, fl, data, s, pdus = a.collect(a.rcmd(0, blocks), blocks * BS)
            must(st == 0 and data == pattern(size, 77)[:blocks * BS], "data")
            din = [p for p in pdus if p.op == DATA_IN]
            seq, off = 0, 0
            for i, p in enumerate(din):
                must(p.u32(36) == i, f"DataSN {p.u32(36)}, expected {i} (11.7.5)")
                must(p.u32(40) == off, "offset (DataPDUInOrder)")
                must(0 < len(p.data) <= mrdsl, f"{len(p.data)} bytes, {mrdsl} declared (13.12)")
                must(not p.bhs[1] & 0x40, "A bit at ErrorRecoveryLevel 0 (11.7.2)")
                must(not p.bhs[1] & 1 or i == len(din) - 1, "S before the last")
                off, seq = off + len(p.data), seq + len(p.data)
                must(seq <= burst, f"a sequence of {seq} bytes, MaxBurstLength {burst} (11.7.1)")
                if p.bhs[1] & F:
                    seq = 0
            must(din[-1].bhs[1] & F, "the last Data-In has no F")
            if pdus[-1].op == SCSI_RSP:
                must(pdus[-1].u32(36) == len(din), "ExpDataSN (11.4.8)")
        a.logout()
