#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Programs that other people wrote use our disks: libiscsi's tools, qemu-img and qemu-io. Data that goes in by one
comes out by the other, trimmed blocks are holes to both, on either loop and with either block size."""
import hashlib, os, random, shutil, sys, tempfile
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
import harness as h
import iscsi

MIB = 1 << 20
rep = h.Report("system/clients/")


def tool(*cmd, timeout=60, ok=True):
    if not shutil.which(cmd[0]):
        raise h.Skip(f"{cmd[0]} is not installed")
    r = h.run(list(map(str, cmd)), timeout)
    if ok and r.returncode:
        raise RuntimeError(f"{cmd[0]} ended with {r.returncode}: {h.tail(r.stdout, 4)}")
    return r.stdout


def need_qemu_iscsi():
    if not shutil.which("qemu-img"):
        raise h.Skip("qemu-utils is not installed")
    if " iscsi" not in h.run(["qemu-img", "--help"], 20).stdout:
        raise h.Skip("qemu's iscsi driver (qemu-block-extra) is not installed")


def ls(s):
    out = tool("iscsi-ls", "-s", f"iscsi://{s.portal()}/")
    if s.iqn not in out or f"{s.port}" not in out:
        raise RuntimeError("iscsi-ls does not list the target: " + out)
    if "Lun:0" not in out.replace(" ", ""):
        raise RuntimeError("iscsi-ls does not list LUN 0: " + out)


def inq(s):
    tool("iscsi-inq", s.url())
    for page in (0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2):
        tool("iscsi-inq", "-e", "1", "-c", page, s.url())


def capacity(s, size):
    out = tool("iscsi-readcapacity16", s.url())
    if str(size) not in out.replace(" ", "") and str(size) not in out:
        last = [l for l in out.splitlines() if "LBA" in l.upper()]
        raise RuntimeError(f"capacity {size} is not in: {last or out}")


def random_image(path, size, seed):
    """Half random data, half holes, in pieces of odd sizes."""
    r = random.Random(seed)
    with open(path, "wb") as f:
        f.truncate(size)
        at = 0
        while at < size:
            n = min(size - at, r.randrange(1, 64) * 16384)
            if r.random() < 0.5:
                f.seek(at)
                f.write(r.randbytes(n))
            at += n


def qemu_copy(s, size, d):
    need_qemu_iscsi()
    src, back = os.path.join(d, "src.raw"), os.path.join(d, "back.raw")
    random_image(src, size, s.port)
    tool("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", "-W", "-m", "8", src, s.url())
    tool("qemu-img", "compare", "-f", "raw", "-F", "raw", src, s.url())
    tool("qemu-img", "convert", "-f", "raw", "-O", "raw", s.url(), back)
    if hashlib.sha256(open(src, "rb").read()).digest() != hashlib.sha256(open(back, "rb").read()).digest():
        raise RuntimeError("what came back is not what was written")


def qemu_io(s):
    need_qemu_iscsi()
    cmds = ["write -P 0xa5 0 1M", "write -P 0x5a 1M 4k", "read -P 0xa5 0 1M", "read -P 0x5a 1M 4k", "flush",
            "write -z 64k 128k", "read -P 0 64k 128k", "read -P 0xa5 192k 64k", "discard 0 64k", "read -P 0xa5 256k 64k",
            "writev -P 0x77 2M 4k 8k 4k", "readv -P 0x77 2M 8k 8k", "aio_write -P 0x31 3M 64k", "aio_write -P 0x32 4M 64k",
            "aio_flush", "read -P 0x31 3M 64k", "read -P 0x32 4M 64k", "write -f -P 0x99 5M 4k", "read -P 0x99 5M 4k"]
    out = tool("qemu-io", "-f", "raw", *[x for c in cmds for x in ("-c", c)], s.url())
    if "Pattern verification failed" in out or "error" in out.lower():
        raise RuntimeError(h.tail(out, 4))


def qemu_map(s):
    """GET LBA STATUS tells holes as holes: zero=true, data=false after a discard."""
    need_qemu_iscsi()
    tool("qemu-io", "-f", "raw", "-c", "write -P 1 0 4M", "-c", "discard 1M 1M", "-c", "flush", s.url())
    import json
    out = tool("qemu-img", "map", "--output=json", "-f", "raw", s.url())
    rows = json.loads(out)
    at = {r["start"]: r for r in rows}
    if not any(r["start"] <= MIB and r["start"] + r["length"] >= 2 * MIB and not r["data"] for r in rows):
        raise RuntimeError(f"the discarded megabyte is no hole: {rows[:5]}")
    if not at[0]["data"]:
        raise RuntimeError("written data is called a hole")


def dd_both(s, d):
    """libiscsi's copy tool moves a whole LUN; both LUNs then have the same bytes."""
    tool("iscsi-dd", "-s", s.url(0), "-d", s.url(1), "-m", "8", "-b", "128", timeout=120)
    need_qemu_iscsi()
    tool("qemu-img", "compare", "-f", "raw", "-F", "raw", s.url(0), s.url(1))


