#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""The client commands of lunette(1) against a server: discover, ls, inquiry, cp. What arrives is compared byte for byte."""
import hashlib, json, os, re, socket, struct, subprocess, sys, tempfile, time
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
import harness as h
import iscsi

rep = h.Report("system/commands/")
MIB = 1 << 20


def lunette(*args, stdin=None, ok=True):
    exe = os.path.join(os.path.dirname(os.environ.get("LUNETTED") or os.path.join(h.flavour_dir("release"), "src/lunetted/lunetted")),
                       "../lunette/lunette")
    r = subprocess.run([exe, *map(str, args)], input=stdin, capture_output=True, timeout=60)
    if ok and r.returncode:
        raise RuntimeError(f"{args}: status {r.returncode}: {r.stderr.decode()}")
    return r


def digest(b):
    return hashlib.sha256(b).hexdigest()


def listing(s):
    found = json.loads(lunette("--json", "discover", s.portal()).stdout)
    assert found == [{"target": s.iqn, "portals": [f"{s.portal()},1"]}], found
    luns = json.loads(lunette("--json", "ls", s.portal()).stdout)[0]["luns"]
    assert [(x["lun"], x["type"], x["bytes"], x["block"]) for x in luns] == \
        [(0, "disk", 32 * MIB, 512), (1, "disk", 32 * MIB, 4096)], luns
    one = json.loads(lunette("--json", "inquiry", s.url(1)).stdout)
    assert one["block_bytes"] == 4096 and one["bytes"] == 32 * MIB and one["unmap"] is True, one
    assert b"disk" in lunette("ls", s.portal()).stdout


def copies(s, d):
    data = os.urandom(5 * MIB) + bytes(9 * MIB) + os.urandom(3 * MIB + 1000)
    with open(f"{d}/in", "wb") as f:
        f.write(data)
    lunette("cp", f"{d}/in", s.url(0))                       # file to LUN
    lunette("cp", s.url(0), s.url(1))                        # LUN to LUN, another block size
    lunette("cp", s.url(1), f"{d}/out")                      # LUN to file
    with open(f"{d}/out", "rb") as f:
        out = f.read()
    assert out[:len(data)] == data and not any(out[len(data):]) and len(out) == 32 * MIB
    assert os.stat(f"{d}/out").st_blocks * 512 < 12 * MIB, "holes were written"
    pipe = lunette("cp", s.url(1), "-").stdout
    assert digest(pipe) == digest(out)
    lunette("cp", "-", s.url(0), stdin=data[::-1])           # pipe to LUN
    assert lunette("cp", s.url(0), "-").stdout[:len(data)] == data[::-1]


def goes_on(s, d):
    data = os.urandom(8 * MIB)
    with open(f"{d}/part", "wb") as f:
        f.write(data)
    lunette("cp", s.url(0), f"{d}/before")
    lunette("cp", "--from", "3MiB", f"{d}/part", s.url(0))
    got = lunette("cp", s.url(0), "-").stdout
    with open(f"{d}/before", "rb") as f:
        before = f.read()
    assert got[:3 * MIB] == before[:3 * MIB] and got[3 * MIB:8 * MIB] == data[3 * MIB:]


def broken(s, d):
    """A copy that breaks goes on from where the destination was flushed, not from where it was written; a device without
    an end is read until the destination is full, not taken for empty."""
    lunette("cp", s.url(0), "/dev/null")
    r = lunette("cp", "/dev/zero", s.url(0), ok=False)
    assert r.returncode == 1 and b"holds only" in r.stderr, r.stderr
    with open(f"{d}/long", "wb") as f:
        f.truncate(900 * MIB)
    with h.Server("--file", f"{d}/far,size=900M") as far:
        exe = os.path.join(os.path.dirname(far.binary), "../lunette/lunette")
        p = subprocess.Popen([exe, "cp", f"{d}/long", far.url(0)], stderr=subprocess.PIPE)
        stop = time.monotonic() + 60
        while os.stat(f"{d}/far").st_blocks * 512 < 300 * MIB and p.poll() is None and time.monotonic() < stop:
            time.sleep(0.005)
        p.terminate() if time.monotonic() > stop else far.kill()
        text = p.communicate(timeout=60)[1].decode()
        if p.returncode == 0:
            raise h.Skip("the copy was over before it could be cut")
        assert re.search(r"--from (268435456|536870912|805306368) ", text), text
        far.start()


