# SPDX-License-Identifier: BSD-3-Clause
"""RFC 7144, TaskReporting, asynchronous messages and text exchanges as an initiator meets them (4.2.2.3, 4.2.3, 6.4, 11.9, 13.23)."""
import struct

from ffp.peer import *  # noqa: the cases are written in its words

LEVEL2 = {"iSCSIProtocolLevel": "2"}
FAST = {"TaskReporting": "FastAbort,ResponseFence,RFC3720"}
SMALL = dict(MaxBurstLength="4096", FirstBurstLength="512", **YES_NO)


@case("13.23, 13.24: the values of TaskReporting and iSCSIProtocolLevel that are agreed")
def feature_keys():
    rows = [("TaskReporting", "RFC3720,ResponseFence", "RFC3720"), ("TaskReporting", "ResponseFence,RFC3720", "ResponseFence"),
            ("TaskReporting", "FastAbort,ResponseFence,RFC3720", "FastAbort"), ("iSCSIProtocolLevel", "1", "1"),
            ("iSCSIProtocolLevel", "2", "2"), ("iSCSIProtocolLevel", "31", "2"), ("iSCSIProtocolLevel", "0", "0")]
    for key, offer, want in rows:
        a = fresh(**{key: offer})
        must(a.params[key] == want, f"{key}={offer}: {a.params[key]}")
        a.close()


@case("RFC 7144 4.2: the version descriptor for iSCSI is 0960h plus the protocol level")
def level_descriptor():
    for level in (None, "0", "1", "2"):
        a = fresh(**({"iSCSIProtocolLevel": level} if level else {}))
        st, _, _, data, _, _ = a.collect(a.cmd(bytes([0x12, 0, 0, 0, 96, 0]), 96, F | R), 96)
        found = [x for x in struct.unpack(">8H", data[58:74]) if x & 0xffe0 == 0x960]
        must(st == 0 and found == [0x960 + int(level or 1)], f"level {level}: {found}")


@case("RFC 7144 6.3, 6.4.2: QUERY TASK, QUERY TASK SET, QUERY ASYNCHRONOUS EVENT")
def level2_queries():
    a, b = fresh(**LEVEL2, **SMALL), fresh()
    must(tmf(a, 10) == 0 and tmf(a, 12) == 0, "nothing there")
    itt = a.wcmd(0, 8)
    r = a.want(R2T, itt)
    must(tmf(a, 9, itt, a.cmdsn - 1) == 7 and tmf(a, 10) == 7, "a write that waits")
    must(tmf(a, 9, 0x7777, a.cmdsn - 1) in (0, 1), "no such task")
    must(tmf(a, 9, itt, a.cmdsn - 1, lun=99) == 2 and tmf(a, 10, lun=99) == 2 and tmf(a, 12, lun=99) == 2, "no such LUN")
    a.serve(r, b"q" * 4096)
    must(a.want(SCSI_RSP, itt).bhs[3] == 0, "the write")
    must(tmf(a, 10) == 0, "the write is over")
    must(tmf(b, 5) == 0, "LUN reset by another")
    a.raw(a.bhs(TMF, F | 12, w20=NOTAG, immediate=True))
    p = a.want(TMF_RSP)
    must(p.bhs[2] == 7 and p.bhs[8:11] == bytes([0x16, 0x29, 0x03]), f"{p.bhs[2]} {p.bhs[8:11].hex()}")
    must(a.tur()[4] == (6, 0x29, 3), "the unit attention itself")


@case("RFC 7144 6.3: I_T NEXUS RESET ends the tasks of the nexus and its connections, and nobody else's")
def level2_nexus_reset():
    fresh().poke(0, b"\x11" * 4096)
    a, b = fresh(**LEVEL2, **SMALL), fresh()
    itt = a.wcmd(0, 8)
    ttt = a.want(R2T, itt).u32(20)
    a.raw(a.bhs(TMF, F | 11, w20=NOTAG, immediate=True))
    a.out(itt, ttt, 0, b"\x22" * 4096, 0, True)
    must(a.gone(), "the connection stays open")
    must(all(p.op == TMF_RSP and p.bhs[2] == 0 for p in a.last), f"{[hex(p.op) for p in a.last]}")
    b.alive()
    must(b.peek(0, 8) == b"\x11" * 4096, "the write was carried out")


@case("RFC 7144 5.1.1, 5.2.1: the priority field at level 1 and 2; the status qualifier is reserved at level 1")
def level_priority():
    for level in ("1", "2"):
        a = fresh(iSCSIProtocolLevel=level)
        for pri in range(16):
            itt = a.cmd(bytes(6), b23=bytes([pri << 4, 0]))
            p = a.want(SCSI_RSP, itt)
            must(p.bhs[3] == 0 and (level == "2" or p.bhs[8:10] == bytes(2)), f"priority {pri}: {p.bhs[3]:#x}")


