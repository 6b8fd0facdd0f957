#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Registration with Debian's iSNS server (open-isns-server): what an initiator that asks it learns of Lunette."""
import json, os, signal, socket, struct, subprocess, sys, tempfile, time
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
import harness as h

rep = h.Report("system/isns/")
DAEMON = os.environ.get("LUNETTED") or os.path.join(h.flavour_dir("release"), "src/lunetted/lunetted")
ISNSD = "/usr/sbin/isnsd"
A, B, HOST = (f"iqn.2026-11.com.example:{n}" for n in ("a", "b", "host"))
REG, QRY, DEREG, DD_REG = 1, 2, 4, 9
ENTITY, PORTAL_ADDR, PORTAL_PORT, NODE, NODE_TYPE, PG_PORT, PGT, DD_ID, DD_MEMBER = \
    1, 16, 17, 32, 33, 50, 51, 2065, 2068


def need(what, why):
    if not what:
        raise RuntimeError(why)


def until(fn, why, seconds=20):
    end = time.monotonic() + seconds
    while not fn():
        need(time.monotonic() < end, why() if callable(why) else why)
        time.sleep(0.05)


class NameServer:
    """isnsd with its own database and port."""

    def __init__(self, port):
        self.dir, self.port, self.p = tempfile.TemporaryDirectory(), port, None
        with open(self.dir.name + "/conf", "w") as f:
            f.write(f"SourceName = iqn.2026-11.com.example:isns\nDatabase = {self.dir.name}/db\n"
                    f"BindAddress = 127.0.0.1:{port}\nPIDFile = {self.dir.name}/pid\nSecurity = 0\n"
                    f"ControlSocket = {self.dir.name}/control\nDefaultDiscoveryDomain = 0\nESIMinInterval = 1\n")
        self.start()

    def start(self):
        self.log = open(self.dir.name + "/log", "a")
        self.p = subprocess.Popen([ISNSD, "-c", self.dir.name + "/conf", "-f", "-d", "message,esi,scn"], stdout=self.log,
                                  stderr=self.log, preexec_fn=h.die_with_parent)

        def up():
            need(self.p.poll() is None, f"isnsd ended: {self.text()[-300:]}")
            with socket.socket() as s:
                return s.connect_ex(("127.0.0.1", self.port)) == 0
        until(up, "isnsd does not listen")

    def text(self):
        with open(self.dir.name + "/log", errors="replace") as f:
            return f.read()

    def forget(self):
        """Ends it, with its database."""
        self.p.kill()
        self.p.wait()
        subprocess.run(["rm", "-rf", self.dir.name + "/db"], check=True)

    def __enter__(self):
        return self

    def __exit__(self, *a):
        self.p.kill()
        self.p.wait()
        self.log.close()
        self.dir.cleanup()


class Initiator:
    """Asks the name server as an initiator does. Attributes are (tag, bytes)."""

    def __init__(self, port):
        self.s = socket.create_connection(("127.0.0.1", port), 10)
        self.xid = 0

    def ask(self, function, key, attrs):
        self.xid += 1
        payload = b"".join(struct.pack(">II", t, len(v)) + v for t, v in [(NODE, text(HOST)), *key, (0, b""), *attrs])
        self.s.sendall(struct.pack(">6H", 1, function, len(payload), 0x8c00, self.xid, 0) + payload)
        answer, last = b"", False
        while not last:
            _, f, n, flags, xid, _ = struct.unpack(">6H", self.exactly(12))
            p = self.exactly(n)
            if f == function | 0x8000 and xid == self.xid:
                answer, last = answer + p, flags & 0x800
        status, at, out = struct.unpack(">I", answer[:4])[0], 4, []
        while at < len(answer):
            t, n = struct.unpack(">II", answer[at:at + 8])
            out.append((t, answer[at + 8:at + 8 + n]))
            at += 8 + n
        return status, out

    def exactly(self, n):
        b = b""
        while len(b) < n:
            got = self.s.recv(n - len(b))
            need(got, "the name server closed the connection")
            b += got
        return b

    def register(self):
        status, _ = self.ask(REG, [(ENTITY, text("host"))], [
            (ENTITY, text("host")), (2, num(2)), (PORTAL_ADDR, bytes(10) + b"\xff\xff\x7f\0\0\1"), (PORTAL_PORT, num(1)),
            (NODE, text(HOST)), (NODE_TYPE, num(2))])
        need(status == 0, f"the initiator's registration: status {status}")

    def join(self, domain):
        status, _ = self.ask(DD_REG, [(DD_ID, num(domain))], [(DD_MEMBER, text(HOST))])
        need(status == 0, f"joining the domain: status {status}")

    def targets(self):
        _, got = self.ask(QRY, [(NODE_TYPE, num(1))], [(NODE, b"")])
        split = [i for i, (t, _) in enumerate(got) if t == 0]
        return sorted({v.rstrip(b"\0").decode() for t, v in got[split[0] if split else 0:] if t == NODE and v})

    def groups(self, target):
        _, got = self.ask(QRY, [(NODE, text(target))], [(PGT, b""), (PG_PORT, b"")])
        vals = [struct.unpack(">I", v)[0] if v else None for t, v in got if t == PGT]
        ports = [struct.unpack(">I", v)[0] & 0xffff for t, v in got if t == PG_PORT and v]
        return sorted(zip(ports, [v for v in vals]), key=str)


