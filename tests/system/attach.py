#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""What lunette attach and detach ask of open-iscsi, seen by an iscsiadm that only writes down how it was called; and what they say
when iscsiadm, its daemon or a right is missing. A real one is used in the guest."""
import os, stat, subprocess, sys, tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import harness as h

rep = h.Report("system/attach/")
URL = "iscsi://me%a-secret@192.0.2.1:3261/iqn.2025-01.test:disk/3?digests=header&target_user=it&target_secret=its-secret"
NODE = "-m node -T iqn.2025-01.test:disk -p 192.0.2.1:3261"


def run(*args, status=0, there=True):
    """(exit status, standard error, the calls of iscsiadm). status: what its login and logout end with."""
    base = os.environ.get("LUNETTED") or os.path.join(h.flavour_dir("release"), "src/lunetted/lunetted")
    lunette = os.path.abspath(os.path.join(os.path.dirname(base), "..", "lunette", "lunette"))
    with tempfile.TemporaryDirectory(prefix="lunette-attach-") as d:
        calls = os.path.join(d, "calls")
        if there:
            fake = os.path.join(d, "iscsiadm")
            with open(fake, "w") as f:
                f.write(f'#!/bin/sh\necho "$@" >> {calls}\necho "noise"\n'
                        f'case "$*" in *--log*) exit {status};; esac\nexit 0\n')
            os.chmod(fake, stat.S_IRWXU)
        p = subprocess.run([lunette, *args], capture_output=True, text=True, timeout=20, env=dict(os.environ, PATH=d + (
            ":/usr/bin:/bin" if there else "")))
        return p.returncode, p.stdout, p.stderr, open(calls).read().splitlines() if os.path.exists(calls) else []


def attach():
    rc, out, err, calls = run("attach", "--no-wait", URL)
    rep.check("attach", rc == 0 and out == "", f"{rc}: {out} {err}")
    want = [f"{NODE} -o new"] + [f"{NODE} -o update -n {n} -v {v}" for n, v in (
        ("node.session.auth.authmethod", "CHAP"), ("node.session.auth.username", "me"),
        ("node.session.auth.password", "a-secret"), ("node.session.auth.username_in", "it"),
        ("node.session.auth.password_in", "its-secret"), ("node.conn[0].iscsi.HeaderDigest", "CRC32C"))] + [f"{NODE} --login"]
    rep.check("calls", calls == want, str(calls))


def refusals():
    for status, exit_status, word in ((24, 5, "user or the secret"), (20, 3, "iscsid does not run"), (13, 5, "root"), (8, 7, "does not answer"),
                                      (99, 1, "ended with 99")):
        rc, out, err, _ = run("attach", "--no-wait", URL, status=status)
        rep.check(f"status-{status}", rc == exit_status and word in err, f"{rc}: {err}")
    rc, out, err, _ = run("attach", "--no-wait", URL, status=15)
    rep.check("attached-already", rc == 0, f"{rc}: {err}")
    rc, out, err, _ = run("attach", URL, there=False)
    rep.check("no-iscsiadm", rc == 3 and "install open-iscsi" in err, f"{rc}: {err}")
    rc, out, err, calls = run("attach", "iscsi://192.0.2.1")
    rep.check("no-target", rc == 2 and not calls, f"{rc}: {err}")


def detach():
    rc, out, err, calls = run("detach", URL)
    rep.check("detach", rc == 0 and calls == [f"{NODE} --logout", f"{NODE} -o delete"], f"{rc}: {err} {calls}")
    rc, out, err, calls = run("detach", URL, status=21)
    rep.check("detach-nothing", rc == 3 and "no such session" in err and calls[-1] == f"{NODE} -o delete", f"{rc}: {err} {calls}")


def main():
    if not h.binaries_there():
        rep.skip("all", "lunetted is not built")
        return 0
    attach()
    refusals()
    detach()
    return rep.status()


if __name__ == "__main__":
    sys.exit(main())