@case("4.2.3.3 a: standard semantics wait for the data of R2Ts, and an initiator that sends none gets its answer all the same")
def abort_waits():
    fresh().poke(0, b"\x11" * 8192)
    for fn in (2, 4, 5, 6):
        a = fresh(**SMALL)
        itt = a.wcmd(0, 8)
        ttt = a.want(R2T, itt).u32(20)
        a.raw(a.bhs(TMF, F | fn, w20=NOTAG, immediate=True))
        a.alive()  # it came before the response that waits
        a.out(itt, ttt, 0, b"\x22" * 4096, 0, True)
        p = a.want(TMF_RSP)
        must(p.bhs[2] == 0, f"function {fn}: response {p.bhs[2]}")
        a.quiet(0.1)
        a.close()
    a = fresh(**SMALL)
    a.want(R2T, a.wcmd(0, 8))
    must(tmf(a, 5) == 0, "response")
    must(fresh().peek(0, 16) == b"\x11" * 8192, "an aborted write was written")


@case("4.2.3.4, 11.9.1: with FastAbort nothing waits; another session hears of its tasks' end by event 5, once")
def abort_fast():
    fresh().poke(0, b"\x11" * 8192)
    for fn in (4, 5, 6):
        a, b, c = fresh(**SMALL, **FAST), fresh(**SMALL, **FAST), fresh(**SMALL)
        mine = a.wcmd(0, 8)
        t1 = a.want(R2T, mine).u32(20)
        theirs = [b.wcmd(8, 8), b.wcmd(8, 8)]
        t2 = [b.want(R2T, i).u32(20) for i in theirs]
        old = c.wcmd(8, 8)
        t3 = c.want(R2T, old).u32(20)
        must(tmf(a, fn) == 0, "response")
        p = b.want(ASYNC)
        must(p.bhs[36] == 5 and p.bhs[8:16] == bytes(8) and p.itt == NOTAG, f"event {p.bhs[36]}")
        b.raw(b.bhs(NOP_OUT, itt=NOTAG, w20=NOTAG, immediate=True))
        b.quiet(0.1)
        c.quiet(0.1)  # it did not agree to FastAbort
        for s, i, t in ((a, mine, t1), (b, theirs[0], t2[0]), (b, theirs[1], t2[1]), (c, old, t3)):
            s.out(i, t, 0, b"\x22" * 4096, 0, True)  # was on its way
            s.alive()
        for s in (b, c):
            st, _, _, _, sn, _ = s.tur()
            must(st == 2 and sn[0] == 6 and sn[1] in (0x29, 0x2f), f"function {fn}: {st} {sn}")
        for s in (a, b, c):
            s.close()
    must(fresh().peek(0, 16) == b"\x11" * 8192, "an aborted write was written")


@case("4.2.3.3 b: a function waits for the commands before it; TARGET WARM RESET takes them as received")
def abort_after_gap():
    a = fresh(**SMALL)
    n = a.cmdsn
    a.cmdsn = n + 1
    a.raw(a.bhs(TMF, F | 2, w20=NOTAG, immediate=True))
    a.quiet()
    itt = a.cmd(bytes(6), cmdsn=n)
    got = [a.next()]
    while got[-1].op != TMF_RSP:
        got.append(a.next())
    must(got[-1].bhs[2] == 0 and all(p.itt == itt for p in got[:-1]), f"{[hex(p.op) for p in got]}")
    n = a.cmdsn
    a.cmdsn = n + 3
    must(tmf(a, 6) == 0, "warm reset")
    must(a.alive().u32(28) == n + 3, "ExpCmdSN")


@case("6.4: what an exchange of texts agrees on holds when it is over, and not at all when it is rejected")
def text_takes_effect_last():
    a = fresh(MaxRecvDataSegmentLength="65536")
    a.poke(0, pattern(8192, 3))

    def longest():
        st, _, _, data, _, pdus = a.collect(a.rcmd(0, 16), 8192)
        must(st == 0 and data == pattern(8192, 3), "data")
        return max(len(p.data) for p in pdus)

    itt, p = text(a, b"MaxRecvDataSegmentLength=1024\0", flags=0)
    must(longest() == 8192, "before the end of the exchange")
    _, q = text(a, b"", ttt=p.u32(20), itt=itt)
    must(q.bhs[1] == F and longest() == 1024, "after its end")
    itt, p = text(a, b"MaxRecvDataSegmentLength=4096\0", flags=0)
    _, q = text(a, b"MaxRecvDataSegmentLength=4096\0", ttt=p.u32(20), itt=itt)
    must(q.op == REJECT and q.bhs[2] == 4, f"a key twice: {q.op:#x}")
    must(longest() == 1024, "after a Reject")
    _, p = text(a, b"", ttt=p.u32(20), itt=itt)
    must(p.op == REJECT and p.bhs[2] == 9, f"an exchange that is over: {p.op:#x}")
    a.alive()


@case("7.3: a request that is rejected leaves its CmdSN unused; the same number is taken again")
def reject_keeps_cmdsn():
    a = fresh()
    n = a.cmdsn
    _, p = text(a, b"HeaderDigest=None\0")
    must(p.op == REJECT and p.bhs[2] == 4 and p.u32(28) == n, f"{p.op:#x} ExpCmdSN {p.u32(28)} of {n}")
    must(a.tur()[0] == 0 and a.alive().u32(28) == n + 1, "the next command")
