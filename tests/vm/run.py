#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""A real Linux initiator (kernel iscsi_tcp, open-iscsi) in a QEMU guest made of Debian packages, under software
emulation. Starts the servers on the host's loopback, boots one guest, runs the scenarios in it.

  run.py smoke | all | SCENARIO...     [--target lunette|tgt] [--loop uring|epoll]"""
import argparse, os, re, shutil, subprocess, sys, tempfile
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
import harness as h

SMOKE = ["01-discovery", "02-login", "07-ext4", "10-recovery"]
NEEDS = ["qemu-system-x86_64", "cpio", "zstd", "xz", "mke2fs", "dpkg-deb", "apt-get"]


def scenarios(group):
    return sorted(f[:-3] for f in os.listdir(os.path.join(HERE, group)) if re.match(r"\d\d-.*\.sh$", f))


def show(rep, out, prefix=""):
    """Guest lines to cases."""
    name, fails = "boot", {}
    for l in out.splitlines():
        m = re.match(r"^== (\S+)", l)
        if m:
            name = m[1]
        m = re.match(r"^  (ok  |FAIL) (.*)$", l)
        if m and m[1] == "FAIL":
            rep.fail(f"{prefix}{name}: {m[2].rsplit(' (rc', 1)[0]}", m[2])
            fails[name] = True
        elif m:
            rep.ok(f"{prefix}{name}: {re.sub(r' [(].*', '', m[2])}")
        m = re.match(r"^RESULT (\S+) (\S+) (\S+)", l)
        if m and m[1] == "SKIP":
            why = next((x.strip()[5:] for x in reversed(out.splitlines()) if x.startswith("  SKIP ")), "")
            rep.skip(f"{prefix}{m[2]}", why)
        elif m and m[1] != "PASS" and not fails.get(m[2]):
            rep.fail(f"{prefix}{m[2]}", "the scenario ended with " + m[1])
        elif m:
            print(f"   {prefix}{m[2]}: {m[3]} s in the guest")


def guest(args, env, limit):
    return h.run(["bash", os.path.join(HERE, "vm.sh"), "run", "-q", "-t", str(limit), *args], limit + 120, env=env)


def initiator(rep, target, names, loop, limit):
    adapter = os.path.join(HERE, "targets", target + ".sh")
    with tempfile.TemporaryDirectory(prefix="lunette-vm-") as d:
        port = h.free_port()
        env = {"T_DIR": d, "T_PORT": str(port), "TGT_PORT": str(port), "T_LOOP": loop,
               "LUNETTED": os.environ.get("LUNETTED") or os.path.join(h.flavour_dir("release"), "src/lunetted/lunetted")}
        e = dict(os.environ, **env)
        pre = "" if loop == "auto" else loop + "/"
        r = h.run([adapter, "start"], 60, env=env)
        try:
            if r.returncode:
                return rep.fail(pre + "servers start", h.tail(r.stdout))
            ports = subprocess.run([adapter, "ports"], env=e, capture_output=True, text=True).stdout.strip()
            os.mkdir(d + "/tenv")
            with open(d + "/tenv/env", "w") as f:
                f.write(subprocess.run([adapter, "env"], env=e, capture_output=True, text=True).stdout)
            r = guest(["-m", "1024", "-d", HERE + "/lib", "-d", HERE + "/scenarios", "-d", d + "/tenv", "-k", adapter,
                       HERE + "/lib/guest-main.sh", *names], {**env, "VM_PORTS": ports}, limit)
            keep(f"vm-{pre.strip('/') or 'auto'}.log", r.stdout)
            show(rep, r.stdout, pre)
            if r.returncode and not rep.failed:
                rep.fail(pre + "guest", f"status {r.returncode}: {h.tail(r.stdout)}")
        finally:
            r = h.run([adapter, "stop"], 60, env=env)
            rep.check(pre + "servers drain", r.returncode == 0, r.stdout)


def keep(name, text):
    d = os.path.join(h.flavour_dir("release"), "logs")
    os.makedirs(d, exist_ok=True)
    with open(os.path.join(d, name), "w") as f:
        f.write(text)


def inside(rep, names, limit):
    """Scenarios where the server itself runs in the guest, on a device that records writes and flushes."""
    lunetted = os.environ.get("LUNETTED") or os.path.join(h.flavour_dir("release"), "src/lunetted/lunetted")
    for name in names:
        with tempfile.TemporaryDirectory(prefix="lunette-vm-") as d:
            job = d + "/bin"
            os.mkdir(job)
            shutil.copy(lunetted, job + "/lunetted")
            for f in ("iscsi.py", "harness.py"):
                shutil.copy(os.path.join(HERE, "../lib", f), job)
            shutil.copytree(HERE + "/guest", job + "/guest")
            r = h.run(["gcc", "-O1", "-shared", "-fPIC", "-o", job + "/nosync.so", HERE + "/guest/nosync.c", "-ldl"], 60)
            if r.returncode:
                rep.fail(name, "nosync.c: " + h.tail(r.stdout))
                continue
            for disk, mib in (("data", 64), ("log", 1024), ("replay", 64)):
                with open(f"{d}/{disk}", "wb") as f:
                    f.truncate(mib << 20)
            r = guest(["-m", "768", "-d", job, "-d", HERE + "/lib", "-D", d + "/data", "-D", d + "/log", "-D", d + "/replay",
                       f"{HERE}/guest/{name}.sh"], {}, limit)
            keep(f"vm-{name}.log", r.stdout)
            show(rep, f"== {name}\n" + r.stdout)
            if r.returncode and not rep.failed:
                rep.fail(name, f"status {r.returncode}: {h.tail(r.stdout)}")


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("what", nargs="+")
    ap.add_argument("--target", default="lunette")
    ap.add_argument("--loop", default="")
    a = ap.parse_args()
    rep = h.Report("vm/")
    if a.target == "lunette" and not h.binaries_there():
        rep.skip("all", "lunetted is not built")
        return 0
    missing = [n for n in NEEDS if not shutil.which(n)]
    if missing:
        rep.skip("all", f"not installed: {' '.join(missing)} (tools/deps.sh vm)")
        return 0
    r = h.run(["bash", os.path.join(HERE, "vm.sh"), "build"], 600)
    if r.returncode:
        word = rep.skip if a.what == ["smoke"] else rep.fail
        word("guest image", "could not be made: " + h.tail(r.stdout))
        return rep.status()
    all_in = scenarios("guest")
    if a.what == ["smoke"]:
        initiator(rep, a.target, SMOKE, a.loop or "auto", 500)
    elif a.what == ["all"]:
        for loop in ([a.loop] if a.loop else ["uring", "epoll"]):
            initiator(rep, a.target, scenarios("scenarios"), loop, 1500)
        inside(rep, all_in, 900)
    else:
        names = [n for n in a.what if n not in all_in]
        if names:
            initiator(rep, a.target, names, a.loop or "auto", 900)
        inside(rep, [n for n in a.what if n in all_in], 900)
    return rep.status()


if __name__ == "__main__":
    sys.exit(main())
