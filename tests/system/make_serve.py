#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""`make serve` from this checkout: builds, serves a RAM disk and a file disk without root, prints one block with the
target name and a URL, says ready, and SIGINT drains it with exit status 0. The file disk keeps its bytes."""
import os, re, shutil, signal, subprocess, sys, tempfile, time
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
import harness as h
import iscsi

rep = h.Report("system/make-serve/")


def children(pid):
    out = []
    for d in os.listdir("/proc"):
        if d.isdigit():
            try:
                f = open(f"/proc/{d}/stat").read().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(f[1]) == pid:
                out += [int(d)] + children(int(d))
    return out


def serve(env, port, use):
    p = subprocess.Popen(["make", "-C", h.ROOT, "serve", f"LISTEN=127.0.0.1:{port}"], stdin=subprocess.DEVNULL,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env, start_new_session=True)
    out, end = "", time.monotonic() + 400
    for l in p.stdout:
        out += l
        if l.strip() == "ready" or time.monotonic() > end:
            break
    try:
        if not out.endswith("ready\n"):
            raise RuntimeError("never ready: " + h.tail(out))
        use(out)
        daemon = [c for c in children(p.pid) if "lunetted" in os.readlink(f"/proc/{c}/exe")]
        if len(daemon) != 1:
            raise RuntimeError(f"{len(daemon)} server processes under make")
        os.kill(daemon[0], signal.SIGINT)
        rest = p.stdout.read()
        if p.wait(20) != 0:
            raise RuntimeError(f"make ended with {p.returncode}: {h.tail(rest)}")
    finally:
        if p.poll() is None:
            os.killpg(p.pid, signal.SIGKILL)


def whole():
    port = h.free_port()
    with tempfile.TemporaryDirectory(prefix="lunette-ms-") as d:
        env = dict(os.environ, XDG_STATE_HOME=d + "/state", HOME=d)
        env.pop("MAKEFLAGS", None)
        env.pop("MAKELEVEL", None)
        marks = os.urandom(8192)

        def names(out):
            url = re.search(r"iscsi://127\.0\.0\.1:%d/(\S+)/\d+" % port, out)
            if not url:
                raise RuntimeError("no iscsi:// URL was printed: " + out[-400:])
            for word in ("iscsiadm", "Connect-IscsiTarget|iscsicli|New-IscsiTargetPortal", "esxcli"):
                if not re.search(word, out):
                    raise RuntimeError(f"no paste-ready line with {word}")
            return url[1]

        def first(out):
            iqn = names(out)
            for lun, size in ((0, 1 << 30), (1, 10 << 30)):
                c = iscsi.Session("127.0.0.1", port, iqn, lun=lun)
                c.ready()
                last, bs = c.capacity()
                if (last + 1) * bs != size:
                    raise RuntimeError(f"LUN {lun} has {(last + 1) * bs} bytes")
                c.write(16, marks)
                c.flush()
                c.logout()

        def second(out):
            c = iscsi.Session("127.0.0.1", port, names(out), lun=1)
            c.ready()
            if c.read(16, 16) != marks:
                raise RuntimeError("the file disk lost its bytes over a restart")
            c.logout()

        serve(env, port, first)
        serve(env, port, second)


if __name__ == "__main__":
    if not os.path.exists(os.path.join(h.ROOT, "src/lunetted/main.c")):
        rep.skip("all", "there is no server yet")
    else:
        rep.case("builds-serves-drains-keeps", whole)
    sys.exit(rep.status())
