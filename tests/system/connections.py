#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Sessions of several connections (RFC 7143 4.2.2.1, 6.3.4, 11.14): joining over the portals of a group, on whatever core the
connection began; order over all of them; what is refused; what becomes of the rest when one goes."""
import json, os, select, socket, struct, sys, threading, time
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
import harness as h
import iscsi

rep = h.Report("system/connections/")
READ10 = 0x28


def serve(loop):
    """Two portals in group 1, one in group 2, three cores."""
    a, b, c = h.free_port(), h.free_port(), h.free_port()
    conf = {"server": {"cores": 3}, "volumes": {"v": {"type": "ram", "size": "64MiB"}},
            "portals": [{"listen": f"127.0.0.1:{a}"}, {"listen": f"127.0.0.1:{b}"}, {"listen": f"127.0.0.1:{c}", "group": 2}],
            "targets": {"iqn.2025-01.test.lunette:disk": {"luns": {"0": "v"}}}}
    path = f"/tmp/lunette-connections-{os.getpid()}.json"
    with open(path, "w") as f:
        json.dump(conf, f)
    s = h.Server(loop=loop, listen=False, config=path)
    os.unlink(path)
    s.ports = [a, b, c]
    s.port = a
    return s


def lead(s, **keys):
    c = iscsi.Session("127.0.0.1", s.ports[0], s.iqn, keys={"MaxConnections": "8", **keys})
    c.ready()
    return c


def refused(status, fn, *args, **kw):
    try:
        fn(*args, **kw)
    except iscsi.LoginRefused as e:
        if e.status == status:
            return
        raise RuntimeError(f"refused with {e.status:04x}, not {status:04x}")
    raise RuntimeError("not refused")


def closed(c):
    """The target closes it."""
    try:
        while True:
            c.next()
    except (iscsi.Closed, ConnectionError):
        return


def join_portals(loop):
    """6.3.6, 4.2.2.1: eight connections over two portals of a group are one session, whatever core took them; each does I/O."""
    with serve(loop) as s:
        c = [lead(s)]
        c += [c[0].join(i, "127.0.0.1", s.ports[i % 2]) for i in range(1, 8)]
        for i, k in enumerate(c):
            k.write(i * 64, bytes([i + 1]) * 32768)
        for i, k in enumerate(c):
            j = (i + 3) % 8
            if k.read(j * 64, 64) != bytes([j + 1]) * 32768:
                raise RuntimeError(f"connection {i} read something else")
        c[3].logout()
        for k in c[:3] + c[4:]:
            closed(k)


def refusals(loop):
    """11.13.5: another group or no such session 020A, one too many 0206; the session goes on."""
    with serve(loop) as s:
        c = lead(s, MaxConnections="2")
        refused(0x020a, c.join, 1, "127.0.0.1", s.ports[2])
        d = c.join(1, "127.0.0.1", s.ports[1])
        refused(0x0206, c.join, 2)
        tsih = c.tsih
        c.tsih = tsih ^ 0x5555
        refused(0x020a, c.join, 3)
        c.tsih = tsih
        d.ready()
        c.logout()


def order(loop):
    """4.2.2.1: commands wait for those with a lower CmdSN on other connections, also 100 of them on 4 connections backwards."""
    with serve(loop) as s:
        c = [lead(s)]
        c += [c[0].join(i) for i in range(1, 4)]
        base, tags = c[0].cmdsn, {}
        for i in reversed(range(100)):
            k = c[i % 4]
            k.cmdsn = base + i
            data = bytes([i + 1]) * 512
            cdb = struct.pack(">BBIBHB", 0x2a, 0, 0, 0, 1, 0)
            tags[k.command(cdb, out=data)] = k
        c[0].cmdsn = base + 100
        got = []
        for k in c:
            for _ in range(25):
                p = k.next()
                if p.op != iscsi.SCSI_RSP or p.bhs[3]:
                    raise RuntimeError(f"opcode {p.op:02x} status {p.bhs[3]:02x}")
                got.append(p.itt)
        if sorted(got) != sorted(tags):
            raise RuntimeError("tags differ")
        if c[2].read(0, 1) != bytes([100]) * 512:
            raise RuntimeError("the write with the highest CmdSN is not the last")
        c[0].logout()


def reinstate(loop):
    """6.3.4: a login with the CID of a connection takes its place, on another core too; below level 2 its tasks are gone with
    unit attention 47/7F (11.14.5), and its CmdSN stay used."""
    with serve(loop) as s:
        a = lead(s)
        b = a.join(1)
        itt = b.command(struct.pack(">BBIBHB", 0x2a, 0, 0, 0, 64, 0), out=b"x" * 32768, immediate_data=False)
        while b.next().op != iscsi.R2T:  # it waits for data that will not come
            pass
        for i in range(3):
            n = a.join(1, "127.0.0.1", s.ports[i % 2])
            closed(b)
            b = n
        try:
            b.scsi(bytes(6))
            raise RuntimeError("no unit attention")
        except iscsi.ScsiError as e:
            if (e.key, e.asc, e.ascq) != (6, 0x47, 0x7f):
                raise
        if b.read(0, 64) != bytes(32768):
            raise RuntimeError("data of the lost command was written")
        if a.tmf(1, itt) not in (0, 1):
            raise RuntimeError("abort of a task that is gone")
        a.logout()


def lost(loop):
    """7.1.4.3, 11.9.1: when one of three goes, another is told by asynchronous message 2; the others go on; when the last goes,
    the session is gone."""
    with serve(loop) as s:
        a = lead(s)
        b, c = a.join(1), a.join(2)
        c.close()
        while (p := a.next()).op != iscsi.ASYNC:
            pass
        if p.bhs[36] != 2 or p.bhs[38:40] != b"\0\2":
            raise RuntimeError(f"event {p.bhs[36]} of connection {p.bhs[38:40].hex()}")
        b.write(0, b"b" * 4096)
        a.close()
        b.ready()
        if b.read(0, 8) != b"b" * 4096:
            raise RuntimeError("read back differs")
        tsih = b.tsih
        b.close()
        end = time.monotonic() + 5
        while True:
            try:
                n = iscsi.Session("127.0.0.1", s.ports[0], s.iqn, isid=int.from_bytes(a.isid, "big"), login=False)
                n.tsih = tsih
                n.login()
            except iscsi.LoginRefused as e:
                if e.status == 0x020a:
                    return
                raise
            n.close()
            if time.monotonic() > end:
                raise RuntimeError("the session is still there")


def logouts(loop):
    """11.14: "close the connection" of another CID closes that one; an unknown CID is answered with 1, recovery at level 0 with 2;
    "close the session" closes all."""
    with serve(loop) as s:
        a = lead(s)
        b, c = a.join(7), a.join(9)
        if a.logout_request(1, 7) != 0:
            raise RuntimeError("logout of another connection failed")
        closed(b)
        if a.logout_request(1, 7) != 1 or a.logout_request(1, 55) != 1:
            raise RuntimeError("an unknown CID was logged out")
        if a.logout_request(2, 9) != 2:
            raise RuntimeError("recovery at level 0")
        c.ready()
        if c.logout_request(1) != 0:
            raise RuntimeError("logout of the own connection")
        closed(c)
        a.ready()
        d = a.join(9)
        if a.logout_request(0) != 0:
            raise RuntimeError("logout of the session")
        closed(d)
        closed(a)


def storm(loop):
    """Joins, reinstatements and cuts of many sessions at once: no crash, nothing stuck, and other sessions unharmed."""
    with serve(loop) as s:
        calm, wrong = lead(s), []

        def one(seed):
            try:
                for r in range(6):
                    a = lead(s)
                    more = []
                    for i in range(1, 5):
                        try:
                            more.append(a.join(i % 3 + 1, "127.0.0.1", s.ports[i % 2]))
                        except (iscsi.LoginRefused, iscsi.Closed, ConnectionError):
                            pass
                    if (seed + r) % 3 == 0:
                        a.s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                        a.close()
                    elif more and (seed + r) % 3 == 1:
                        more[-1].ready()
                        more[-1].logout()
                    for k in more:
                        k.close()
            except Exception as e:  # noqa: reported below
                wrong.append(f"{type(e).__name__}: {e}")

        t = [threading.Thread(target=one, args=(i,)) for i in range(6)]
        for x in t:
            x.start()
        for x in t:
            x.join(60)
        if any(x.is_alive() for x in t):
            raise RuntimeError("stuck")
        if wrong:
            raise RuntimeError(wrong[0])
        calm.write(0, b"c" * 4096)
        if calm.read(0, 8) != b"c" * 4096:
            raise RuntimeError("read back differs")
        calm.logout()


def pong(c, p):
    """Answers the target's ping p."""
    if p.op != iscsi.NOP_IN or p.itt != 0xffffffff:
        raise RuntimeError(f"opcode {p.op:#x} instead of a ping")
    c.send(iscsi.NOP_OUT, 0x80, itt=0xffffffff, lun=bytes(8), immediate=True,
           words=p.bhs[20:24] + struct.pack(">II", c.cmdsn, c.expstatsn))