def text(s):
    b = s.encode() + b"\0"
    return b + bytes(-len(b) % 4)


def num(n):
    return struct.pack(">I", n)


class Daemon:
    def __init__(self, conf):
        self.dir = tempfile.TemporaryDirectory()
        self.conf(conf)
        self.log = open(self.dir.name + "/log", "w")
        self.p = subprocess.Popen([DAEMON, "--config", self.dir.name + "/c.json", "--state", self.dir.name + "/s",
                                   "--socket", self.dir.name + "/sock"], stdout=subprocess.PIPE, stderr=self.log, text=True)
        need(self.p.stdout.readline() == "ready\n", self.text())

    def conf(self, c):
        with open(self.dir.name + "/c.json", "w") as f:
            json.dump(c, f)

    def hup(self, c):
        self.conf(c)
        self.p.send_signal(signal.SIGHUP)

    def text(self):
        with open(self.dir.name + "/log") as f:
            return f.read()

    def status(self):
        cli = os.path.join(os.path.dirname(DAEMON), "../lunette/lunette")
        return subprocess.run([cli, "-S", self.dir.name + "/sock", "status"], capture_output=True, text=True, timeout=20).stdout

    def registered(self, times=1):
        until(lambda: self.text().count("isns registered") >= times, lambda: f"not registered {times} times: {self.text()[-400:]}")

    def __enter__(self):
        return self

    def __exit__(self, *a):
        if self.p.poll() is None:
            self.p.terminate()
        rc = self.p.wait(20)
        self.log.close()
        self.dir.cleanup()
        need(rc == 0, f"ended with {rc}")


def base(isns, *ports):
    return {"portals": [{"listen": f"127.0.0.1:{p}", "group": i + 1} for i, p in enumerate(ports)],
            "isns": {"server": f"127.0.0.1:{isns}", "entity": "lunette-test", "domain": "lab"},
            "volumes": {"d": {"type": "ram", "size": "1M"}},
            "targets": {A: {"luns": {"0": "d"}}, B: {"luns": {"0": "d"}, "groups": [2]}}}


def initiator_finds_targets():
    """An initiator of the same discovery domain is told both targets and through which portals each is reached, hears of
    a target that comes and goes by SIGHUP, and of none when the server has ended in good order; a name server that forgot
    everything is told again; a change in the domain reaches the server, whose answers keep it registered."""
    port, p1, p2 = h.free_port(), h.free_port(), h.free_port()
    with NameServer(port) as n:
        with Daemon(base(port, p1, p2)) as d:
            d.registered()
            need("name server: registered" in d.status(), d.status())
            i = Initiator(port)
            i.register()
            i.join(1)
            need(i.targets() == [A, B], f"told {i.targets()}")
            need(dict(i.groups(A)) == {p1: 1, p2: 2}, f"{A} is reached through {i.groups(A)}, not {p1}, {p2}")
            need(dict(i.groups(B)).get(p2) == 2 and dict(i.groups(B)).get(p1) is None, f"{B}: {i.groups(B)}")
            i.ask(DEREG, [], [(NODE, text(HOST))])
            i.register()
            until(lambda: f"isns change server=127.0.0.1:{port} node={HOST}" in d.text(), "no notification arrived")
            until(lambda: n.text().count("---ESIResp") >= 2 or n.text().count("ESI") > 6, "no status inquiry was answered")
            c = base(port, p1, p2)
            del c["targets"][B]
            d.hup(c)
            d.registered(2)
            need(i.targets() == [A], f"after the removal of {B}: {i.targets()}")
            n.forget()
            until(lambda: "isns refused" in d.text(), "the loss of the name server is not in the log")
            n.start()
            d.registered(3)
            i = Initiator(port)
            i.register()
            i.join(1)
            need(i.targets() == [A], f"after the name server lost its database: {i.targets()}")
        need(i.targets() == [], f"after the end: {i.targets()}")


def no_name_server():
    """A name server that is not there holds nothing up: the server starts, serves and ends; the log says it once."""
    p = h.free_port()
    with Daemon(base(h.free_port(), p, h.free_port())) as d:
        until(lambda: "isns refused" in d.text(), "the log does not say that the name server is not there")
        with socket.create_connection(("127.0.0.1", p), 5):
            time.sleep(2.5)
        need(d.text().count("isns refused") == 1, "the same reason is logged again and again")


if __name__ == "__main__":
    if not os.path.exists(DAEMON):
        rep.skip("all", "not built")
    elif not os.path.exists(ISNSD):
        rep.skip("all", "open-isns-server is not installed")
    else:
        for fn in (initiator_finds_targets, no_name_server):
            rep.case(fn.__name__.replace("_", "-"), fn)
    sys.exit(rep.status())
