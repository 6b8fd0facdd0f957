#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""SQLite on a LUN whose power is cut. A SQLite file system (VFS) keeps a database, its journal and its log in three regions
of a LUN; the server's volume has the crash filter below it, which at a drawn flush loses, keeps or tears each write that
was not flushed. After every cut the server starts again on what is left, and every commit that SQLite acknowledged must
be there and the database whole. With a VFS that never flushes the same test must find losses: that shows that it can.

The Debian interpreter is named because python3-apsw is built for it."""
import os, random, struct, sys, tempfile
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
import harness as h
import iscsi

rep = h.Report("system/database/")
CUTS = int(os.environ.get("LUNETTE_CUTS", "100"))
try:
    import apsw
except ImportError:
    rep.skip("sqlite", "python3-apsw is not installed")
    sys.exit(rep.status())

MIB, SECTOR = 1 << 20, 512
REGION = {"db": 0, "db-journal": 1, "db-wal": 2}  # each of SIZE bytes; its first sector holds the length
SIZE = 5 * MIB


class Disk:
    """Bytes on a LUN; a sector is the unit, like on a disk."""

    def __init__(self, server, honest):
        self.s = iscsi.Session(server.host, server.port, server.iqn)
        self.s.ready()
        self.honest = honest

    def read(self, off, n):
        a, b = off // SECTOR, (off + n + SECTOR - 1) // SECTOR
        return self.s.read(a, b - a)[off - a * SECTOR:][:n] if n else b""

    def write(self, off, data):
        a, b = off // SECTOR, (off + len(data) + SECTOR - 1) // SECTOR
        if off % SECTOR or len(data) % SECTOR:
            whole = bytearray(self.s.read(a, b - a))
            whole[off - a * SECTOR:off - a * SECTOR + len(data)] = data
            data = bytes(whole)
        self.s.write(a, data)

    def flush(self):
        if self.honest:
            self.s.flush()


def quiet(*args):
    """Errors of the disk reach SQLite as I/O errors; nobody wants their traces."""



class File:
    excepthook = staticmethod(quiet)

    def __init__(self, disk, name, flags):
        self.d, self.base = disk, REGION[name] * SIZE
        magic, self.size = struct.unpack("<8sQ", disk.read(self.base, 16))
        if magic != b"present\0":
            self.size = 0
            self.head()
        self.out = flags

    def head(self, present=True):
        self.d.write(self.base, struct.pack("<8sQ", b"present\0" if present else bytes(8), self.size).ljust(SECTOR, b"\0"))

    def xRead(self, n, off):
        got = self.d.read(self.base + SECTOR + off, max(0, min(n, self.size - off)))
        return got

    def xWrite(self, data, off):
        self.d.write(self.base + SECTOR + off, data)
        if off + len(data) > self.size:
            self.size = off + len(data)
            self.head()

    def xTruncate(self, n):
        self.size = n
        self.head()

    def xSync(self, flags):
        self.d.flush()

    def xFileSize(self):
        return self.size

    def xClose(self):
        pass

    def xLock(self, level):
        pass

    def xUnlock(self, level):
        pass

    def xCheckReservedLock(self):
        return False

    def xFileControl(self, op, ptr):
        return False

    def xSectorSize(self):
        return SECTOR

    def xDeviceCharacteristics(self):
        return 0


class Vfs(apsw.VFS):
    excepthook = staticmethod(quiet)

    def __init__(self, disk, name):
        self.disk = disk
        apsw.VFS.__init__(self, name, base="")

    def xFullPathname(self, name):
        return name

    def xOpen(self, name, flags):
        return File(self.disk, str(name.filename() if hasattr(name, "filename") else name), flags)

    def xAccess(self, name, flags):
        if name not in REGION:
            return False
        return self.disk.read(REGION[name] * SIZE, 8) == b"present\0"

    def xDelete(self, name, sync):
        self.disk.write(REGION[name] * SIZE, bytes(SECTOR))
        if sync:
            self.disk.flush()


class Lost(RuntimeError):
    pass


def content(k):
    return random.Random(k).randbytes(200 + k * 37 % 3000)


def open_db(vfs, mode):
    c = apsw.Connection("db", vfs=vfs)
    x = c.cursor()
    x.execute("pragma locking_mode=exclusive")
    x.execute(f"pragma journal_mode={mode}")
    x.execute("pragma synchronous=full")
    x.execute("create table if not exists t(k integer primary key, v blob)")
    return c, x


def work(server, name, mode, honest, acked):
    """Commits rows until the power goes; returns the last that was acknowledged."""
    rng = random.Random(acked)
    vfs = Vfs(Disk(server, honest), name)
    try:
        c, x = open_db(name, mode)
        for k in range(acked + 1, acked + 200):
            x.execute("begin")
            x.execute("insert into t values(?,?)", (k, content(k)))
            if rng.random() < 0.3 and k > 5:
                x.execute("update t set v=? where k=?", (content(k - 5), k - 5))
            x.execute("commit")
            acked = k
    except (apsw.Error, iscsi.ScsiError, iscsi.Closed, OSError):
        pass
    del vfs
    return acked


def check(server, name, mode, acked):
    """Every acknowledged row is there with its content; returns the last row there is."""
    vfs = Vfs(Disk(server, True), name)
    c, x = open_db(name, mode)
    word = x.execute("pragma integrity_check").fetchone()[0]
    if word != "ok":
        raise Lost(f"integrity_check: {word[:200]}")
    rows = x.execute("select k, v from t order by k").fetchall()
    if [k for k, _ in rows] != list(range(1, len(rows) + 1)) or len(rows) < acked:
        raise Lost(f"{len(rows)} rows; {acked} were acknowledged")
    for k, v in rows:
        if v != content(k):
            raise Lost(f"row {k} has the wrong content")
    c.close()
    del vfs
    return len(rows)


def torture(mode, honest, cuts):
    rng = random.Random(cuts)
    acked = total = 0
    with tempfile.TemporaryDirectory(prefix="lunette-db-") as d:
        for n in range(cuts):
            if n % 25 == 0 and os.path.exists(f"{d}/lun"):  # start over before it grows out of its regions
                os.unlink(f"{d}/lun")
                acked = 0
            conf = f"{d}/conf.yaml"
            with open(conf, "w") as f:
                f.write(f"""volumes:
  lun: {{ type: file, path: {d}/lun, size: 16MiB, filters: [ {{ type: crash, flush: {rng.randint(1, 90)}, seed: {n} }} ] }}
targets:
  iqn.2025-01.test.lunette:disk: {{ luns: {{ 0: lun }} }}
""")
            s = h.Server("--cores", "1", config=conf)
            got = work(s, f"v{mode}{honest}{n}", mode, honest, acked)
            total += got - acked
            s.kill()
            s = h.Server("--file", f"{d}/lun", "--cores", "1")
            try:
                acked = check(s, f"c{mode}{honest}{n}", mode, got)
            finally:
                s.kill()
    return total


def losses_are_found():
    try:
        torture("delete", False, 20)
    except (Lost, apsw.CorruptError, apsw.NotADBError, apsw.SQLError) as e:
        rep.ok("without-flushes-it-finds-a-loss", str(e)[:80])
    else:
        rep.fail("without-flushes-it-finds-a-loss", "20 cuts without a flush lost nothing: the test proves nothing")


def main():
    for mode in ("delete", "wal"):
        def case():
            n = torture(mode, True, CUTS // 2)
            return f"{CUTS // 2} power cuts, {n} commits"
        rep.case(f"sqlite-{mode}", case)
    losses_are_found()
    return rep.status()


if __name__ == "__main__":
    sys.exit(main())
