# SPDX-License-Identifier: BSD-3-Clause
"""Digests, additional header segments, and the byte stream (7.7, 7.8, 11.1, 11.2.2, 13.1)."""
import random, struct, time

from ffp.peer import *  # noqa: the cases are written in its words


# --- digests

@case("13.1: digests of all kinds of PDUs, padding included")
def digests_right():
    for h, d in (("CRC32C", "None"), ("None", "CRC32C"), ("CRC32C", "CRC32C")):
        a = fresh(HeaderDigest=h, DataDigest=d, FirstBurstLength="2048", MaxBurstLength="4096")
        must((a.hdigest, a.ddigest) == (h == "CRC32C", d == "CRC32C"), "digest not agreed")
        for n in range(0, 9):
            a.alive(pattern(n, n))
        for blocks in (1, 4, 5, 100):
            data = pattern(blocks * BS, blocks)
            a.poke(3, data)
            must(a.peek(3, blocks) == data, "data")
        must(a.collect(a.rcmd(0xfffffff0, 1), 512)[0] == 2, "sense data with a digest")
        a.cmd(bytes([0x12, 0, 0, 0, 33, 0]), 33, F | R)
        a.next()
        a.logout()


@case("7.8: a header digest error closes the connection (or the PDU is discarded), and the command is not carried out")
def header_digest_wrong():
    fresh().poke(0, b"\x11" * BS)
    a = fresh(HeaderDigest="CRC32C")
    a.wcmd(0, 1, data=b"\x22" * BS, hflip=1)
    must(a.gone(), "connection stays open")
    must(not [p for p in a.last if p.op == SCSI_RSP], "the command was answered")
    must(fresh().peek(0, 1) == b"\x11" * BS, "the command was carried out")


@case("7.8: a data digest error of a non-data PDU: Reject 02 and nothing else; the same CmdSN works again")
def data_digest_wrong_request():
    fresh().poke(0, b"\x11" * BS)
    a = fresh(DataDigest="CRC32C", HeaderDigest="CRC32C")
    h = a.bhs(NOP_OUT, w20=NOTAG, immediate=True)
    a.raw(h, b"ping", dflip=0x40)
    p = a.want(REJECT)
    must(p.bhs[2] == 2, f"reason {p.bhs[2]:#x}")
    sent = bytearray(h)
    sent[7] = 4
    must(p.data[:48] == bytes(sent), "header of the bad PDU (11.17.4)")
    a.alive()
    n = a.cmdsn
    itt = a.wcmd(0, 1, data=b"\x22" * BS, dflip=1)
    must(a.want(REJECT).bhs[2] == 2, "immediate data")
    p = a.poll(QUIET_S)
    if p is not None:  # ended rather than dropped: then as a CRC error
        must(p.op == SCSI_RSP and sense(p) == (0x0b, 0x47, 0x05), f"opcode {p.op:#x}")
        note = "command ended with 0B/47/05"
    else:
        must(a.alive().u32(28) == n, "a discarded command must not be acknowledged")
        itt2 = a.wcmd(0, 1, data=b"\x33" * BS, cmdsn=n, itt=itt)
        must(a.want(SCSI_RSP, itt2).bhs[3] == 0, "retry")
        a.cmdsn = n + 1
        note = "command discarded, retry taken"
    must(fresh().peek(0, 1) != b"\x22" * BS, "bad data was written")
    return note


@case("7.8: a data digest error of Data-Out: Reject 02, then 0B/47/05 after the sequence, or a recovery R2T")
def data_digest_wrong_data_out():
    notes = []
    for last in (False, True):
        fresh().poke(0, b"\x11" * 8192)
        a = fresh(DataDigest="CRC32C", FirstBurstLength="512", MaxBurstLength="8192", **YES_NO)
        itt = a.wcmd(0, 16)
        ttt = a.want(R2T, itt).u32(20)
        a.out(itt, ttt, 0, b"\x22" * 4096, 0, False, dflip=0 if last else 1)
        if not last:
            must(a.want(REJECT).bhs[2] == 2, "reason")
            a.quiet(0.1)
        a.out(itt, ttt, 4096, b"\x22" * 4096, 1, True, dflip=1 if last else 0)
        if last:
            must(a.want(REJECT).bhs[2] == 2, "reason")
        p = a.next()
        must(p.op == SCSI_RSP and p.itt == itt and sense(p) == (0x0b, 0x47, 0x05), f"opcode {p.op:#x} {sense(p)}")
        notes.append(str(sense(p)))
        a.alive()
        must(fresh().peek(0, 16) == b"\x11" * 8192, "a write with a bad part was written")
    return notes[0]