def own_client(s, size, bs):
    c = iscsi.Session(s.host, s.port, s.iqn)
    c.ready()
    last, block = c.capacity()
    if block != bs or (last + 1) * block != size:
        raise RuntimeError(f"capacity says {last + 1} x {block}")
    data = random.Random(1).randbytes(3 * MIB)
    c.write(7, data, bs)
    if c.read(7, len(data) // bs, bs) != data:
        raise RuntimeError("read back differs")
    try:
        c.read(last, 2, bs)
        raise RuntimeError("a read past the end succeeded")
    except iscsi.ScsiError as e:
        if (e.key, e.asc, e.ascq) != (5, 0x21, 0):
            raise RuntimeError(f"a read past the end gives {e}")
    c.nop()
    c.logout()


def chap(flavour, loop):
    user, secret = "alice", "twelve.bytes.and.more"
    with h.Server("--ram", "64M", "--chap", f"{user}:{secret}", flavour=flavour, loop=loop) as s:
        iscsi.Session(s.host, s.port, s.iqn, user=user, secret=secret).logout()
        for u, p in ((None, None), (user, "twelve.bytes.but.wrong"), ("mallory", secret)):
            try:
                iscsi.Session(s.host, s.port, s.iqn, user=u, secret=p)
                raise RuntimeError(f"login as {u} with {p} was allowed")
            except (iscsi.LoginRefused, ConnectionError):
                pass
        tool("iscsi-inq", s.url(user=f"{user}%{secret}"))
        bad = h.run(["iscsi-inq", s.url(user=f"{user}%wrongsecret1")], 30)
        if bad.returncode == 0:
            raise RuntimeError("libiscsi logged in with a wrong secret")


def both_ways_locked(d):
    """An image that is served is refused by qemu, one that qemu holds is refused by us (OFD locks)."""
    if not shutil.which("qemu-io"):
        raise h.Skip("qemu-utils is not installed")
    import subprocess
    img = os.path.join(d, "locked.raw")
    with open(img, "wb") as f:
        f.truncate(16 * MIB)
    with h.Server("--file", img):
        r = h.run(["qemu-io", "-f", "raw", "-c", "write 0 4k", img], 20)
        if r.returncode == 0 or "lock" not in r.stdout:
            raise RuntimeError("qemu opened a served image: " + h.tail(r.stdout))
        try:
            h.Server("--file", img).finish()
            raise AssertionError("a second server opened a served image")
        except RuntimeError as e:
            if "ended with 1" not in str(e):
                raise
    q = subprocess.Popen(["qemu-io", "-f", "raw", img], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        q.stdin.write("write 0 4k\n")
        q.stdin.flush()
        while "wrote" not in q.stdout.readline():
            pass
        try:
            h.Server("--file", img).finish()
            raise AssertionError("the server opened an image that qemu holds")
        except RuntimeError as e:
            if "ended with 1" not in str(e):
                raise
    finally:
        q.stdin.close()
        q.wait(10)


def main():
    if not h.binaries_there():
        rep.skip("all", "lunetted is not built")
        return 0
    for loop in ("uring", "epoll"):
        for kind, bs in (("ram", 512), ("file", 512), ("ram", 4096), ("file", 4096)):
            name = f"{loop}/{kind}-{bs}"
            size = 64 * MIB
            with tempfile.TemporaryDirectory(prefix="lunette-cl-") as d:
                def lun(n):
                    return ["--ram", f"64M,bs={bs}"] if kind == "ram" else ["--file", f"{d}/lun{n},size=64M,bs={bs}"]
                try:
                    s = h.Server(*lun(0), *lun(1), loop=loop)
                except Exception as e:
                    rep.fail(f"{name}/server", e)
                    continue
                rep.case(f"{name}/own-client", own_client, s, size, bs)
                rep.case(f"{name}/iscsi-ls", ls, s)
                rep.case(f"{name}/iscsi-inq", inq, s)
                rep.case(f"{name}/iscsi-readcapacity16", capacity, s, size)
                rep.case(f"{name}/qemu-img-convert-compare", qemu_copy, s, size, d)
                rep.case(f"{name}/qemu-io", qemu_io, s)
                rep.case(f"{name}/qemu-img-map", qemu_map, s)
                if bs == 512:
                    rep.case(f"{name}/iscsi-dd", dd_both, s, d)
                bad = s.finish()
                rep.check(f"{name}/server-clean", not bad, bad)
        rep.case(f"{loop}/chap", chap, "release", loop)
    with tempfile.TemporaryDirectory(prefix="lunette-cl-") as d:
        rep.case("locks-respected-both-ways", both_ways_locked, d)
    return rep.status()


if __name__ == "__main__":
    sys.exit(main())
