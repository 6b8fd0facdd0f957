#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""The network as it is: far away, full of idle sessions, out of descriptors, with IPv6, wildcard portals and jumbo
frames; and one slow file that must not hold up anybody else."""
import os, re, resource, shutil, signal, socket, struct, subprocess, sys, tempfile, threading, time
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
import harness as h
import iscsi
import proxy

MIB = 1 << 20
rep = h.Report("system/network/")


def far_away(loop):
    """100 ms each way: no disconnect, and what bounds unsent data does not throttle the path: 8 MiB read with 16 deep
    commands takes a few round trips, not one for each buffer."""
    with h.Server("--ram", "64M", loop=loop) as s:
        p = proxy.Proxy((s.host, s.port), delay=0.1)
        c = iscsi.Session("127.0.0.1", p.port, s.iqn, timeout=60)
        c.ready()
        data = os.urandom(MIB)
        c.write(0, data)
        if c.read(0, 2048) != data:
            raise RuntimeError("read back differs")
        c.nop()
        t = time.monotonic()
        tags = [c.command(struct.pack(">BBQIBB", 0x88, 0, i * 1024, 1024, 0, 0), want=512 * 1024) for i in range(16)]
        waiting, got = set(tags), 0
        while waiting:
            pdu = c.next()
            got += len(pdu.data) if pdu.op == iscsi.DATA_IN else 0
            if pdu.op == iscsi.SCSI_RSP or pdu.op == iscsi.DATA_IN and pdu.bhs[1] & 1:
                waiting.discard(pdu.itt)
        took = time.monotonic() - t
        c.logout()
        p.stop()
        if got != 8 * MIB:
            raise RuntimeError(f"{got} bytes came")
        if took > 6:
            raise RuntimeError(f"8 MiB took {took:.1f} s at 0.2 s round trip")
        if p.accepted != 1:
            raise RuntimeError("the session was lost on the way")
        return f"8 MiB in {took:.2f} s at a round trip of 0.2 s"


def rss_kib(pid):
    for l in open(f"/proc/{pid}/status"):
        if l.startswith("VmRSS"):
            return int(l.split()[1])
    return 0


def cpu_ticks(pid):
    f = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return int(f[11]) + int(f[12])


def thousand_idle(loop):
    """A thousand sessions stay logged in, cost little memory and no measurable CPU, and all still answer."""
    n = 1000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < n + 200:
        raise h.Skip(f"only {hard} descriptors allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, n + 200), hard))
    with h.Server("--ram", "64M", loop=loop) as s:
        first = iscsi.Session(s.host, s.port, s.iqn)
        first.ready()
        before = rss_kib(s.pid())
        t = time.monotonic()
        all_ = [iscsi.Session(s.host, s.port, s.iqn, timeout=60) for _ in range(n)]
        login = time.monotonic() - t
        per = (rss_kib(s.pid()) - before) / n
        time.sleep(1)
        c0 = cpu_ticks(s.pid())
        time.sleep(5)
        ticks = cpu_ticks(s.pid()) - c0
        for c in all_[::50]:
            c.ready()
            c.nop()
        for c in all_:
            c.close()
        first.nop()
        first.logout()
        if per > 64:
            raise RuntimeError(f"{per:.1f} KiB of memory for each idle session; 64 is the bound, 12 the goal")
        if ticks > 10:
            raise RuntimeError(f"{ticks} ticks of CPU in 5 s with idle sessions only")
        return f"{per:.1f} KiB each, {ticks} ticks in 5 s, {n / login:.0f} logins/s one after the other"


def no_descriptors(loop):
    """Out of descriptors: established sessions go on, nothing spins, and when some come free logins work again."""
    with tempfile.TemporaryDirectory() as d:
        shim = os.path.join(d, "few.sh")
        with open(shim, "w") as f:
            f.write('#!/bin/sh\nulimit -n 64\nexec "$@"\n')
        os.chmod(shim, 0o755)
        with h.Server("--ram", "16M", loop=loop, wrap=[shim]) as s:
            c = iscsi.Session(s.host, s.port, s.iqn)
            c.ready()
            conns = []
            for _ in range(100):
                x = socket.create_connection((s.host, s.port), timeout=5)
                conns.append(x)
            time.sleep(0.5)
            c0, t0 = cpu_ticks(s.pid()), time.monotonic()
            for _ in range(20):
                c.nop()
                c.write(0, b"x" * 4096)
                time.sleep(0.1)
            ticks, sec = cpu_ticks(s.pid()) - c0, time.monotonic() - t0
            if ticks > 30 * sec:
                raise RuntimeError(f"{ticks} ticks of CPU in {sec:.1f} s: it spins")
            for x in conns:
                x.close()
            end, back = time.monotonic() + 20, None
            while time.monotonic() < end:
                try:
                    back = iscsi.Session(s.host, s.port, s.iqn, timeout=3)
                    back.ready()
                    break
                except OSError:
                    time.sleep(0.3)
            if back is None:
                raise RuntimeError("no login within 20 s after descriptors came free")
            c.nop()
            back.logout()
            c.logout()
            return f"{ticks} ticks in {sec:.1f} s"


def slow_file(loop):
    """A file that answers a read after 2 s (FUSE) stalls its own commands only: another session of the same server and
    core does hundreds of reads meanwhile."""
    if not os.path.exists("/dev/fuse"):
        raise h.Skip("no /dev/fuse")
    exe = os.path.join(h.flavour_dir("release"), "tests/lib/slowfs")
    if not shutil.which("fusermount3") or not os.path.exists(exe):
        raise h.Skip("fuse3 is not installed")
    with tempfile.TemporaryDirectory(prefix="lunette-fuse-") as d:
        mnt = os.path.join(d, "mnt")
        os.mkdir(mnt)
        fs = subprocess.Popen([exe, "2000", mnt], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, text=True, preexec_fn=h.die_with_parent)
        try:
            end = time.monotonic() + 5
            while not os.path.exists(f"{mnt}/disk"):
                if fs.poll() is not None or time.monotonic() > end:
                    raise h.Skip("FUSE cannot be mounted here: " + (fs.stderr.read() if fs.poll() is not None else ""))
                time.sleep(0.05)
            with h.Server("--file", f"{mnt}/disk", "--ram", "16M", "--cores", "1", loop=loop) as s:
                a = iscsi.Session(s.host, s.port, s.iqn, lun=0, timeout=30)
                a.ready()
                b = iscsi.Session(s.host, s.port, s.iqn, lun=1)
                b.ready()
                same = iscsi.Session(s.host, s.port, s.iqn, lun=0, timeout=30)
                tag = a.command(struct.pack(">BBQIBB", 0x88, 0, 1 << 10, 8, 0, 0), want=4096)
                done, t = [], time.monotonic()
                th = threading.Thread(target=lambda: done.append(a.finish(tag, size=4096)))
                th.start()
                reads = 0
                while th.is_alive() and time.monotonic() - t < 10:
                    b.read(0, 8)
                    reads += 1
                    if reads % 50 == 0:
                        same.nop()  # the same LUN's other session still answers pings
                took = time.monotonic() - t
                th.join()
                if not done or done[0] != b"s" * 4096:
                    raise RuntimeError("the slow read brought wrong bytes")
                if took < 1.5:
                    raise RuntimeError("the slow file was not slow: the test did not test")
                if reads < 100:
                    raise RuntimeError(f"only {reads} reads of another session in {took:.1f} s")
                for c in (a, b, same):
                    c.logout()
                return f"{reads} reads of another session while one took {took:.1f} s"
        finally:
            h.run(["fusermount3", "-u", "-z", mnt], 10)
            fs.kill()
            fs.wait()


def portals():
    """The port is listening as ss shows it; IPv4 and IPv6 portals work, and a wildcard portal tells the address that
    the client reached."""
    port = h.free_port()
    if not socket.has_ipv6 or not os.path.exists("/proc/net/if_inet6"):
        raise h.Skip("no IPv6 here")
    with h.Server("--listen", f"127.0.0.1:{port}", "--listen", f"[::1]:{port}", "--ram", "16M", listen=False, port=port) as s:
        out = h.run(["ss", "-tnlp"], 20).stdout
        if f"127.0.0.1:{port}" not in out or f"[::1]:{port}" not in out or "lunetted" not in out:
            raise RuntimeError("ss -tnlp does not show both portals")
        for host in ("127.0.0.1", "::1"):
            d = iscsi.Session(host, port)
            t = d.send_targets()
            d.logout()
            if f"TargetName={s.iqn}" not in t:
                raise RuntimeError(f"SendTargets by {host}: {t}")
            text = " ".join(t)
            if f"127.0.0.1:{port}," not in text or f"[::1]:{port}," not in text:
                raise RuntimeError(f"SendTargets does not list both portals: {t}")
            c = iscsi.Session(host, port, s.iqn)
            c.ready()
            c.logout()


def in_namespace(what):
    """Runs this program again inside a new network namespace with a veth pair of MTU 9000."""
    if os.geteuid() != 0:
        raise h.Skip("needs root for a network namespace")
    if h.run(["unshare", "-n", "true"], 10).returncode:
        raise h.Skip("network namespaces are not allowed here")
    r = h.run(["unshare", "-n", sys.executable, os.path.abspath(__file__), "--inside", what], 90)
    if r.returncode == 77:
        raise h.Skip(h.tail(r.stdout, 1))
    if r.returncode:
        raise RuntimeError(h.tail(r.stdout, 3))
    return h.tail(r.stdout, 1)


def inside(what):
    def ip(*a):
        r = h.run(["ip", *a], 10)
        if r.returncode:
            print("ip " + " ".join(a) + ": " + r.stdout)
            sys.exit(77)
    ip("link", "set", "lo", "up")
    child = subprocess.Popen(["unshare", "-n", "sleep", "80"])
    try:
        time.sleep(0.3)
        ip("link", "add", "v0", "mtu", "9000", "type", "veth", "peer", "name", "v1", "netns", str(child.pid), "mtu", "9000")
        ip("addr", "add", "10.99.0.1/24", "dev", "v0")
        ip("addr", "add", "fd99::1/64", "dev", "v0", "nodad")
        ip("link", "set", "v0", "up")
        ns = ["nsenter", "-t", str(child.pid), "-n"]
        for a in (["link", "set", "lo", "up"], ["addr", "add", "10.99.0.2/24", "dev", "v1"],
                  ["addr", "add", "fd99::2/64", "dev", "v1", "nodad"], ["link", "set", "v1", "up"]):
            h.run([*ns, "ip", *a], 10)
        with h.Server("--listen", "0.0.0.0:3260", "--listen", "[::]:3260", "--open", "--ram", "64M", listen=False, port=3260) as s:
            code = f"""
