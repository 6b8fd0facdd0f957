#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Where logins are sent and what discovery shows (RFC 7143 11.13.5, 13.8, appendix C): redirection by portal and by load, targets
for some initiators, addresses and users."""
import json, os, struct, sys, tempfile
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
import harness as h
import iscsi

sys.argv, argv = sys.argv[:1], sys.argv
from daemon import A, B, Daemon, need, session

rep = h.Report("system/access/")
MOVED_TEMP, MOVED_PERM, FORBIDDEN = 0x0101, 0x0102, 0x0202
ME = "iqn.2025-01.test.lunette:initiator"


def conf(d, **c):
    c.setdefault("volumes", {"one": {"type": "ram", "size": "16MiB"}})
    path = os.path.join(d, "c.json")
    with open(path, "w") as f:
        json.dump(c, f)
    return path


def refused(port, target=A, **kw):
    """(status, text) of a login that is refused."""
    try:
        session(port, target, **kw).logout()
    except iscsi.LoginRefused as e:
        return e.status, e.text
    raise RuntimeError("the login was accepted")


def targets(port, **kw):
    s = iscsi.Session("127.0.0.1", port, **kw)
    text = s.send_targets()
    s.logout()
    return [x[11:] for x in text if x.startswith("TargetName=")]


def portal_redirect():
    """Every login at a portal that redirects is sent on, for a while or for good; discovery goes on there; a reload ends it."""
    a, b = h.free_port(), h.free_port()
    with tempfile.TemporaryDirectory() as d:
        there = f"127.0.0.1:{b}"
        def portals(**more):
            return [{"listen": f"127.0.0.1:{a}", **more}, there]
        with Daemon("--config", conf(d, portals=portals(redirect=there), targets={A: {"luns": {"0": "one"}}})) as s:
            need(refused(a) == (MOVED_TEMP, f"TargetAddress={there}\0".encode()), str(refused(a)))
            need(targets(a) == [A], "discovery at the portal")
            session(b).logout()
            conf(d, portals=portals(redirect=there, **{"redirect-permanent": True}), targets={A: {"luns": {"0": "one"}}})
            s.hup()
            need(refused(a)[0] == MOVED_PERM, "permanent")
            conf(d, portals=portals(), targets={A: {"luns": {"0": "one"}}})
            s.hup()
            session(a).logout()


def least_sessions():
    """redirect-policy: least-sessions spreads logins over the portals of the target's groups, whatever portal they begin with."""
    ports = [h.free_port() for _ in range(4)]
    portals = [{"listen": f"127.0.0.1:{p}", "group": 1 if p != ports[3] else 2} for p in ports]
    with tempfile.TemporaryDirectory() as d:
        with Daemon("--config", conf(d, portals=portals, targets={
                A: {"luns": {"0": "one"}, "groups": ["1"], "redirect-policy": "least-sessions"}, B: {}})):
            open_, at = [], {p: 0 for p in ports}
            for _ in range(9):
                port = ports[0]
                for hops in range(4):
                    try:
                        open_.append(session(port))
                        at[port] += 1
                        break
                    except iscsi.LoginRefused as e:
                        need(e.status == MOVED_TEMP and hops < 3, f"status {e.status:04x}")
                        port = int(e.text.decode().strip("\0").rsplit(":", 1)[1])
            need([at[p] for p in ports] == [3, 3, 3, 0], f"sessions by portal: {list(at.values())}")
            back = open_[-1]
            again = iscsi.Session("127.0.0.1", port, A, isid=int.from_bytes(back.isid, "big"))  # reinstated where it is
            again.ready()
            for s in open_[:-1] + [again]:
                s.logout()


def for_some():
    """A target for some initiators or addresses refuses the others with 02/02, and is not shown to them."""
    port = h.free_port()
    luns = {"luns": {"0": "one"}}
    rules = {  # name: (options, may the test's initiator use it?)
        "mine": ({"initiators": [ME.upper()]}, True), "family": ({"initiators": ["iqn.2025-01.test.*"]}, True),
        "other": ({"initiators": ["iqn.2025-01.test.lunette:else"]}, False), "near": ({"clients": ["127.0.0.0/8"]}, True),
        "far": ({"clients": ["192.0.2.0/24", "2001:db8::/32"]}, False),
        "both": ({"clients": ["127.0.0.1"], "initiators": ["eui.0123456789abcdef"]}, False)}
    base = "iqn.2025-01.test.lunette:"
    with tempfile.TemporaryDirectory() as d:
        with Daemon("--config", conf(d, portals=[f"127.0.0.1:{port}"],
                                     targets={base + n: {**luns, **o} for n, (o, _) in rules.items()})):
            for name, (_, may) in rules.items():
                if may:
                    session(port, base + name).logout()
                else:
                    need(refused(port, base + name)[0] == FORBIDDEN, f"{name}: {refused(port, base + name)[0]:04x}")
            need(sorted(targets(port)) == sorted(base + n for n, (_, may) in rules.items() if may), f"{targets(port)}")


def for_users():
    """Discovery by CHAP shows the targets of that user and those that ask for none."""
    port = h.free_port()
    with tempfile.TemporaryDirectory() as d:
        users = {"alice": "a-long-secret", "bob": "another-secret"}
        t = {A: {"luns": {"0": "one"}, "users": ["alice"]}, B: {"luns": {"0": "one"}, "users": ["bob"]}, A + "2": {"open": True}}
        with Daemon("--config", conf(d, portals=[f"127.0.0.1:{port}"], users=users, targets=t,
                                     discovery={"users": ["alice", "bob"]})):
            need(targets(port, user="alice", secret=users["alice"]) == [A, A + "2"], "alice")
            need(targets(port, user="bob", secret=users["bob"]) == [A + "2", B], "bob")


def limit_changes():
    """A change of max-recv-segment is told to sessions that exist: event 4, then a declaration in their text exchange (11.9.1, 13.12)."""
    port = h.free_port()
    with tempfile.TemporaryDirectory() as d:
        def targets_with(n):
            return {A: {"luns": {"0": "one"}, "max-recv-segment": n}}
        with Daemon("--config", conf(d, portals=[f"127.0.0.1:{port}"], targets=targets_with("64KiB"))) as s:
            c = session(port)
            need(c.params["MaxRecvDataSegmentLength"] == "65536", str(c.params))
            conf(d, portals=[f"127.0.0.1:{port}"], targets=targets_with("128KiB"))
            s.hup()
            p = c.next()
            need(p.op == iscsi.ASYNC and p.bhs[36] == 4, f"opcode {p.op:#x}")
            c.send(iscsi.TEXT, 0x80, lun=bytes(8), words=struct.pack(">III", 0xffffffff, c.cmdsn, c.expstatsn))
            c.cmdsn += 1
            p = c.next()
            need(p.op == iscsi.TEXT_RSP and p.data == b"MaxRecvDataSegmentLength=131072\0", f"{p.op:#x} {p.data}")
            c.max_xmit = 131072
            c.write(0, b"z" * 200000 + bytes(200704 - 200000))
            need(c.read(0, 1) == b"z" * 512, "data")
            c.logout()


def main():
    for fn in (portal_redirect, least_sessions, for_some, for_users, limit_changes):
        if all(w in fn.__name__ for w in argv[1:]):
            rep.case(fn.__name__.replace("_", "-"), fn)
    sys.exit(rep.status())


if __name__ == "__main__":
    main()