def refusals(s, d):
    for args, status, text in ((("cp", f"{d}/none", f"{d}/x"), 3, b"cannot open"), (("cp", "a"), 2, b"usage"),
                               (("inquiry", "http://x/y"), 2, b"is no URL"), (("inquiry", s.url(7)), 3, b"no LUN 7"),
                               (("ls", f"{s.host}:1"), 7, b"cannot connect"),
                               (("inquiry", f"iscsi://{s.portal()}/iqn.2025-01.test:none/0"), 3, b"no target of that name"),
                               (("cp", f"{d}/in", s.url(7)), 3, b"no LUN 7"), (("ls", f"{s.host}:99999"), 2, b"1 to 65535"),
                               (("ls", "no-such-host.invalid"), 7, b"'no-such-host.invalid' cannot be resolved"),
                               (("bench", "--rw", "foo", s.url(0)), 2, b"'foo' is none"),
                               (("check", "--suite", "nosuch", s.url(0)), 2, b"no case has that name")):
        r = lunette(*args, ok=False)
        assert r.returncode == status and text in r.stderr, (args, r.returncode, r.stderr)
    with open(f"{d}/big", "wb") as f:
        f.truncate(64 * MIB)
    r = lunette("cp", f"{d}/big", s.url(0), ok=False)
    assert r.returncode == 1 and b"holds" in r.stderr, r.stderr
    cases = json.loads(lunette("check", "--list", "--json", "--suite", "text").stdout)
    assert cases and all(c["suite"] == "text" and c["clause"] for c in cases), cases
    r = lunette("check", "--suite", "text", "--case", "empty", s.url(7))
    assert b"LUN 7 tells no capacity" in r.stderr, r.stderr


def one_refuses(s, d):
    """A target that refuses this user does not hide the other targets of its server from ls."""
    with open(f"{d}/two.yaml", "w") as f:
        f.write("users: {alice: secretsecret}\nvolumes: {a: {type: ram, size: 1M}, b: {type: ram, size: 1M}}\n"
                "targets:\n  iqn.2026-11.test:a: {luns: {0: a}, users: [alice]}\n  iqn.2026-11.test:b: {luns: {0: b}}\n")
    with h.Server(config=f"{d}/two.yaml") as two:
        r = lunette("--json", "ls", two.portal(), ok=False)
        got = {t["target"][-1]: t for t in json.loads(r.stdout)}
        assert r.returncode == 5 and b"test:a: " in r.stderr, (r.returncode, r.stderr)
        assert "refused the user" in got["a"]["error"] and len(got["b"]["luns"]) == 1, got


def corrupted(s, d):
    """Who reads a block that the medium holds no longer gets MEDIUM ERROR, and the log names the file and the block."""
    with h.Server("--file", f"{d}/sums.img,size=1M,integrity={d}/sums.crc") as v:
        lunette("cp", "-", v.url(0), stdin=os.urandom(MIB))
        with open(f"{d}/sums.img", "r+b") as f:
            f.seek(100 * 512)
            f.write(b"other")
        r = lunette("cp", v.url(0), "/dev/null", ok=False)
        assert r.returncode == 1 and b"medium error" in r.stderr, r.stderr
        with open(os.path.join(v.dir, "log")) as f:
            assert re.search(r"checksum mismatch disk=\S*sums.img block=100 ", f.read()), v.log_tail()


