#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""What becomes of clients under I/O when their target, their LUN or their portal is removed, when the administrator closes their
session, and when they log out from a disk that hangs (RFC 7143 11.9.1, 11.14): every command is answered or rejected, and the
last words come in order."""
import json, os, struct, sys, tempfile, threading
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
import harness as h
import iscsi
from iscsi import ASYNC, DATA_IN, LOGOUT, LOGOUT_RSP, REJECT, SCSI_RSP

sys.argv, argv = sys.argv[:1], sys.argv
from daemon import A, B, Daemon, need, session

rep = h.Report("system/leaving/")
LOGOUT_ASKED, CONN_DROP, SESSION_DROP = 1, 2, 3
WAITING_FOR_LOGOUT = 0x0c
DEPTH = 8


class Busy(threading.Thread):
    """Keeps DEPTH reads in flight and notes what else it hears. polite: logs out when it is asked to."""

    def __init__(self, c, polite):
        super().__init__()
        self.c, self.polite = c, polite
        self.events, self.done, self.rejected, self.senses = [], 0, 0, []
        self.open, self.error, self.logged_out = set(), None, False
        self.halt = self.leaving = False

    def issue(self):
        words = struct.pack(">III", 512, self.c.cmdsn, self.c.expstatsn) + struct.pack(">BBQIBB", 0x88, 0, 0, 1, 0, 0)
        self.c.cmdsn += 1
        self.open.add(self.c.send(1, 0xc1, words=words))

    def answer(self, p):
        if p.op == ASYNC:
            self.events.append(p.bhs[36])
            self.halt = self.halt or self.polite
        elif p.op == REJECT:
            need(p.bhs[2] == WAITING_FOR_LOGOUT, f"Reject {p.bhs[2]:#x}")
            self.open.discard(struct.unpack(">I", p.data[16:20])[0])
            self.rejected += 1
            self.halt = True
        elif p.op == LOGOUT_RSP:
            need(p.bhs[2] == 0, f"logout response {p.bhs[2]}")
            self.logged_out = True
        elif p.op == DATA_IN and p.bhs[1] & 1 or p.op == SCSI_RSP:
            need(p.itt in self.open, f"tag {p.itt} answered twice")
            self.open.discard(p.itt)
            self.done += 1
            if p.bhs[3]:
                s = p.data[2:]
                self.senses.append((s[2] & 15, s[12], s[13]) if len(s) > 13 else (p.bhs[3],))
        else:
            need(p.op == DATA_IN, f"opcode {p.op:#x}")

    def run(self):
        try:
            while True:
                while not self.halt and len(self.open) < DEPTH:
                    self.issue()
                if self.events and self.polite and not self.open and not self.leaving:
                    self.leaving = True
                    self.c.send(LOGOUT, 0x80, lun=bytes(8), words=struct.pack(">III", 0, self.c.cmdsn, self.c.expstatsn), immediate=True)
                self.answer(self.c.next())
        except (iscsi.Closed, ConnectionError):
            pass
        except Exception as e:  # noqa: told by finish()
            self.error = e

    def finish(self):
        """The connection has ended; nothing was left unanswered."""
        self.join(15)
        need(not self.is_alive(), "the connection lives")
        if self.error:
            raise self.error
        need(self.done > DEPTH, "no I/O was under way")
        need(not self.open, f"{len(self.open)} commands were never answered")


def conf(d, name="c.json", **change):
    c = {"portals": [], "volumes": {"one": {"type": "ram", "size": "16MiB"}, "two": {"type": "ram", "size": "16MiB"}},
         "targets": {A: {"luns": {"0": "one", "1": "two"}}, B: {"luns": {"0": "two"}}}, **change}
    path = os.path.join(d, name)
    with open(path, "w") as f:
        json.dump(c, f)
    return path


def busy(port, target, polite, lun=0):
    b = Busy(session(port, target, lun=lun), polite)
    b.start()
    while b.done < 2 * DEPTH and b.is_alive():
        pass
    return b


def removed(change):
    """Two clients under I/O, one that logs out when asked and one that does not, and one that is not concerned."""
    p1, p2 = h.free_port(), h.free_port()
    portals = [f"127.0.0.1:{p1}", f"127.0.0.1:{p2}"]
    with tempfile.TemporaryDirectory() as d:
        with Daemon("--config", conf(d, portals=portals)) as s:
            polite, rude = busy(p2, B, True), busy(p2, B, False)
            other = session(p1, A)
            conf(d, portals=[portals[0]] if change == "portal" else portals,
                 targets={A: {"luns": {"0": "one", "1": "two"}}, **({B: {"luns": {"0": "two"}}} if change == "portal" else {})})
            s.hup()
            polite.finish()
            rude.finish()
            other.read(0, 1)
            other.logout()
    last = CONN_DROP if change == "portal" else SESSION_DROP
    need(polite.logged_out and polite.events == [LOGOUT_ASKED] and not polite.senses, f"polite: {vars(polite)}")
    need(rude.events == [LOGOUT_ASKED, last] and rude.rejected and not rude.senses, f"rude: {vars(rude)}")
    return f"{rude.done} commands answered, {rude.rejected} rejected"


def target_removed():
    """Removal of a target asks its sessions to log out, and ends those that stay with event 3."""
    return removed("target")


def portal_removed():
    """Removal of a portal asks the connections that came through it to log out, and ends those that stay with event 2."""
    return removed("portal")


def lun_removed():
    """Removal of a LUN under I/O: what was begun is answered, then 05/25/00; the other LUN of the session goes on behind one unit
    attention; no connection ends."""
    port = h.free_port()
    with tempfile.TemporaryDirectory() as d:
        with Daemon("--config", conf(d, portals=[f"127.0.0.1:{port}"])) as s:
            gone, stays = busy(port, A, False, lun=1), session(port, A)
            conf(d, portals=[f"127.0.0.1:{port}"], targets={A: {"luns": {"0": "one"}}})
            s.hup()
            while not gone.senses and gone.is_alive():
                pass
            gone.halt = True
            try:
                stays.read(0, 1)
                raise RuntimeError("no unit attention")
            except iscsi.ScsiError as e:
                need((e.key, e.asc, e.ascq) == (6, 0x3f, 0x0e), str(e))
            stays.read(0, 1)
            while gone.open and gone.is_alive():
                gone.join(0.05)
            need(set(gone.senses) == {(5, 0x25, 0)}, f"senses {set(gone.senses)}")
            need(not gone.events and not gone.open, f"{gone.events}")
            stays.logout()
        gone.join(15)
    need(not gone.error, gone.error)


def session_closed():
    """lunette kick: event 3, then the connection closes."""
    port = h.free_port()
    with tempfile.TemporaryDirectory() as d:
        with Daemon("--config", conf(d, portals=[f"127.0.0.1:{port}"])) as s:
            c = session(port, A)
            sid = json.loads(s.cli("--json", "sessions")[1])
            sid = (sid["sessions"] if isinstance(sid, dict) else sid)[0]["id"]
            rc, _, err = s.cli("sessions", "kick", str(sid))
            need(rc == 0, err)
            p = c.next()
            need(p.op == ASYNC and p.bhs[36] == SESSION_DROP, f"opcode {p.op:#x} {p.bhs[36]}")
            try:
                c.next()
                raise RuntimeError("the connection lives")
            except (iscsi.Closed, ConnectionError):
                pass


def server_stops():
    """SIGTERM: both hear that they shall log out; the one that does not is rejected, then dropped; the exit status is 0."""
    port = h.free_port()
    with tempfile.TemporaryDirectory() as d:
        with Daemon("--config", conf(d, portals=[f"127.0.0.1:{port}"])) as s:
            polite, rude = busy(port, A, True), busy(port, B, False)
            s.end()
            polite.finish()
            rude.finish()
    need(polite.logged_out and polite.events == [LOGOUT_ASKED], f"polite: {polite.events}")
    need(rude.events == [LOGOUT_ASKED, SESSION_DROP], f"rude: {rude.events}")


def logout_from_stalled_disk():
    """11.14.5: a logout is answered while a write of the session hangs below, and so is the login that follows."""
    port = h.free_port()
    slow = {"type": "ram", "size": "16MiB", "filters": [{"type": "delay", "time": "1h", "op": "write"}]}
    with tempfile.TemporaryDirectory() as d:
        with Daemon("--config", conf(d, portals=[f"127.0.0.1:{port}"], volumes={"one": slow},
                                     targets={A: {"luns": {"0": "one"}}})) as s:
            c, probe = session(port, A), session(port, A)
            c.command(struct.pack(">BBQIBB", 0x8a, 0, 0, 1, 0, 0), out=b"x" * 512)
            probe.scsi(bytes(6))
            c.logout()
            probe.logout()
            again = session(port, A)
            again.read(1, 1)
            again.logout()
            s.p.kill()
            s.p.wait()


def main():
    for fn in (target_removed, portal_removed, lun_removed, session_closed, server_stops, logout_from_stalled_disk):
        if all(w in fn.__name__ for w in argv[1:]):
            rep.case(fn.__name__.replace("_", "-"), fn)
    sys.exit(rep.status())


if __name__ == "__main__":
    main()
