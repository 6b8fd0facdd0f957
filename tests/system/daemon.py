#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""How lunetted starts, says what is wrong, reloads and ends; and how lunette(1) asks it."""
import ctypes, fcntl, json, os, re, shutil, signal, socket, struct, subprocess, sys, tempfile, threading, time
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
import harness as h
import iscsi

rep = h.Report("system/daemon/")
DAEMON = os.environ.get("LUNETTED") or os.path.join(h.flavour_dir("release"), "src/lunetted/lunetted")
CLI = os.environ.get("LUNETTE") or os.path.join(os.path.dirname(DAEMON), "../lunette/lunette")
A, B = "iqn.2025-01.test.lunette:a", "iqn.2025-01.test.lunette:b"


def need(what, why):
    if not what:
        raise RuntimeError(why)


class Daemon:
    """lunetted with its own state directory and control socket, started as a person would."""

    def __init__(self, *args, state=None, env=None, wrap=()):
        self.dir = tempfile.mkdtemp(prefix="lunette-daemon-")
        self.state = state or self.dir + "/state"
        self.sock = self.dir + "/control.sock"
        args = (*args, "--loop", os.environ["LUNETTE_LOOP"]) if "LUNETTE_LOOP" in os.environ else args
        self.args, self.env, self.wrap = [str(a) for a in args], dict(os.environ, **(env or {})), wrap
        self.start()

    def start(self):
        self.log = open(self.dir + "/log", "a+")
        self.p = subprocess.Popen([*self.wrap, DAEMON, *self.args, "--state", self.state, "--socket", self.sock],
                                  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.log, text=True, env=self.env)
        line = self.p.stdout.readline()
        if line != "ready\n":
            raise RuntimeError(f"first line is {line!r}, status {self.p.wait(10)}: {h.tail(self.text(), 1)}")

    def text(self):
        with open(self.dir + "/log") as f:
            return f.read()

    def wait_log(self, word, since=0, seconds=10):
        end = time.monotonic() + seconds
        while word not in self.text()[since:]:
            if time.monotonic() > end:
                raise RuntimeError(f"the log never said {word!r}: {h.tail(self.text())}")
            time.sleep(0.02)

    def hup(self, says="configuration applied"):
        since = len(self.text())
        self.p.send_signal(signal.SIGHUP)
        self.wait_log(says, since)

    def cli(self, *args):
        r = subprocess.run([CLI, "-S", self.sock, *args], capture_output=True, text=True, timeout=40)
        return r.returncode, r.stdout, r.stderr

    def end(self, sig=signal.SIGTERM):
        """Seconds it took; fails unless the status is 0 and nothing but `ready` was printed."""
        t = time.monotonic()
        self.p.send_signal(sig)
        rest = self.p.stdout.read()
        rc = self.p.wait(15)
        t = time.monotonic() - t
        need(rc == 0, f"ended with {rc}: {h.tail(self.text())}")
        need(rest == "", f"printed {rest!r} after ready")
        return t

    def __enter__(self):
        return self

    def __exit__(self, kind, exc, tb):
        if self.p.poll() is None:
            if kind is None:
                self.end()
            else:
                self.p.kill()
                self.p.wait()
        self.log.close()
        shutil.rmtree(self.dir, ignore_errors=True)


def refused(args, status, *words):
    """The program ends with that status and one line on standard error that has the words."""
    with tempfile.TemporaryDirectory(prefix="lunette-daemon-") as d:
        p = subprocess.run([DAEMON, "--state", d + "/state", "--socket", d + "/c.sock", *[str(a) for a in args]],
                           capture_output=True, text=True, timeout=30)
    lines = [l for l in p.stderr.splitlines() if not re.match(r"<[4-7]>", l)]
    need(p.returncode == status, f"status {p.returncode}, not {status}: {p.stderr}")
    need(p.stdout == "", f"printed {p.stdout!r}")
    need(len(lines) == 1, f"{len(lines)} lines: {p.stderr}")
    for w in words:
        need(re.search(w, lines[0]), f"'{lines[0]}' does not say '{w}'")


def session(port, target=A, lun=0, **kw):
    c = iscsi.Session("127.0.0.1", port, target, lun=lun, **kw)
    c.ready()
    return c


def tmpfile(d, name="disk.img", size=None):
    path = os.path.join(d, name)
    if size is not None:
        with open(path, "wb") as f:
            f.truncate(size)
    return path


def attention(c):
    """The sense of the next TEST UNIT READY that fails, within some seconds."""
    end = time.monotonic() + 5
    while time.monotonic() < end:
        try:
            c.scsi(bytes(6))
        except iscsi.ScsiError as e:
            return e.sense
        time.sleep(0.02)
    raise RuntimeError("no unit attention")


def closed(c):
    """The server closes the session within some seconds."""
    end = time.monotonic() + 10
    try:
        while time.monotonic() < end:
            c.read(0, 1)
            time.sleep(0.02)
    except (iscsi.Closed, OSError):
        return
    except Exception:  # an asynchronous message in place of the answer: it is on its way
        return
    raise RuntimeError("the session lives")


# --- starting ----------------------------------------------------------------------------------------------------

def ready_once():
    """One line `ready` on standard output, nothing else, and every address listens by then."""
    p1, p2 = h.free_port(), h.free_port("::1")
    with Daemon("--ram", "8M", "--listen", f"127.0.0.1:{p1}", "--listen", f"[::1]:{p2}", "--target", A) as d:
        session(p1).logout()
        iscsi.Session("::1", p2, A).logout()
        d.end()