# --- AHS

def ahs_cdb(more):
    body = b"\0" + more
    return struct.pack(">HB", len(body), 1) + body + bytes(-(3 + len(body)) % 4)


@case("11.2.2: additional header segments do not break framing, with and without digests")
def ahs_framing():
    notes = []
    for keys in ({}, {"HeaderDigest": "CRC32C", "DataDigest": "CRC32C"}):
        for ahs in (ahs_cdb(bytes(16)), ahs_cdb(bytes(244)), struct.pack(">HBBI", 5, 2, 0, 512), b"\0\x05\x3f\0" + bytes(4),
                    b"\x03\xf9\x3f\0" + bytes(1016)):
            a = fresh(**keys)
            a.poke(0, b"\x33" * BS)
            itt = a.wcmd(0, 1, data=b"\x44" * BS, ahs=ahs)
            try:
                p = a.next()
                must(p.op in (SCSI_RSP, REJECT), f"opcode {p.op:#x}")
                if p.op == SCSI_RSP:
                    notes.append(f"type {ahs[2]}: status {p.bhs[3]}")
                    want = b"\x44" if p.bhs[3] == 0 else b"\x33"
                    must(a.peek(0, 1) == want * BS, "data after AHS")
                else:
                    notes.append(f"type {ahs[2]}: reject {p.bhs[2]:#x}")
                    a.cmdsn = a.alive().u32(28)
                a.alive()
            except Closed:
                notes.append(f"type {ahs[2]}: closed")
    return ", ".join(sorted(set(notes)))


@case("11.2.2.2: an AHSLength that overruns TotalAHSLength")
def ahs_overrun():
    notes = []
    for ahs in (b"\xff\xff\x01\0", b"\x00\x00\x01\0", b"\x01\x00\x01\0" + bytes(8)):
        a = fresh()
        itt = a.cmd(bytes(6), ahs=ahs)
        try:
            p = a.next()
            must(p.op in (SCSI_RSP, REJECT), f"opcode {p.op:#x}")
            notes.append(f"{p.op:#x}")
            a.alive()
        except Closed:
            notes.append("closed")
    fresh().alive()
    return ", ".join(notes)


# --- the stream itself

@case("11.1: requests in single bytes, with digests and data")
def stream_byte_by_byte():
    a = fresh(HeaderDigest="CRC32C", DataDigest="CRC32C", FirstBurstLength="512", MaxBurstLength="512")
    real, parts = a.s, []

    class Sink:
        def sendall(self, b):
            parts.append(b)

        def __getattr__(self, name):
            return getattr(real, name)
    a.s = Sink()
    h = a.bhs(NOP_OUT, w20=NOTAG, immediate=True)
    a.raw(h, b"ping!")
    itt = a.wcmd(5, 1, data=pattern(BS, 55))
    r = a.rcmd(5, 1)
    a.s = real
    for b in b"".join(parts):
        real.sendall(bytes([b]))
    must(a.want(NOP_IN, be32(h, 16)).data == b"ping!", "ping")
    must(a.want(SCSI_RSP, itt).bhs[3] == 0, "write")
    must(a.collect(r, BS)[3] == pattern(BS, 55), "read")


