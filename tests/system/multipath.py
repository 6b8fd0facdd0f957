#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Several paths and several hosts: access states as an administrator sets them, what fence_scsi sends from two nodes, locks
by COMPARE AND WRITE from two hosts, and sizes: 10,000 LUNs, 64 portals, a disk of 1 PiB."""
import json, os, shutil, signal, struct, subprocess, sys, tempfile, threading, time
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
import harness as h
import iscsi

rep = h.Report("system/multipath/")
DAEMON = os.environ.get("LUNETTED") or os.path.join(h.flavour_dir("release"), "src/lunetted/lunetted")
CLI = os.environ.get("LUNETTE") or os.path.join(os.path.dirname(DAEMON), "../lunette/lunette")
IQN = "iqn.2025-01.test.lunette:disk"
CONFLICT = 0x18
REGISTER, RESERVE, RELEASE, CLEAR, PREEMPT_ABORT, IGNORE = 0, 1, 2, 3, 5, 6
WERO = 5  # write exclusive, registrants only: what fence_scsi takes


def need(what, why):
    if not what:
        raise RuntimeError(why)


class Server:
    """lunetted with a configuration of our own and as many portals as there are groups."""

    def __init__(self, conf, groups=2, state=None):
        self.dir = tempfile.mkdtemp(prefix="lunette-paths-")
        self.sock, self.conf = self.dir + "/control.sock", conf
        self.ports = {g: h.free_port() for g in range(1, groups + 1)}
        conf["portals"] = [{"listen": f"127.0.0.1:{p}", "group": g} for g, p in self.ports.items()]
        self.start()

    def write(self):
        with open(self.dir + "/conf.json", "w") as f:
            json.dump(self.conf, f)

    def start(self):
        self.write()
        self.log = open(self.dir + "/log", "a+")
        self.p = subprocess.Popen([DAEMON, "--config", self.dir + "/conf.json", "--state", self.dir + "/state", "--socket",
                                   self.sock], stdout=subprocess.PIPE, stderr=self.log, text=True,
                                  preexec_fn=h.die_with_parent)
        line = self.p.stdout.readline()
        need(line == "ready\n", f"first line is {line!r}: {h.tail(self.text(), 2)}")

    def text(self):
        with open(self.dir + "/log") as f:
            return f.read()

    def reload(self, says="configuration applied"):
        self.write()
        since = len(self.text())
        self.p.send_signal(signal.SIGHUP)
        for _ in range(3000):
            if says in self.text()[since:]:
                return
            time.sleep(0.01)
        raise RuntimeError(f"the log never said {says!r}: " + h.tail(self.text()))

    def stop(self, sig=signal.SIGTERM):
        self.p.send_signal(sig)
        rc = self.p.wait(30)
        self.p.stdout.close()
        self.log.close()
        return rc

    def cli(self, *args):
        r = subprocess.run([CLI, "-S", self.sock, *args], capture_output=True, text=True, timeout=60)
        return r.returncode, r.stdout, r.stderr

    def paths(self):
        rc, out, err = self.cli("--json", "paths")
        need(rc == 0, err)
        return {(l["lun"], g["group"]): g["access"] for l in json.loads(out)["paths"] for g in l["groups"]}

    def login(self, group=1, node="a", lun=0, ready=True):
        isid = 0x80 << 40 | ord(node[0]) << 8 | group
        c = iscsi.Session("127.0.0.1", self.ports[group], IQN, lun=lun, isid=isid,
                          initiator=f"iqn.2025-01.test.lunette:{node}")
        if ready:
            c.ready()
        return c

    def __enter__(self):
        return self

    def __exit__(self, kind, exc, tb):
        rc = self.stop() if self.p.poll() is None else 0
        if kind is None:
            need(rc == 0, f"the server ended with {rc}: {h.tail(self.text())}")


def disk(**more):
    return {"volumes": {"v": {"type": "ram", "size": "16MiB", "serial": "one"}},
            "targets": {IQN: {"luns": {"0": "v"}, "alua": "both", **more}}}


def fails(fn, want):
    """fn ends with that status, or that (key, asc, ascq)."""
    try:
        fn()
    except iscsi.ScsiError as e:
        got = e.status if isinstance(want, int) else (e.key, e.asc, e.ascq)
        need(got == want, f"ended with {got}, not {want}")
        return
    raise RuntimeError(f"ended with GOOD, not {want}")


# --- access states

def groups_of(c):
    d = c.scsi(bytes([0xA3, 0x2A, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0]), want=1024)
    n, out = struct.unpack(">I", d[:4])[0] + 4, {}
    for at in range(8, n, 12):
        out[struct.unpack(">H", d[at + 2:at + 4])[0]] = (d[at] & 15, d[at] >> 7)
    return out


def states():
    """Set by the administrator: told to every host, obeyed on the path it concerns, there after a restart and after a
    crash, until the configuration says something else (SPC-4 5.16.2)."""
    with Server(disk(paths={"2": "non-optimized"})) as s:
        one, two = s.login(1), s.login(2)
        need(groups_of(one) == {1: (0, 0), 2: (1, 0)}, f"groups {groups_of(one)}")
        need(one.inquiry(0x83)[4:60] == two.inquiry(0x83)[4:60], "the disk has two identities")
        rc, _, err = s.cli("paths", "set", "v", "2", "standby", "preferred")
        need(rc == 0, err)
        fails(lambda: two.scsi(bytes(6)), (6, 0x2A, 0x06))
        fails(lambda: two.scsi(bytes(6)), (2, 0x04, 0x0B))
        fails(lambda: two.write(0, bytes(512)), (2, 0x04, 0x0B))
        fails(lambda: one.scsi(bytes(6)), (6, 0x2A, 0x06))
        one.write(0, b"x" * 512)
        need(groups_of(one) == {1: (0, 0), 2: (2, 1)}, f"groups {groups_of(one)}")
        for sig in (signal.SIGTERM, signal.SIGKILL):
            s.stop(sig)
            s.start()
            one, two = s.login(1), s.login(2, ready=False)
            need(groups_of(one) == {1: (0, 0), 2: (2, 1)}, f"after signal {sig}: groups {groups_of(one)}")
        s.conf["targets"][IQN]["paths"]["2"] = "unavailable"
        s.reload()
        for _ in range(500):  # groups drain while the reload is through already
            one.ready()
            if groups_of(one) == {1: (0, 0), 2: (3, 0)}:
                break
            time.sleep(0.01)
        one.ready()
        need(groups_of(one) == {1: (0, 0), 2: (3, 0)}, f"after a reload: groups {groups_of(one)}")
        need(s.paths() == {(0, 1): "optimized", (0, 2): "unavailable"}, f"{s.paths()}")
        need(s.cli("paths", "set", "v", "7", "standby")[0] == 3, "a group that is not there was set")
        need(s.cli("paths", "set", "w", "1", "standby")[0] == 3, "a volume that is not there was set")
        need(s.cli("paths", "set", "v", "1", "asleep")[0] == 2, "a state that is not there was set")


def fail_over():
    """A host with two paths, one of which is lost: the host moves the disk over with SET TARGET PORT GROUPS and goes on."""
    with Server(disk(paths={"2": "standby"})) as s:
        one, two = s.login(1), s.login(2, ready=False)
        one.write(7, b"a" * 512)
        one.s.close()
        fails(lambda: two.scsi(bytes(6)), (6, 0x29, 0x00))
        fails(lambda: two.read(7, 1), (2, 0x04, 0x0B))
        two.scsi(bytes([0xA4, 0x0A, 0, 0, 0, 0, 0, 0, 0, 12, 0, 0]), struct.pack(">IBBHBBH", 0, 0, 0, 2, 2, 0, 1))
        need(two.read(7, 1) == b"a" * 512, "what was written through the other path is not there")
        two.write(8, b"b" * 512)
        need(groups_of(two) == {1: (2, 0), 2: (0, 0)}, f"groups {groups_of(two)}")


def per_lun():
    """Each LUN has states of its own; a disk that two targets show differently is refused with the reason."""
    conf = disk(paths={"2": "standby"})
    conf["volumes"]["w"] = {"type": "ram", "size": "1MiB", "serial": "two"}
    conf["targets"][IQN]["luns"]["1"] = {"volume": "w", "paths": {"1": "standby", "2": "optimized"}}
    with Server(conf) as s:
        need(s.paths() == {(0, 1): "optimized", (0, 2): "standby", (1, 1): "standby", (1, 2): "optimized"}, f"{s.paths()}")
        s.login(1).write(0, bytes(512))
        s.login(2, lun=1).write(0, bytes(512))
        conf["targets"]["iqn.2025-01.test.lunette:other"] = {"luns": {"0": "w"}}
        s.write()
        r = subprocess.run([DAEMON, "--check", "--config", s.dir + "/conf.json"], capture_output=True, text=True, timeout=20)
        need(r.returncode and "other paths in target" in r.stderr + r.stdout, f"was not refused: {r.stdout}{r.stderr}")


def lun_rest():
    """A LUN number given up is not another disk's for a while: a reload that gives it away is refused and says how to have
    it, a restart serves everything but that LUN until the number has rested; SPC-4 has no way to tell a host that is away."""
    conf = {"volumes": {}, "server": {"lun-rest": "3s"}, "targets": {IQN: {"luns": {"0": "v", "1": "w"}}}}
    with tempfile.TemporaryDirectory() as t:
        for v in ("v", "w"):
            conf["volumes"][v] = {"type": "file", "path": f"{t}/{v}", "size": "1MiB"}
        with Server(conf) as s:
            luns = conf["targets"][IQN]["luns"]
            luns["0"], luns["1"] = "w", "v"
            try:
                s.reload("configuration refused")
            finally:
                need("reuse: on" in s.text(), "the refusal does not say how")
            s.stop()
            s.start()
            need("LUN not served yet" in s.text(), "the log does not say what is missing")
            c = s.login(ready=False)
            fails(lambda: c.scsi(bytes(6)), (5, 0x25, 0))
            for _ in range(800):
                if len(s.paths()) == 4:
                    break
                time.sleep(0.01)
            need(len(s.paths()) == 4, "the LUNs never came")
            c.ready()


def entry():
    """multipath-tools take the entry that we ship, and group by ALUA's priorities."""
    tool = shutil.which("multipath") or "/usr/sbin/multipath"
    if os.geteuid() or not os.path.exists(tool) or not os.path.isdir("/etc"):
        raise h.Skip("needs root and multipath-tools")
    with tempfile.TemporaryDirectory() as t:
        os.mkdir(t + "/conf.d")
        shutil.copy(os.path.join(h.ROOT, "dist/multipath/lunette.conf"), t + "/conf.d/")
        made = not os.path.isdir("/etc/multipath")
        if made:
            os.mkdir("/etc/multipath")
        try:  # in a mount namespace of its own
            r = h.run(["unshare", "-m", "sh", "-c", f"mount --bind {t} /etc/multipath && {tool} -t"], 30)
        finally:
            if made:
                os.rmdir("/etc/multipath")
    if "Operation not permitted" in r.stdout:
        raise h.Skip("mount namespaces are not allowed here")
    at = r.stdout.find('vendor "LUNETTE"')
    need(at > 0, "the entry is not taken: " + h.tail(r.stdout))
    mine = r.stdout[at:r.stdout.find("}", at)]
    need('path_grouping_policy "group_by_prio"' in mine and 'prio "alua"' in mine and "no_path_retry 12" in mine, mine)


