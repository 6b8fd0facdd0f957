#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Disks as an administrator moves them about: large and sparse RAM, an image that goes to another server, a partitioned
disk whose clone is the same byte for byte. The unit of comparison is the hash of the whole disk."""
import hashlib, os, shutil, struct, subprocess, sys, tempfile
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
import harness as h
import iscsi

rep = h.Report("system/devices/")
MIB, GIB = 1 << 20, 1 << 30


def session(s, lun=0):
    c = iscsi.Session(s.host, s.port, s.iqn, lun)
    c.ready()
    return c


def lunette(*args):
    d = os.path.dirname(os.environ.get("LUNETTED") or os.path.join(h.flavour_dir("release"), "src/lunetted/lunetted"))
    subprocess.run([os.path.join(d, "../lunette/lunette"), *args], check=True, capture_output=True, timeout=100)


def digest(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def ram_large(loop):
    """8 GiB and 1 PiB of RAM disk are there at once, hold what is written at both ends, and are empty and another disk
    after a restart."""
    s = h.Server("--ram", "8G", "--ram", "1048576G", loop=loop)
    ids = []
    try:
        for lun, size in ((0, 8 * GIB), (1, 1 << 50)):
            c = session(s, lun)
            last, bs = c.capacity()
            assert (last + 1) * bs == size, (last, bs)
            for lba in (0, last - 7):
                c.write(lba, struct.pack("<Q", lba) * 512)
                assert c.read(lba, 8) == struct.pack("<Q", lba) * 512
            assert c.read(last // 2, 8) == bytes(4096)
            ids.append(c.inquiry(0x83))
            c.close()
        with open(f"/proc/{s.pid()}/status") as f:
            rss = next(int(l.split()[1]) for l in f if l.startswith("VmRSS")) * 1024
        assert rss < 512 * MIB, f"{rss} bytes resident"
        assert s.stop() == 0
        s.start()
        for lun in (0, 1):
            c = session(s, lun)
            assert c.read(0, 8) == bytes(4096)
            assert c.inquiry(0x83) != ids[lun], "a new disk with the identity of the old"
            c.close()
    finally:
        s.finish()


def moved_image(d, loop):
    """An image written through one server is the same disk on another (its state goes along with the state directory only)."""
    data = os.urandom(3 * MIB)
    with h.Server("--file", f"{d}/a.img,size=64M", loop=loop) as s:
        c = session(s)
        c.write(2048, data)
        c.flush()
        c.close()
    assert os.stat(f"{d}/a.img").st_blocks * 512 < 8 * MIB, "not sparse"
    want = digest(f"{d}/a.img")
    shutil.copy(f"{d}/a.img", f"{d}/b.img")
    with h.Server("--file", f"{d}/b.img,ro", loop=loop) as s:
        c = session(s)
        assert c.read(2048, len(data) // 512) == data
        c.close()
        lunette("cp", s.url(), f"{d}/c.img")
    assert digest(f"{d}/c.img") == want


def partitioned(d, loop):
    """A partition table is data like any other: the whole disk that is read equals its source, a clone has the same table."""
    sfdisk = shutil.which("sfdisk") or "/usr/sbin/sfdisk"
    if not os.path.exists(sfdisk):
        raise h.Skip("sfdisk is not installed")
    disk = f"{d}/gpt.img"
    with open(disk, "wb") as f:
        f.truncate(64 * MIB)
    subprocess.run([sfdisk, "-q", disk], input=b"label: gpt\n,20M,L\n,10M,S\n,,L\n", check=True, timeout=20)
    with open(disk, "r+b") as f:
        f.seek(1 * MIB)
        f.write(os.urandom(5 * MIB))
    with h.Server("--file", disk, "--file", f"{d}/clone.img,size=64M", loop=loop) as s:
        lunette("cp", s.url(0), f"{d}/read.img")
        lunette("cp", s.url(0), s.url(1))
    assert digest(f"{d}/read.img") == digest(disk) == digest(f"{d}/clone.img")
    table = [subprocess.run([sfdisk, "-d", p], check=True, capture_output=True, timeout=20).stdout.splitlines()[1:5]
             for p in (disk, f"{d}/clone.img")]
    assert table[0][:1] == table[1][:1], table


def main():
    with tempfile.TemporaryDirectory(prefix="lunette-dev-") as d:
        for loop in ("uring", "epoll"):
            rep.case(f"{loop}/ram-8GiB-1PiB", ram_large, loop)
            rep.case(f"{loop}/image-moves", moved_image, tempfile.mkdtemp(dir=d), loop)
            rep.case(f"{loop}/partitions", partitioned, tempfile.mkdtemp(dir=d), loop)
    return rep.status()


if __name__ == "__main__":
    sys.exit(main())