def notify():
    """READY=1, RELOADING=1 and STOPPING=1 reach the service manager's socket."""
    with tempfile.TemporaryDirectory() as t:
        s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        s.bind(t + "/n")
        s.settimeout(10)
        with Daemon("--ram", "8M", "--listen", f"127.0.0.1:{h.free_port()}", env={"NOTIFY_SOCKET": t + "/n"}) as d:
            need(s.recv(100) == b"READY=1", "no READY=1")
            d.hup()
            m = s.recv(100)
            need(m.startswith(b"RELOADING=1\nMONOTONIC_USEC="), f"no RELOADING=1 but {m}")
            need(s.recv(100) == b"READY=1", "no READY=1 after a reload")
            d.end()
            need(s.recv(100) == b"STOPPING=1", "no STOPPING=1")
        s.close()


def howto():
    """--howto prints the block with URL and commands before `ready`, which stays a line of its own."""
    port = h.free_port()
    with tempfile.TemporaryDirectory() as t:
        p = subprocess.Popen([DAEMON, "--ram", "8M", "--listen", f"127.0.0.1:{port}", "--target", A, "--howto", "--state",
                              t, "--socket", t + "/s", "--chap", "alice:a-long-secret"], stdout=subprocess.PIPE, text=True,
                             stderr=subprocess.DEVNULL)
        out = ""
        for l in p.stdout:
            out += l
            if l == "ready\n":
                break
        p.terminate()
        need(p.wait(10) == 0, f"status {p.returncode}")
        p.stdout.close()
    for w in (f"iscsi://alice%a-long-secret@127.0.0.1:{port}/{A}/0", "iscsiadm -m discovery", "New-IscsiTargetPortal",
              "Connect-IscsiTarget", "esxcli iscsi", "node.session.auth.password"):
        need(w in out, f"no {w}")


def port_in_use():
    """A port in use is named, with who may hold it or what to do: status 1."""
    s = socket.socket()
    s.bind(("127.0.0.1", 0))
    s.listen()
    port = s.getsockname()[1]
    refused(["--ram", "8M", "--listen", f"127.0.0.1:{port}"], 1, str(port), "use|held", "--listen")
    s.close()


def bad_address():
    """An address that is none, or is not this machine's: status 1, the address is named."""
    refused(["--ram", "8M", "--open", "--listen", "999.1.1.1:1"], 1, "999.1.1.1")
    refused(["--ram", "8M", "--open", "--listen", "192.0.2.77:3260"], 1, "192.0.2.77")


def missing_file():
    """A file that is not there is named, and size= is offered: status 1."""
    refused(["--file", "/nonexistent/disk.img"], 1, "/nonexistent/disk.img", "size=|check")
    refused(["--block", "/dev/nonexistent"], 1, "/dev/nonexistent")
    refused(["--config", "/nonexistent/conf.yaml"], 1, "/nonexistent/conf.yaml")


def locked_file():
    """A file that another process has locked (OFD, as QEMU does) is refused: status 1."""
    with tempfile.TemporaryDirectory() as t:
        path = tmpfile(t, size=1 << 20)
        f = open(path, "r+b")
        for start, n in ((100, 1), (203, 1)):  # QEMU: shares neither writing nor resizing; has it open for writing
            fcntl.fcntl(f, 37, struct.pack("hhqqi4x", fcntl.F_WRLCK if start == 0 else fcntl.F_RDLCK, 0, start, n, 0))
        fcntl.fcntl(f, 37, struct.pack("hhqqi4x", fcntl.F_RDLCK, 0, 201, 1, 0))
        refused(["--file", path], 1, path, "lock|use")
        f.close()
        with Daemon("--file", path, "--listen", f"127.0.0.1:{h.free_port()}"):
            refused(["--file", path, "--listen", f"127.0.0.1:{h.free_port()}"], 1, path, "lock|use")


def bad_iqn():
    """A target name that is no iSCSI name: status 1, with an example of a good one."""
    refused(["--ram", "8M", "--target", "my disk"], 1, "my disk", "iqn")
    refused(["--ram", "8M", "--target", "iqn.2025-13.com.example:x y"], 1, "iqn.2025-13")


def wrong_usage():
    """Wrong usage: status 2 and one line."""
    for args, word in (([], "nothing to serve"), (["--frob"], "--frob"), (["--ram"], "needs a value"),
                       (["--ram", "5x"], "5x"), (["--ram", "1M,frob=1"], "known are .*size"), (["x"], "x"),
                       (["--ram", "1M,bs=513"], "513"), (["--ram", "1M", "--cores", "-1"], "cores"),
                       (["--ram", "1M", "--loop", "x"], "auto, uring, epoll"), (["--ram", "1M", "--chap", "x"], "USER:SECRET")):
        refused(args, 2, word)


def information():
    """--help, --version, --schema: status 0; the schema is JSON."""
    for o in ("--help", "--version", "--schema"):
        r = subprocess.run([DAEMON, o], capture_output=True, text=True, timeout=10)
        need(r.returncode == 0 and r.stdout and not r.stderr, f"{o}: {r.returncode} {r.stderr}")
    json.loads(r.stdout)


# --- ending ------------------------------------------------------------------------------------------------------