# --- two nodes

def pr_out(c, action, kind=0, key=0, new=0):
    c.scsi(bytes([0x5F, action, kind, 0, 0, 0, 0, 0, 24]), struct.pack(">QQ4xB3x", key, new, 0))


def keys(c):
    d = c.scsi(bytes([0x5E, 0, 0, 0, 0, 0, 0, 0, 255]), want=255)
    n = struct.unpack(">I", d[4:8])[0] // 8
    return sorted(struct.unpack(f">{n}Q", d[8:8 + 8 * n]))


def fence():
    """fence_scsi as Pacemaker runs it on two nodes with two paths each: on, monitor, off, on again. Who is fenced cannot
    write through any path and is told; who fenced goes on; reads stay allowed (SPC-4 table 65, 5.13.11.2.6)."""
    with Server(disk()) as s:
        a, b = [s.login(1, "a"), s.login(2, "a")], [s.login(1, "b"), s.login(2, "b")]
        for path in a + b:  # on: sg_persist -o -I -S KEY on each path, then -o -R -T 5 -K KEY by the first
            pr_out(path, IGNORE, new=0xA if path in a else 0xB)
        pr_out(a[0], RESERVE, WERO, 0xA)
        fails(lambda: pr_out(b[0], RESERVE, WERO, 0xB), CONFLICT)
        for path in a + b:
            path.write(0, bytes(512))
        need(keys(b[0]) == [0xA, 0xA, 0xB, 0xB], f"monitor sees {keys(b[0])}")
        pr_out(a[0], PREEMPT_ABORT, WERO, 0xA, 0xB)  # off: sg_persist -o -A -T 5 -K KEY -S VICTIM
        need(keys(a[1]) == [0xA, 0xA], f"after off: {keys(a[1])}")
        for path in b:
            fails(lambda: path.scsi(bytes(6)), (6, 0x2A, 0x05))
            path.scsi(bytes(6))
            fails(lambda: path.write(1, b"z" * 512), CONFLICT)
            path.read(0, 1)
        for path in a:
            path.write(1, b"a" * 512)
        for path in b:  # unfenced
            pr_out(path, IGNORE, new=0xB)
            path.write(1, b"b" * 512)
        rc, out, err = s.cli("reservations")
        need(rc == 0 and out.count("iqn.2025-01.test.lunette:") == 8 and "registrants only" in out, out + err)
        rc, _, err = s.cli("reservations", "clear", "v")
        need(rc == 0, err)
        fails(lambda: b[0].scsi(bytes(6)), (6, 0x2A, 0x03))
        need(keys(b[0]) == [], "keys are left")