def fence(loop):
    """4.2.2.3, 13.23: with ResponseFence the response of ABORT TASK SET waits until every connection has acknowledged; without, not."""
    with serve(loop) as s:
        for key, waits in (("ResponseFence,RFC3720", True), ("RFC3720,ResponseFence", False)):
            a = lead(s, TaskReporting=key)
            b = a.join(1)
            a.send(iscsi.TMF, 0x82, words=struct.pack(">III", 0xffffffff, a.cmdsn, a.expstatsn), immediate=True)
            if waits:
                pong(a, a.recv())
                if select.select([a.s], [], [], 0.3)[0]:
                    raise RuntimeError("the response did not wait")
                pong(b, b.recv())
            p = a.recv()
            if p.op != iscsi.TMF_RSP or p.bhs[2]:
                raise RuntimeError(f"opcode {p.op:#x}")
            a.ready()
            b.close()
            a.close()


if __name__ == "__main__":
    if not h.binaries_there():
        rep.skip("all", "there is no server yet")
        sys.exit(0)
    only = sys.argv[1:]
    for loop in ("uring", "epoll"):
        for fn in (join_portals, refusals, order, reinstate, lost, logouts, storm, fence):
            if not only or fn.__name__ in only:
                rep.case(f"{fn.__name__}-{loop}", fn, loop)
    sys.exit(rep.status())