def drain():
    """SIGTERM and SIGINT end it within 5 s with status 0 though sessions are logged in, and it listens no more."""
    for sig in (signal.SIGTERM, signal.SIGINT):
        port = h.free_port()
        with Daemon("--ram", "8M", "--listen", f"127.0.0.1:{port}", "--target", A) as d:
            kept = [session(port) for _ in range(3)]
            t = d.end(sig)
            need(t < 5, f"took {t:.1f} s")
            for c in kept:
                c.s.close()


def send_write(c):
    """A write of one block whose answer nobody waits for."""
    c.send(0x01, 0x80 | 0x20, words=struct.pack(">III", 512, c.cmdsn, c.expstatsn) +
           bytes([0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0]).ljust(16, b"\0"), data=bytes(512))
    time.sleep(0.3)


def drain_hangs():
    """A disk that does not answer: the drain ends within 5 s all the same, with status 1."""
    port = h.free_port()
    with tempfile.TemporaryDirectory() as t:
        conf = write(t, {"portals": [f"127.0.0.1:{port}"], "volumes": {"slow": {
            "type": "ram", "size": "8M", "filters": [{"type": "delay", "time": "1h", "op": "write"}]}},
            "targets": {A: {"luns": {"0": "slow"}}}})
        with Daemon("--config", conf) as d:
            c = session(port)
            send_write(c)
            t0 = time.monotonic()
            d.p.terminate()
            rc = d.p.wait(10)
            need(rc == 1, f"status {rc}: {h.tail(d.text())}")
            need(time.monotonic() - t0 < 5.5, "took longer than 5 s")
            c.s.close()


def drain_stuck():
    """A control thread that something holds up (here: a tracer) does not keep SIGTERM from ending the program with 1."""
    seize, interrupt, wall = 0x4206, 0x4207, 0x40000000
    ptrace = ctypes.CDLL(None, use_errno=True).ptrace
    with Daemon("--ram", "8M", "--listen", f"127.0.0.1:{h.free_port()}", "--target", A) as d:
        if ptrace(seize, d.p.pid, None, None) or ptrace(interrupt, d.p.pid, None, None):
            d.end()
            raise h.Skip("no ptrace here")
        os.waitpid(d.p.pid, wall)
        t = time.monotonic()
        os.kill(d.p.pid, signal.SIGTERM)
        status = os.waitpid(d.p.pid, wall)[1]
        while os.WIFSTOPPED(status):
            status = os.waitpid(d.p.pid, wall)[1]
        d.p.returncode = os.waitstatus_to_exitcode(status)
        need(d.p.returncode == 1, f"status {d.p.returncode}")
        need(time.monotonic() - t < 5.5, "took longer than 5 s")


# --- identities --------------------------------------------------------------------------------------------------

def serial(port, lun):
    c = session(port, lun=lun)
    s = c.inquiry(0x80)
    c.logout()
    return s


def identities():
    """After kill -9 a file is the same disk, also under another relative path; a RAM disk is another disk."""
    port = h.free_port()
    with tempfile.TemporaryDirectory() as t:
        path = tmpfile(t)
        with Daemon("--file", path + ",size=8M", "--ram", "8M", "--listen", f"127.0.0.1:{port}", "--target", A) as d:
            first = [serial(port, l) for l in (0, 1)]
            d.p.kill()
            d.p.wait()
            d.args[1] = os.path.relpath(path)
            d.start()
            second = [serial(port, l) for l in (0, 1)]
        need(first[0] == second[0], "the file became another disk")
        need(first[1] != second[1], "the RAM disk did not become another disk")


def identity_new_file():
    """A file that the server makes anew at the same path is another disk."""
    port = h.free_port()
    with tempfile.TemporaryDirectory() as t:
        path, got = tmpfile(t), []
        for _ in range(2):
            with Daemon("--file", path + ",size=8M", "--listen", f"127.0.0.1:{port}", "--target", A, state=t + "/s"):
                got.append(serial(port, 0))
            os.unlink(path)
        need(got[0] != got[1], "a new file has the old file's identity")


def two_daemons():
    """Two quick servers share a state directory when their disks differ; the same volume of a configuration is served
    by one of them, and the other says why not and takes over when the first is gone."""
    p1, p2 = h.free_port(), h.free_port()
    with tempfile.TemporaryDirectory() as t:
        with Daemon("--ram", "8M", "--file", t + "/1,size=8M", "--listen", f"127.0.0.1:{p1}", state=t + "/s"), \
                Daemon("--ram", "8M", "--file", t + "/2,size=8M", "--listen", f"127.0.0.1:{p2}", state=t + "/s"):
            pass
        conf = [write(t, {"portals": [f"127.0.0.1:{p}"], "volumes": {"db": {"type": "file", "path": f"{t}/{p}", "size": "8M"}},
                          "targets": {A: {"luns": {"0": "db"}}}}, f"{p}.json") for p in (p1, p2)]
        one = Daemon("--config", conf[0], state=t + "/s")
        with Daemon("--config", conf[1], state=t + "/s") as two:
            two.wait_log(f"served by another lunetted pid {one.p.pid}")
            two.wait_log("--state")
            try:
                session(p2)
                raise RuntimeError("a volume is served twice")
            except iscsi.ScsiError:
                pass
            one.end()
            one.__exit__(None, None, None)
            two.wait_log("disk ready volume=db")
            session(p2).logout()