def changed_disk():
    """A disk whose options change is opened anew, and still keeps out whom a reservation keeps out, though it was not to
    survive a power loss; no REGISTER that was acknowledged while the configuration changed is missing afterwards."""
    with Server(disk()) as s:
        s.conf["volumes"]["v"] = {"type": "file", "path": s.dir + "/disk", "size": "16MiB"}
        s.stop()
        s.start()
        a, b, c = s.login(1, "a"), s.login(2, "b"), s.login(1, "c")
        pr_out(a, IGNORE, new=0xA)
        pr_out(a, RESERVE, WERO, 0xA)
        acked, over = [], threading.Event()

        def register():
            key = 0x100
            while not over.is_set():
                key += 1
                try:
                    pr_out(c, IGNORE, new=key)
                    acked.append(key)
                except iscsi.ScsiError as e:
                    need(e.status == 8 or e.key == 6, f"REGISTER ended with {e}")

        t = threading.Thread(target=register)
        t.start()
        for wce in ("off", "on") * 4:
            s.conf["volumes"]["v"]["wce"] = wce
            s.reload()
            time.sleep(0.05)
        over.set()
        t.join(20)
        for _ in range(200):
            try:
                a.ready()
                break
            except iscsi.ScsiError:
                time.sleep(0.02)
        b.ready()
        need(sorted(keys(a)) == [0xA, acked[-1]], f"keys {keys(a)}, acknowledged {acked[-1]:x}")
        fails(lambda: b.write(0, bytes(512)), CONFLICT)
        a.write(0, bytes(512))
        return f"{len(acked)} registrations over 8 reloads"


