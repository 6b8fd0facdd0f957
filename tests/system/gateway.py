#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""A LUN of one server served onward by another (block driver iscsi): what clients of the second write is what the first has;
the first may die and come back under load; when it stays away requests fail after the configured time and not before."""
import hashlib, json, os, subprocess, sys, tempfile, time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import harness as h
import iscsi

rep = h.Report("system/gateway/")
MIB = 1 << 20
SIZE = 48 * MIB


def tool(name):
    return os.path.join(os.path.dirname(os.environ.get("LUNETTED") or os.path.join(h.flavour_dir("release"), "src/lunetted/lunetted")),
                        "..", "lunette", name)


def lunette(*args, timeout=60, ok=True):
    p = subprocess.run([tool("lunette"), *args], capture_output=True, text=True, timeout=timeout)
    if ok and p.returncode:
        raise RuntimeError(f"lunette {args[0]} ended with {p.returncode}: {h.tail(p.stderr)}")
    return p


def digest(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


class Pair:
    """A far server with a file, and a near one that serves its LUN."""

    def __init__(self, *options, loop=None, far=()):
        self.dir = tempfile.mkdtemp(prefix="lunette-gateway-")
        self.image = os.path.join(self.dir, "disk")
        self.far = h.Server("--file", f"{self.image},size={SIZE}", *far, loop=loop, target="iqn.2025-01.test.lunette:far")
        self.near = h.Server("--iscsi", ",".join([self.far.url(), *options]), loop=loop)

    def __enter__(self):
        return self

    def __exit__(self, kind, exc, tb):
        bad = [b for b in (self.near.finish(), self.far.finish()) if b]
        os.unlink(self.image)
        os.rmdir(self.dir)
        if bad and kind is None:
            raise RuntimeError("; ".join(bad))


def equal(loop, *options):
    """Proves that data written through the gateway by our client and by QEMU is what the far file holds, and the reverse."""
    with Pair(*options, loop=loop) as p:
        src, back = os.path.join(p.dir, "src"), os.path.join(p.dir, "back")
        try:
            with open(src, "wb") as f:
                f.write(os.urandom(SIZE // 2) + bytes(SIZE // 2))
            lunette("cp", src, p.near.url())
            if digest(p.image) != digest(src):
                raise RuntimeError("the far file differs from what was written")
            lunette("cp", p.near.url(), back)
            if digest(back) != digest(src):
                raise RuntimeError("what was read differs from what was written")
            q = subprocess.run(["qemu-img", "compare", "-f", "raw", "-F", "raw", src, p.near.url()], capture_output=True,
                               text=True, timeout=60)
            if q.returncode:
                raise RuntimeError("qemu-img compare: " + h.tail(q.stdout + q.stderr))
        finally:
            for f in (src, back):
                if os.path.exists(f):
                    os.unlink(f)


def zeros(loop):
    """Proves that WRITE SAME and UNMAP reach the far disk, and that it says what is a hole (GET LBA STATUS)."""
    with Pair(loop=loop) as p:
        s = iscsi.Session(p.near.host, p.near.port, p.near.iqn)
        s.ready()
        s.write(0, b"\xa5" * (4 * MIB))
        s.scsi(bytes([0x93, 8]) + (0).to_bytes(8, "big") + (4096).to_bytes(4, "big") + b"\0\0", out=bytes(512))
        if s.read(0, 4096) != bytes(2 * MIB):
            raise RuntimeError("WRITE SAME did not make zeros")
        if s.read(4096, 8) != b"\xa5" * 4096:
            raise RuntimeError("WRITE SAME reached too far")
        s.logout()
        with open(p.image, "rb") as f:
            if f.read(2 * MIB) != bytes(2 * MIB) or f.read(4096) != b"\xa5" * 4096:
                raise RuntimeError("the far file differs")


def load(near, seconds):
    return subprocess.Popen([tool("lunette"), "bench", "--rw", "randwrite", "--verify", "--bs", "16k", "--depth", "16", "--time",
                             str(seconds), "--warmup", "0", "--json", near.url()], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)


def killed(loop, *options):
    """Proves that the far server may be killed twice under load without an error for the near one's client."""
    with Pair("retry=30s", *options, loop=loop) as p:
        lunette("bench", "--fill", "--verify", "--time", "0.2", "--warmup", "0", p.near.url())
        writer = load(p.near, 5)
        for _ in range(2):
            time.sleep(1)
            p.far.kill()
            p.far.proc.stdout.close()
            p.far.log.close()
            time.sleep(0.5)
            p.far.start()
        out, err = writer.communicate(timeout=60)
        if writer.returncode:
            raise RuntimeError(f"load ended with {writer.returncode}: {h.tail(out + err)} near: {p.near.log_tail()}")
        r = json.loads(out)
        if r["errors"] or r["ios"] < 100:
            raise RuntimeError(f"{r['errors']} errors, {r['ios']} writes")
        lunette("bench", "--rw", "read", "--verify", "--bs", "64k", "--time", "1", "--warmup", "0", p.near.url())


def gone(loop):
    """Proves that requests fail after the configured time, with a reason in the log, and work again when the far server is
    back."""
    with Pair("retry=1s", loop=loop) as p:
        s = iscsi.Session(p.near.host, p.near.port, p.near.iqn)
        s.ready()
        s.write(8, b"x" * 512)
        p.far.kill()
        p.far.proc.stdout.close()
        p.far.log.close()
        began = time.monotonic()
        try:
            s.read(8, 1)
            raise RuntimeError("a read of a server that is gone succeeded")
        except iscsi.ScsiError as e:
            if e.key not in (4, 3):
                raise
        if time.monotonic() - began < 0.5:
            raise RuntimeError("it failed before its time")
        if "remote disk lost" not in p.near.log_tail(50):
            raise RuntimeError("nothing in the log: " + p.near.log_tail())
        p.far.start()
        end = time.monotonic() + 20
        while True:
            try:
                if s.read(8, 1) != b"x" * 512:
                    raise RuntimeError("wrong data")
                break
            except iscsi.ScsiError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)
        s.logout()


def main():
    if not h.binaries_there():
        rep.skip("all", "lunetted is not built")
        return 0
    for loop in ("uring", "epoll"):
        rep.case(f"{loop}/hash", equal, loop)
        rep.case(f"{loop}/hash-digests-4-connections-level-2", equal, loop, "connections=4", "level=2", "digests=both")
        rep.case(f"{loop}/zeros", zeros, loop)
        rep.case(f"{loop}/killed-under-load", killed, loop)
        rep.case(f"{loop}/gone", gone, loop)
    return rep.status()


if __name__ == "__main__":
    sys.exit(main())