# --- configuration -----------------------------------------------------------------------------------------------

def write(d, conf, name="conf.json"):
    path = os.path.join(d, name)
    with open(path + ".new", "w") as f:
        json.dump(conf, f)
    os.rename(path + ".new", path)
    return path


def base(port, **more):
    return {"portals": [f"127.0.0.1:{port}"], "volumes": {"one": {"type": "ram", "size": "8M"}, "two": {"type": "ram", "size": "16M"}},
            "targets": {A: {"luns": {"0": "one"}}}, **more}


def reload_keeps_sessions():
    """SIGHUP: a session of a target that did not change goes on, on its connection, with its data; what was added
    is there, what was removed is gone with its sessions."""
    p1, p2 = h.free_port(), h.free_port()
    with tempfile.TemporaryDirectory() as t:
        c = base(p1)
        c["targets"][B] = {"luns": {"0": "two"}}
        conf = write(t, c)
        with Daemon("--config", conf) as d:
            keep, lose = session(p1, A), session(p1, B)
            keep.write(8, b"k" * 512)
            c = base(p1)
            c["portals"].append(f"127.0.0.1:{p2}")
            c["targets"][B + "2"] = {"luns": {"3": "two"}}
            write(t, c)
            d.hup()
            need(keep.read(8, 1) == b"k" * 512, "the data of the session that stayed is gone")
            session(p2, B + "2", lun=3).logout()
            closed(lose)
            try:
                session(p1, B)
                raise RuntimeError("a removed target accepts logins")
            except iscsi.LoginRefused:
                pass
            write(t, base(p1))
            d.hup()
            try:
                socket.create_connection(("127.0.0.1", p2), 2)
                raise RuntimeError("a removed portal listens")
            except ConnectionError:
                pass
            need(keep.read(8, 1) == b"k" * 512, "the session did not survive the second reload")


def reload_under_load():
    """Thirty reloads that add and remove another target and an address: the load on this one sees no error."""
    p1, p2 = h.free_port(), h.free_port()
    with tempfile.TemporaryDirectory() as t:
        c = base(p1)
        conf = write(t, c)
        with Daemon("--config", conf) as d:
            load = subprocess.Popen([CLI, "bench", "--json", "--rw", "randwrite", "--verify", "--time", "3", "--warmup", "0",
                                     "--depth", "8", f"iscsi://127.0.0.1:{p1}/{A}/0"], stdout=subprocess.PIPE, text=True)
            for i in range(30):
                c = base(p1)
                if i % 2:
                    c["portals"].append(f"127.0.0.1:{p2}")
                    c["targets"][B] = {"luns": {"0": "two"}}
                write(t, c)
                d.hup()
                time.sleep(0.08)  # the log keeps 20 equal lines a second
            got = json.loads(load.communicate(timeout=30)[0])
            need(load.returncode == 0 and got["errors"] == 0 and got["mismatches"] == 0 and got["ios"] > 0, str(got))