def fence_running_io():
    """A write that is under way when its node is fenced has ended, done or aborted, before the answer to PREEMPT AND ABORT;
    afterwards nothing of it changes the disk."""
    with Server(disk()) as s:
        a, b = s.login(1, "a"), s.login(2, "b")
        for round_ in range(12):
            pr_out(a, IGNORE, new=0xA)
            pr_out(b, IGNORE, new=0xB)
            pr_out(a, RESERVE, WERO, 0xA)
            for i in range(16):
                b.command(struct.pack(">BBQIBB", 0x8A, 0, 64 * i, 64, 0, 0), bytes([round_ + 1]) * 32768)
            pr_out(a, PREEMPT_ABORT, WERO, 0xA, 0xB)
            first = a.read(0, 1024)
            a.write(0, bytes([0xEE]) * 32768)
            time.sleep(0.02)
            need(a.read(0, 1024) == bytes([0xEE]) * 32768 + first[32768:], "a fenced write changed the disk")
            b.s.close()
            pr_out(a, CLEAR, key=0xA)
            b = s.login(2, "b")
            a.ready()


def ats():
    """Two hosts take turns at a lock block by COMPARE AND WRITE, as VMFS does: none of their increments is lost."""
    with Server(disk()) as s:
        hosts, errors = [s.login(1, "a"), s.login(2, "b")], []
        hosts[0].write(9, bytes(512))

        def host(c):
            try:
                done = 0
                while done < 150:
                    old = c.read(9, 1)
                    new = struct.pack(">Q", struct.unpack(">Q", old[:8])[0] + 1).ljust(512, b"\0")
                    try:
                        c.scsi(struct.pack(">BBQ3xBBB", 0x89, 0, 9, 1, 0, 0), old + new)
                        done += 1
                    except iscsi.ScsiError as e:
                        need(e.key == 0xE, f"ended with {e}")
            except Exception as e:  # noqa: told below
                errors.append(e)

        t = [threading.Thread(target=host, args=(c,)) for c in hosts]
        [x.start() for x in t]
        [x.join(60) for x in t]
        need(not errors, errors)
        n = struct.unpack(">Q", hosts[0].read(9, 1)[:8])[0]
        need(n == 300, f"{n} increments of 300 are left")