import sys; sys.path.insert(0, {os.path.join(HERE, '..', 'lib')!r})
import iscsi, os
for host, name in (("10.99.0.1", "10.99.0.1:3260"), ("fd99::1", "[fd99::1]:3260")):
    d = iscsi.Session(host, 3260); t = d.send_targets(); d.logout()
    adr = [x.split("=", 1)[1].split(",")[0] for x in t if x.startswith("TargetAddress=")]
    assert name in adr, f"reached at {{name}}, told {{adr}}"
    assert not any("0.0.0.0" in a or "[::]" in a or "%" in a for a in adr), f"useless address in {{adr}}"
    c = iscsi.Session(host, 3260, {s.iqn!r}); c.ready()
    data = os.urandom(1 << 20)
    c.write(0, data); assert c.read(0, 2048) == data, "wrong bytes"
    c.logout()
print("IPv4 and IPv6 over MTU 9000")
"""
            r = h.run([*ns, sys.executable, "-c", code], 60)
            print(h.tail(r.stdout, 2))
            rc = r.returncode
        return rc
    finally:
        child.kill()
        child.wait()


def before_login(loop):
    """A PDU before login, garbage, and a connection that says nothing: closed, and nobody else notices."""
    with h.Server("--ram", "16M", loop=loop) as s:
        good = iscsi.Session(s.host, s.port, s.iqn)
        good.ready()
        for first in (b"\x01" + bytes(47), b"\x00" + bytes(47), b"GET / HTTP/1.0\r\n\r\n" + bytes(60), b"\xff" * 512,
                      b"\x05\x80" + bytes(46)):
            x = socket.create_connection((s.host, s.port), timeout=10)
            x.sendall(first)
            try:
                while x.recv(4096):
                    pass
            except ConnectionResetError:
                pass
            except TimeoutError:
                raise RuntimeError(f"{first[:4].hex()} before login: the connection stays open")
            x.close()
            good.nop()
        for _ in range(50):  # connections that come and go
            socket.create_connection((s.host, s.port), timeout=5).close()
        good.read(0, 8)
        good.logout()


def main():
    if len(sys.argv) == 3 and sys.argv[1] == "--inside":
        return inside(sys.argv[2])
    if not h.binaries_there():
        rep.skip("all", "lunetted is not built")
        return 0
    for loop in ("uring", "epoll"):
        rep.case(f"{loop}/100-ms-away", far_away, loop)
        rep.case(f"{loop}/1000-idle-sessions", thousand_idle, loop)
        rep.case(f"{loop}/out-of-descriptors", no_descriptors, loop)
        rep.case(f"{loop}/slow-file-stalls-only-itself", slow_file, loop)
        rep.case(f"{loop}/bad-first-bytes", before_login, loop)
    rep.case("portals-ipv4-ipv6-ss", portals)
    rep.case("namespace-mtu-9000-wildcard", in_namespace, "mtu")
    return rep.status()


if __name__ == "__main__":
    sys.exit(main())