def chap(d):
    with h.Server("--ram", "1M", "--chap", "alice:secretsecret") as s:
        r = lunette("inquiry", s.url(0), ok=False)
        assert r.returncode == 5 and b"user" in r.stderr, (r.returncode, r.stderr)
        lunette("inquiry", s.url(0, "alice%secretsecret"))
        r = lunette("cp", "/dev/zero", s.url(0, "alice%secretsecret"), ok=False)
        assert b"holds only" in r.stderr and b"secretsecret" not in r.stderr, r.stderr
        r = lunette("inquiry", s.url(0, "alice%wrongsecret00"), ok=False)
        assert r.returncode == 5, r.stderr


def redirect(s, d):
    """A target that has moved is told in class 1 with its address (RFC 7143 11.13.5), and followed."""
    conf = f"{d}/moved.yaml"
    for permanent, status in (("off", 0x0101), ("on", 0x0102)):
        with open(conf, "w") as f:
            f.write(f"targets:\n  {s.iqn}:\n    redirect: {s.portal()}\n    redirect-permanent: {permanent}\n")
        with h.Server(config=conf) as old:
            try:
                iscsi.Session(old.host, old.port, s.iqn)
                raise RuntimeError("login was not redirected")
            except iscsi.LoginRefused as e:
                assert e.status == status, hex(e.status)
            one = json.loads(lunette("--json", "inquiry", f"iscsi://{old.portal()}/{s.iqn}/1").stdout)
            assert one["bytes"] == 32 * MIB, one
            if permanent == "off":  # libiscsi follows no permanent move
                subprocess.run(["qemu-img", "info", f"iscsi://{old.portal()}/{s.iqn}/0"], check=True,
                               capture_output=True, timeout=20)


def hostile():
    """A server whose answer is no UTF-8 and does not end in a zero: what is text is told, nothing is read behind it."""
    l = socket.create_server(("127.0.0.1", 0))
    l.settimeout(20)
    exe = os.path.join(os.path.dirname(os.environ.get("LUNETTED") or os.path.join(
        h.flavour_dir("release"), "src/lunetted/lunetted")), "../lunette/lunette")
    p = subprocess.Popen([exe, "--json", "discover", f"127.0.0.1:{l.getsockname()[1]}"], stdout=subprocess.PIPE)
    c, _ = l.accept()
    c.settimeout(20)

    def request():
        b = c.recv(48, socket.MSG_WAITALL)
        n = int.from_bytes(b[5:8], "big") if len(b) == 48 else 0
        c.recv(n + -n % 4, socket.MSG_WAITALL) if n else None
        return b

    def answer(b, op, flags, stat_sn, data, isid=bytes(8)):
        c.sendall(bytes([op, flags, 0, 0, 0]) + len(data).to_bytes(3, "big") + isid + b[16:20] + b"\xff" * 4 +
                  struct.pack(">I", stat_sn) + b[24:28] + struct.pack(">I", 100) + bytes(12) + data + bytes(-len(data) % 4))

    b = request()
    answer(b, 0x23, 0x83 | b[1] & 0x0c, 1, b"", b[8:14] + b"\0\1")
    answer(request(), 0x24, 0x80, 2, b"TargetName=\xff\xfe\0TargetAddress=x\0TargetName=iqn.a\0TargetAddress=1.2.3.4,1\0"
                                    b"TargetName=cut")
    request()
    c.close()
    out = p.communicate(timeout=20)[0]
    assert p.returncode == 0, p.returncode
    assert [t["target"] for t in json.loads(out)] == ["iqn.a", "cut"], out


def main():
    with tempfile.TemporaryDirectory(prefix="lunette-cmd-") as d, \
            h.Server("--ram", "32M", "--file", f"{d}/lun,size=32M,bs=4096") as s:
        rep.case("discover-ls-inquiry", listing, s)
        rep.case("cp", copies, s, d)
        rep.case("cp-from", goes_on, s, d)
        rep.case("cp-broken", broken, s, d)
        rep.case("refusals", refusals, s, d)
        rep.case("one-refuses", one_refuses, s, d)
        rep.case("corrupted", corrupted, s, d)
        rep.case("redirect", redirect, s, d)
        rep.case("hostile-server", hostile)
        rep.case("chap", chap, d)
    return rep.status()


if __name__ == "__main__":
    sys.exit(main())