# --- sizes

def portals():
    """64 portals, each a group of its own: every one takes a login, and the report has all."""
    with Server(disk(), groups=64) as s:
        for g in (1, 17, 64):
            c = s.login(g)
            need(sorted(groups_of(c)) == list(range(1, 65)), f"groups {sorted(groups_of(c))}")
            c.close()
        for g in range(1, 65):
            iscsi.Session("127.0.0.1", s.ports[g], IQN).close()


def pebibyte():
    """1 PiB, sparse: READ CAPACITY (16) is right, (10) says it cannot tell, the last block is written and read, one further
    is refused; it costs no memory worth the name."""
    with Server({"volumes": {"v": {"type": "ram", "size": "1PiB"}}, "targets": {IQN: {"luns": {"0": "v"}}}}) as s:
        c = s.login()
        last, bs = c.capacity()
        need((last + 1) * bs == 1 << 50, f"capacity {last} x {bs}")
        need(c.scsi(bytes([0x25]) + bytes(9), want=8)[:4] == b"\xff" * 4, "READ CAPACITY (10) does not say too large")
        c.write(last, b"e" * 512)
        need(c.read(last, 1) == b"e" * 512 and c.read(last - 1, 1) == bytes(512), "the last blocks differ")
        fails(lambda: c.read(last, 2), (5, 0x21, 0x00))
        c.flush()
        with open(f"/proc/{s.p.pid}/status") as f:
            rss = [int(l.split()[1]) for l in f if l.startswith("VmRSS")][0]
        return f"{rss >> 10} MiB resident"


def many_luns(n=10000):
    """10,000 LUNs on one target: the daemon starts, REPORT LUNS has them all, numbers beyond 255 do I/O, one more comes
    with a reload and is told (3F/0E), and what was given up is gone."""
    conf = {"volumes": {f"v{i}": {"type": "ram", "size": "1MiB"} for i in range(n)},
            "targets": {IQN: {"luns": {str(i): f"v{i}" for i in range(n)}}}}
    t0 = time.monotonic()
    with Server(conf) as s:
        started = time.monotonic() - t0
        c = s.login()
        t0 = time.monotonic()
        d = c.scsi(bytes([0xA0, 0, 0, 0, 0, 0]) + struct.pack(">I", 8 * n + 64) + bytes(2), want=8 * n + 64)
        listed = time.monotonic() - t0
        need(struct.unpack(">I", d[:4])[0] == 8 * n, f"{struct.unpack('>I', d[:4])[0] // 8} LUNs")
        need(d[8 + 8 * 300:16 + 8 * 300] == struct.pack(">H6x", 0x4000 | 300), "LUN 300 is not in flat space form")
        far = s.login(2, lun=n - 1)
        far.write(5, b"f" * 512)
        need(far.read(5, 1) == b"f" * 512, "the last LUN has lost a block")
        conf["volumes"]["new"] = {"type": "ram", "size": "2MiB"}
        conf["targets"][IQN]["luns"][str(n)] = "new"
        del conf["targets"][IQN]["luns"]["77"], conf["volumes"]["v77"]
        t0 = time.monotonic()
        s.reload()
        reloaded = time.monotonic() - t0
        fails(lambda: c.scsi(bytes(6)), (6, 0x3F, 0x0E))
        s.login(lun=n, node="b").write(1, bytes(512))
        fails(lambda: s.login(2, lun=77, node="c"), (5, 0x25, 0x00))
        return f"start {started:.2f} s, REPORT LUNS {listed * 1000:.0f} ms, reload {reloaded:.2f} s"


def main():
    if not h.binaries_there():
        rep.fail("binaries", "lunetted was not built")
        return rep.status()
    for name, fn in (("states", states), ("fail-over", fail_over), ("per-lun", per_lun), ("lun-rest", lun_rest), ("multipath-tools", entry), ("fence_scsi", fence),
                     ("changed-disk", changed_disk), ("fence-running-io", fence_running_io), ("ats-two-hosts", ats), ("64-portals", portals),
                     ("1-PiB", pebibyte), ("10000-luns", many_luns)):
        rep.case(name, fn)
    return rep.status()


sys.exit(main())