def reload_hung():
    """A target is removed while its disk hangs: later reloads apply all the same, and its name can be used again."""
    port = h.free_port()
    with tempfile.TemporaryDirectory() as t:
        c = base(port)
        c["volumes"]["slow"] = {"type": "ram", "size": "8M", "filters": [{"type": "delay", "time": "1h", "op": "write"}]}
        c["targets"][B] = {"luns": {"0": "slow"}}
        conf = write(t, c)
        with Daemon("--config", conf) as d:
            s = session(port, B)
            send_write(s)
            write(t, base(port))
            d.hup()
            c = base(port)
            c["targets"][B] = {"luns": {"0": {"volume": "two", "reuse": True}}}
            write(t, c)
            d.hup()
            n = session(port, B)
            need(n.capacity()[0] == (16 << 20) // 512 - 1, "the new target has the old disk")
            session(port, A).logout()
            d.p.kill()
            d.p.wait()


def reload_luns():
    """SIGHUP that adds a LUN: the session stays and hears REPORTED LUNS DATA HAS CHANGED (3F/0E); the LUN works."""
    port = h.free_port()
    with tempfile.TemporaryDirectory() as t:
        conf = write(t, base(port))
        with Daemon("--config", conf) as d:
            s = session(port)
            c = base(port)
            c["targets"][A]["luns"]["1"] = "two"
            write(t, c)
            d.hup()
            sense = attention(s)
            need(sense[2] & 15 == 6 and sense[12:14] == b"\x3f\x0e", f"sense {sense.hex()}")
            s.lun = 1
            s.ready()
            need(s.capacity()[0] == (16 << 20) // 512 - 1, "LUN 1 has another size")


def reload_invalid():
    """A file with an error changes nothing; the log names the place."""
    port = h.free_port()
    with tempfile.TemporaryDirectory() as t:
        conf = write(t, base(port))
        with Daemon("--config", conf) as d:
            s = session(port)
            for change, says in (({"targets": {A: {"luns": {"0": "nix"}}, B: {}}}, f"targets/{A}/luns/0: there is no volume 'nix'"),
                                 ({"portals": ["127.0.0.1:1"], "volumes": {"x": {"type": "ram"}}}, "volumes/x/size: is required"),
                                 ({"portals": [f"127.0.0.1:{port}", "192.0.2.77:3260"],
                                   "targets": {A: {"open": True}, B: {"open": True}}}, "portals/1/listen:")):
                write(t, {**base(port), **change})
                d.hup(says)
                need("nothing changed" in d.text(), "it does not say that nothing changed")
                s.read(0, 1)
                session(port, A).logout()
                try:
                    session(port, B)
                    raise RuntimeError("half of an invalid file was applied")
                except iscsi.LoginRefused:
                    pass
            with open(conf, "w") as f:
                f.write("portals: [\n")
            d.hup("line ")
            s.read(0, 1)


def reload_users():
    """SIGHUP that changes a secret: the session stays, new logins need the new secret."""
    port = h.free_port()
    with tempfile.TemporaryDirectory() as t:
        def conf(secret):
            c = base(port, users={"alice": secret})
            c["targets"][A]["users"] = ["alice"]
            return write(t, c)
        with Daemon("--config", conf("first-long-secret")) as d:
            s = session(port, user="alice", secret="first-long-secret")
            conf("second-long-secret")
            d.hup()
            s.read(0, 1)
            try:
                session(port, user="alice", secret="first-long-secret")
                raise RuntimeError("the old secret is accepted")
            except iscsi.LoginRefused:
                pass
            session(port, user="alice", secret="second-long-secret").logout()


def reload_ram():
    """SIGHUP that changes a RAM disk is refused: it would empty it. Another name gives a new one."""
    port = h.free_port()
    with tempfile.TemporaryDirectory() as t:
        c = base(port)
        conf = write(t, c)
        with Daemon("--config", conf) as d:
            s = session(port)
            s.write(4, b"x" * 512)
            c["volumes"]["one"]["size"] = "32M"
            write(t, c)
            d.hup("volumes/one: its contents would be lost")
            need(s.read(4, 1) == b"x" * 512, "the data is gone")
            c["volumes"]["bigger"] = c["volumes"].pop("one")
            c["targets"][A]["luns"]["0"] = "bigger"
            write(t, c)
            d.hup("this number was another disk's until lately")
            c["targets"][A]["luns"]["0"] = {"volume": "bigger", "reuse": True}
            write(t, c)
            d.hup()
            need(session(port).capacity()[0] == (32 << 20) // 512 - 1, "the new disk is not there")


def reload_disk():
    """SIGHUP that changes a disk's options reopens it: the file's lock passes from the old to the new."""
    port = h.free_port()
    with tempfile.TemporaryDirectory() as t:
        c = base(port)
        c["volumes"]["one"] = {"type": "file", "path": t + "/f", "size": "8M"}
        conf = write(t, c)
        with Daemon("--config", conf) as d:
            s = session(port)
            s.write(4, b"x" * 512)
            before = s.inquiry(0x80)
            c["volumes"]["one"]["bs"] = 4096
            write(t, c)
            d.hup()
            end = time.monotonic() + 10
            while True:
                try:
                    n = session(port)
                    break
                except iscsi.ScsiError:
                    need(time.monotonic() < end, "the disk never came back")
            need(n.capacity()[1] == 4096, "the block size did not change")
            need(n.inquiry(0x80) == before, "the identity changed")
            need(n.read(0, 1, bs=4096)[2048:2560] == b"x" * 512, "the data is gone")


def no_login(port, target, **kw):
    try:
        iscsi.Session("127.0.0.1", port, target, **kw)
    except iscsi.LoginRefused:
        return
    raise RuntimeError(f"{target or 'discovery'} accepts a login at {port} with {kw}")


def options_reach_the_wire():
    """What a file says of portals and targets is what initiators meet: groups, advertised addresses, digests,
    bursts, CHAP algorithms, discovery users."""
    p1, p2 = h.free_port(), h.free_port()
    c = base(p1, users={"alice": "alices-long-secret"})
    c["portals"].append({"listen": f"127.0.0.1:{p2}", "group": 2, "advertise": "192.0.2.9:3260"})
    c["discovery"] = {"users": ["alice"]}
    c["targets"][A].update({"groups": [1], "data-digest": "off", "max-burst": 65536, "first-burst": 8192, "initial-r2t": True,
                            "immediate-data": False, "alias": "first"})
    c["targets"][B] = {"luns": {"0": "two"}, "header-digest": "require"}
    c["targets"][B + "2"] = {"users": ["alice"], "chap": ["sha256"]}
    alice = {"user": "alice", "secret": "alices-long-secret"}
    with tempfile.TemporaryDirectory() as t, Daemon("--config", write(t, c)):
        s = iscsi.Session("127.0.0.1", p1, A, keys={"DataDigest": "CRC32C,None"})
        for k, v in (("DataDigest", "None"), ("MaxBurstLength", "65536"), ("InitialR2T", "Yes"), ("ImmediateData", "No"),
                     ("TargetAlias", "first"), ("TargetPortalGroupTag", "1")):
            need(s.params.get(k) == v, f"{k} is {s.params.get(k)}, not {v}")
        no_login(p2, A)
        no_login(p1, B)
        s = iscsi.Session("127.0.0.1", p2, B, keys={"HeaderDigest": "CRC32C"})
        need(s.hdigest and s.params["TargetPortalGroupTag"] == "2", str(s.params))
        no_login(p1, B + "2", **alice)
        no_login(p1, None)
        no_login(p1, None, user="alice", secret="wrong-long-secret")
        told = iscsi.Session("127.0.0.1", p1, **alice).send_targets()
        need("TargetAddress=192.0.2.9:3260,2" in told and f"TargetAddress=127.0.0.1:{p1},1" in told, str(told))
        need(f"TargetAddress=127.0.0.1:{p2},2" not in told, str(told))
        need({f"TargetName={n}" for n in (A, B, B + "2")} <= set(told), str(told))
        after = told[told.index(f"TargetName={A}") + 1:][:1]
        need(after == [f"TargetAddress=127.0.0.1:{p1},1"], f"{A} is told at {after}")


def rotated_secret():
    """A CHAP secret is rotated by SIGHUP: the old one gets in until its end and the log names who still uses it; the
    session that exists stays; without previous-secret the old one is refused."""
    port = h.free_port()
    old, new = ({"user": "alice", "secret": s} for s in ("the-old-long-secret", "the-new-long-secret"))
    c = base(port, users={"alice": old["secret"]})
    c["targets"][A]["users"] = ["alice"]
    with tempfile.TemporaryDirectory() as t, Daemon("--config", write(t, c)) as d:
        s = session(port, **old)
        c["users"]["alice"] = {"secret": new["secret"], "previous-secret": old["secret"], "previous-until": "2099-12-31"}
        write(t, c)
        d.hup()
        s.ready()
        session(port, **new).logout()
        need(" secret=previous" not in d.text(), "the new secret is taken for the old one")
        session(port, **old).logout()
        d.wait_log("user=alice secret=previous", seconds=5)
        c["users"]["alice"]["previous-until"] = "2020-01-01"
        write(t, c)
        d.hup()
        no_login(port, A, **old)
        d.wait_log("previous secret, which is no longer valid", seconds=5)
        session(port, **new).logout()
        s.ready()


def guessed_secrets():
    """Who guesses secrets is answered later and later, and fills no log; a right secret from the same address does not
    wait for it."""
    port = h.free_port()
    alice = {"user": "alice", "secret": "alices-long-secret"}
    c = base(port, users={"alice": alice["secret"]})
    c["targets"][A]["users"] = ["alice"]
    done = []

    def guess():
        no_login(port, A, user="alice", secret="a-wrong-long-secret")
        done.append("guess")
    with tempfile.TemporaryDirectory() as t, Daemon("--config", write(t, c)) as d:
        for _ in range(6):
            guess()
        waiting = [threading.Thread(target=guess) for _ in range(20)]
        for w in waiting:
            w.start()
        session(port, **alice).logout()
        done.append("right")
        for w in waiting:
            w.join()
        need(done.count("guess") == 26, f"{done}")
        need(done.index("right") < 12, f"a right secret waited for wrong ones: {done}")
        lines = d.text().count("login refused")
        need(lines <= 8 + 20, f"{lines} refusals are logged")
        for _ in range(3):
            guess()
        need(d.text().count("login refused") == lines, "the log of one client's guesses has no end")
        c["server"] = {"login-delay": "0s"}
        write(t, c)
        d.hup()
        guess()


def client_limits():
    """One address gets no more connections than it may have, and is told so; another one is not touched; a limit over
    all holds for both; the log names the option."""
    port = h.free_port()
    c = base(port)
    c["portals"].append({"listen": f"[::1]:{port}"})
    c["server"] = {"max-connections-per-client": 2}
    with tempfile.TemporaryDirectory() as t, Daemon("--config", write(t, c)) as d:
        held = [session(port), session(port)]
        try:
            session(port)
            raise RuntimeError("a third connection of one client is accepted")
        except iscsi.LoginRefused as e:
            need(e.status == 0x302, f"status {e.status:04x}")
        d.wait_log("max-connections-per-client", seconds=5)
        other = iscsi.Session("::1", port, A)
        held.pop().logout()
        held.append(session(port))
        c["server"] = {"max-connections": 3}
        write(t, c)
        d.hup()
        try:
            iscsi.Session("::1", port, A)
            raise RuntimeError("a connection beyond max-connections is accepted")
        except OSError:
            pass
        d.wait_log("raise max-connections or the limit of open files", seconds=5)
        other.ready()
        for s in held:
            s.ready()


def four_errors():
    """The four errors that administrators of initiators see most (CHAP failed, no portals found, SCSI timeout, path checker
    failed), made on purpose: each time the server's log names the cause and what to do."""
    port = h.free_port()
    c = base(port, users={"alice": "alices-long-secret"})
    c["volumes"]["slow"] = {"type": "ram", "size": "8M", "filters": [{"type": "delay", "time": "1h", "op": "write"}]}
    c["targets"][A]["users"] = ["alice"]
    with tempfile.TemporaryDirectory() as t:
        c["volumes"]["late"] = {"type": "file", "path": t + "/not-there"}
        c["targets"][B] = {"luns": {"0": "slow", "1": "late"}, "initiators": ["iqn.2025-01.test.lunette:*"]}
        d = Daemon("--config", write(t, c))
        try:
            no_login(port, A, user="alice", secret="a-wrong-long-secret")
            d.wait_log("reason=\"wrong secret for user 'alice'\"", seconds=5)
            s = iscsi.Session("127.0.0.1", port, initiator="iqn.2025-01.test.somebody:else")
            need(s.send_targets(B) in ([""], []), "a target is told that is not open")
            d.wait_log("discovery finds no target", seconds=5)
            need("look at groups, initiators, clients and users" in d.text(), "the log does not say where to look")
            d.wait_log("disk not ready volume=late reason=", seconds=5)
            need("does not exist: check the path" in d.text(), "the log does not say why the path checker fails")
            s = session(port, B)
            tag = s.command(struct.pack(">BBQIBB", 0x8a, 0, 0, 1, 0, 0), out=b"x" * 512)
            session(port, B).logout()
            s.send(iscsi.TMF, 0x81, words=struct.pack(">III", tag, s.cmdsn, s.expstatsn), immediate=True)
            d.wait_log("command aborted volume=slow", seconds=5)
            need("the disk below the volume is slow or hangs" in d.text(), "the log does not say why the command timed out")
        finally:
            d.p.kill()
            d.p.wait()


def late_disk():
    """A disk of a file that cannot be opened: its LUN is not ready, the others are served; it comes alive."""
    port = h.free_port()
    with tempfile.TemporaryDirectory() as t:
        c = base(port)
        c["volumes"]["one"] = {"type": "file", "path": t + "/late"}
        c["targets"][A]["luns"]["1"] = "two"
        with Daemon("--config", write(t, c)) as d:
            session(port, lun=1).logout()
            s = iscsi.Session("127.0.0.1", port, A)
            sense = bytes(18)
            for _ in range(8):
                try:
                    s.scsi(bytes(6))
                    raise RuntimeError("a disk without a file is ready")
                except iscsi.ScsiError as e:
                    sense = e.sense
                    if sense[2] & 15 == 2:
                        break
            need(sense[2] & 15 == 2 and sense[12] == 4, f"sense {sense.hex()}, not 02/04")
            need("late" in d.cli("status")[1], "status does not say why")
            tmpfile(t, "late", 4 << 20)
            d.wait_log("disk ready volume=one", seconds=5)
            s.ready()
            need(s.capacity()[0] == (4 << 20) // 512 - 1, "wrong capacity")


def file_grows():
    """A file that grows is noticed: unit attention CAPACITY DATA HAS CHANGED (2A/09), then the new size."""
    port = h.free_port()
    with tempfile.TemporaryDirectory() as t:
        path = tmpfile(t, size=4 << 20)
        with Daemon("--file", path, "--listen", f"127.0.0.1:{port}", "--target", A) as d:
            s = session(port)
            os.truncate(path, 8 << 20)
            d.wait_log("disk capacity", seconds=5)
            sense = attention(s)
            need(sense[2] & 15 == 6 and sense[12:14] == b"\x2a\x09", f"sense {sense.hex()}")
            need(s.capacity()[0] == (8 << 20) // 512 - 1, "the size is the old one")


# --- asking ------------------------------------------------------------------------------------------------------

def grown_by_configuration():
    """A size that becomes more in the configuration: the disk grows while it is in use, keeps its data and its session,
    and says so (2A/09); it grows at a start too; less than the file has is refused
    and leaves the disk in use."""
    port = h.free_port()
    with tempfile.TemporaryDirectory() as t:
        c = base(port)
        c["volumes"]["one"] = {"type": "file", "path": t + "/disk", "size": "4MiB"}
        with Daemon("--config", write(t, c)) as d:
            s = session(port)
            s.write(0, b"x" * 512)
            c["volumes"]["one"]["size"] = "6MiB"
            write(t, c)
            d.hup()
            need(tuple(attention(s)[12:14]) == (0x2a, 9), "CAPACITY DATA HAS CHANGED is not told")
            need(s.capacity()[0] == (6 << 20) // 512 - 1, f"capacity {s.capacity()}")
            need(s.read(0, 1) == b"x" * 512, "the data is gone")
            s.write((6 << 20) // 512 - 1, b"y" * 512)
            c["volumes"]["one"]["size"] = "5MiB"
            write(t, c)
            d.hup("nothing changed: volumes/one/size")
            need(s.read((6 << 20) // 512 - 1, 1) == b"y" * 512, "a size that is less took the disk from its session")
        c["volumes"]["one"]["size"] = "8MiB"
        with Daemon("--config", write(t, c)) as d:
            need(session(port).capacity()[0] == (8 << 20) // 512 - 1, "it did not grow at the start")
        c["volumes"]["one"]["size"] = "5MiB"
        with Daemon("--config", write(t, c)) as d:
            d.wait_log("a disk that shrinks would lose its end", seconds=5)


def grown_with_checksums():
    """A file with an integrity store grows by the configuration too: it is opened anew, and keeps its data and identity."""
    port = h.free_port()
    with tempfile.TemporaryDirectory() as t:
        c = base(port)
        c["volumes"]["one"] = {"type": "file", "path": t + "/disk", "size": "4MiB", "integrity": t + "/sums"}
        with Daemon("--config", write(t, c)) as d:
            s = session(port)
            serial = s.inquiry(0x80)
            s.write(0, b"x" * 512)
            c["volumes"]["one"]["size"] = "6MiB"
            write(t, c)
            d.hup()
            d.wait_log("disk ready", seconds=5)
            s.ready()
            need(s.capacity()[0] == (6 << 20) // 512 - 1, f"capacity {s.capacity()}")
            need(s.inquiry(0x80) == serial, "another identity")
            need(s.read(0, 1) == b"x" * 512, "the data is gone")
            s.write((6 << 20) // 512 - 1, b"y" * 512)
            need(s.read((6 << 20) // 512 - 1, 1) == b"y" * 512, "the new end does not keep data")


def asking():
    """lunette status and sessions, --json, kick; exit statuses 2, 3 and 7."""
    port = h.free_port()
    with Daemon("--ram", "8M", "--listen", f"127.0.0.1:{port}", "--target", A) as d:
        s = session(port, initiator="iqn.2025-01.test.lunette:someone")
        rc, out, err = d.cli("status")
        need(rc == 0 and A in out and "8MiB" in out, f"status: {rc} {out} {err}")
        rc, out, err = d.cli("--json", "sessions")
        got = json.loads(out)["sessions"]
        need(len(got) == 1 and got[0]["initiator"].endswith(":someone") and got[0]["target"] == A, out)
        need(got[0]["peer"].startswith("127.0.0.1:") and got[0]["parameters"]["header_digest"] == "None", out)
        need("someone" in d.cli("sessions")[1], "sessions does not name the initiator")
        need(d.cli("sessions", "kick", "999999")[0] == 3, "an unknown session: not status 3")
        need(d.cli("sessions", "kick", "x")[0] == 2, "wrong usage: not status 2")
        need(d.cli("frob")[0] == 2, "an unknown command: not status 2")
        need(d.cli("sessions", "kick", str(got[0]["id"]))[0] == 0, "kick failed")
        try:
            s.read(0, 1)
            raise RuntimeError("the session lives")
        except (iscsi.Closed, OSError):
            pass
        r = subprocess.run([CLI, "-S", d.dir + "/nobody", "status"], capture_output=True, text=True, timeout=10)
        need(r.returncode == 7 and "lunetted" in r.stderr, f"no daemon: {r.returncode} {r.stderr}")
        mode = os.stat(d.sock).st_mode & 0o777
        need(mode == 0o600, f"others may open the socket: {mode:o}")
        d.end()
        need(not os.path.exists(d.sock), "the socket stays behind")


def asking_hostile():
    """Nonsense on the control socket ends nothing; a socket that a dead daemon left is taken over."""
    port = h.free_port()
    with Daemon("--ram", "8M", "--listen", f"127.0.0.1:{port}", "--target", A) as d:
        for junk in (b"\0" * 5000, b"GET / HTTP/9.9\r\n\r\n", b"GET /api/v1/status HTTP/1.1\r\nHost: x\r\n",
                     b"POST /api/v1/sessions HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello", b"GET " + b"a" * 100000):
            c = socket.socket(socket.AF_UNIX)
            c.settimeout(5)
            c.connect(d.sock)
            try:
                c.sendall(junk)
                c.shutdown(socket.SHUT_WR)
                c.recv(4096)
            except OSError:
                pass
            c.close()
        need(d.cli("status")[0] == 0, "the daemon does not answer any more")
        d.p.kill()
        d.p.wait()
        d.start()
        need(d.cli("status")[0] == 0, "the socket was not taken over")


def protect_inside():
    """Run in a network namespace of its own: 0.0.0.0 without --chap and --open makes a secret and prints it."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with Daemon("--ram", "8M", "--listen", "0.0.0.0:3260", "--target", A) as d:
        m = re.search(r"user lunette .*secret (\S+)", d.text())
        need(m and len(m[1]) >= 12, f"no secret was printed: {d.text()}")
        try:
            session(3260)
            raise RuntimeError("a login without a password is accepted")
        except iscsi.LoginRefused:
            pass
        session(3260, user="lunette", secret=m[1]).logout()
    with Daemon("--ram", "8M", "--listen", "0.0.0.0:3260", "--target", A, "--open"):
        session(3260).logout()
    refuse = subprocess.run([DAEMON, "--config", write(tempfile.gettempdir(), {"portals": ["0.0.0.0"], "targets": {A: {}}},
                             f"lunette-open-{os.getpid()}.json"), "--check"], capture_output=True, text=True)
    os.unlink(os.path.join(tempfile.gettempdir(), f"lunette-open-{os.getpid()}.json"))
    need(refuse.returncode == 1 and "password" in refuse.stderr, f"open to all without a word: {refuse.stderr}")


def protect():
    """An address that others reach is not served without a password unless --open says so."""
    cmd = ["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-rn"]
    if subprocess.run([*cmd, "true"], capture_output=True).returncode or not shutil.which("ip"):
        rep.skip("protect", "no network namespaces here")
        return
    r = subprocess.run([*cmd, sys.executable, __file__, "--inside"], capture_output=True, text=True, timeout=60)
    need(r.returncode == 0, h.tail(r.stdout + r.stderr))


CASES = [ready_once, notify, howto, port_in_use, bad_address, missing_file, locked_file, bad_iqn, wrong_usage, information,
         drain, drain_hangs, drain_stuck, identities, identity_new_file, two_daemons, reload_keeps_sessions, reload_under_load, reload_hung, reload_luns, reload_invalid,
         reload_users, reload_ram, reload_disk, options_reach_the_wire, rotated_secret, four_errors, guessed_secrets, client_limits, late_disk, file_grows, grown_by_configuration, grown_with_checksums, asking, asking_hostile, protect]

if __name__ == "__main__":
    if sys.argv[1:] == ["--inside"]:
        protect_inside()
        sys.exit(0)
    if not os.path.exists(DAEMON):
        rep.skip("all", "not built")
        sys.exit(rep.status())
    for fn in CASES:
        if len(sys.argv) < 2 or fn.__name__ in sys.argv[1:]:
            rep.case(fn.__name__.replace("_", "-"), fn)
    sys.exit(rep.status())