@case("11.1: a stream cut at random places, many requests in one segment")
def stream_cut_at_random():
    rng = random.Random(11)
    a = fresh(FirstBurstLength="8192", DataDigest="CRC32C")
    real, parts = a.s, []

    class Sink:
        def sendall(self, b):
            parts.append(b)

        def __getattr__(self, name):
            return getattr(real, name)
    data = {}
    a.s = Sink()
    room = min(100, (a.window[1] - a.window[0]) // 2)
    for i in range(room):
        n = rng.randrange(1, 17)
        d = pattern(n * BS, i)
        data[a.wcmd(i * 16, n, data=d)] = (i, d)
    a.s = real
    stream, at = b"".join(parts), 0
    while at < len(stream):
        m = rng.choice((1, 47, 48, 49, 512, 1000, 5000, 60000))
        real.sendall(stream[at:at + m])
        at += m
    for _ in range(room):
        must(a.want(SCSI_RSP).bhs[3] == 0, "status")
    for i, d in data.values():
        must(a.peek(i * 16, len(d) // BS) == d, f"data of write {i}")


@case("integrity: a connection that ends in the middle of a write leaves the old data")
def cut_in_write():
    for how in ("within immediate data", "after half the R2T", "before the last byte", "reset"):
        fresh().poke(0, b"\x11" * 65536)
        a = fresh(FirstBurstLength="32768", MaxBurstLength="65536", **YES_YES)
        if how == "within immediate data":
            h = bytearray(a.bhs(SCSI_CMD, F | W | 1, w20=32768, rest=struct.pack(">BBIBHB", 0x2a, 0, 0, 0, 64, 0)))
            h[5:8] = (32768).to_bytes(3, "big")
            a.s.sendall(bytes(h) + b"\x22" * 30000)
        else:
            itt = a.wcmd(0, 128)
            ttt = a.want(R2T, itt).u32(20)
            a.out(itt, ttt, 0, b"\x22" * 32768, 0, False)
            if how != "after half the R2T":
                h = struct.pack(">BB2sI8sIIIIIIII", DATA_OUT, F, b"\0\0", 32768, bytes(8), itt, ttt, 0, a.expstatsn, 0, 1, 32768, 0)
                a.s.sendall(h + b"\x22" * 32767)
        if how == "reset":
            a.s.setsockopt(1, 13, struct.pack("ii", 1, 0))  # SO_LINGER 0
        a.s.close()
        time.sleep(0.05)
        must(fresh().peek(0, 128) == b"\x11" * 65536, how)


@case("flow: a peer that asks for much and reads nothing for a while gets everything in the end")
def slow_reader():
    a = fresh(MaxRecvDataSegmentLength="262144", MaxBurstLength="16776192")
    size = 256 << 10
    data = pattern(size, 6)
    a.poke(0, data)
    n = min(64, a.window[1] - a.window[0])
    tags = [a.rcmd(0, size // BS) for _ in range(n)]
    time.sleep(0.5)
    left = {t: bytearray(size) for t in tags}
    while left:
        p = a.next()
        must(p.op in (DATA_IN, SCSI_RSP), f"opcode {p.op:#x}")
        if p.op == DATA_IN:
            left[p.itt][p.u32(40):p.u32(40) + len(p.data)] = p.data
        if p.op == SCSI_RSP or p.bhs[1] & 1:
            must(bytes(left.pop(p.itt)) == data, "data")
    a.alive()


@case("7.7: rubbish on an established connection ends it and nothing else")
def rubbish():
    rng = random.Random(3)
    other = fresh()
    for i in range(30):
        a = fresh()
        try:
            a.s.sendall(rng.randbytes(rng.randrange(1, 3000)))
            a.s.shutdown(1)
            a.s.settimeout(3)
            while a.s.recv(65536):
                pass
        except OSError:
            pass
        a.close()
    other.alive()
    must(other.tur()[0] == 0, "the other session")


@case("7.7: a header cut off, and connections that say nothing, are forgotten")
def half_headers():
    for n in range(0, 48, 5):
        a = fresh()
        a.s.sendall(a.bhs(NOP_OUT, w20=NOTAG, immediate=True)[:n])
        a.s.close()
    for _ in range(20):
        a = Session(srv.host, srv.port, srv.target, login=False)
        a.s.close()
    fresh().alive()
