#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Faults between our initiator and the server under load: bits flipped, PDUs dropped, doubled and delayed, connections cut,
cut within a PDU, and half closed, in both directions. With both digests nothing that a client asked for may fail, no byte may be
wrong and nothing may hang (RFC 7143 section 7: level 1 for what damages PDUs, level 2 for what ends connections).

  recovery.py                 a few of each kind
  recovery.py --faults N      at least N of each kind and direction (500 is the long form)
  recovery.py --seed N        other moments"""
import argparse, json, os, random, selectors, socket, subprocess, sys, tempfile, threading, time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import harness as h

rep = h.Report("system/recovery/")
LEVEL1 = ("flip-data", "drop", "double", "delay")
LEVEL2 = LEVEL1 + ("flip", "cut", "cut-within", "half-close")
LOGIN_RSP, FULL_FEATURE = 0x23, 3


class Stream:
    """One direction of a connection: bytes in, whole PDUs out."""

    def __init__(self, link, name):
        self.link, self.name, self.data, self.out = link, name, bytearray(), bytearray()
        self.hold_until, self.shut = 0.0, False

    def pdus(self):
        while len(self.data) >= 48:
            digest = 4 if self.link.full_feature else 0
            n = 48 + 4 * self.data[4] + digest
            data = int.from_bytes(self.data[5:8], "big")
            if data:
                n += (data + 3 & ~3) + digest
            if len(self.data) < n:
                return
            pdu = bytes(self.data[:n])
            del self.data[:n]
            yield pdu


class Link:
    def __init__(self, near, far):
        self.near, self.far, self.full_feature = near, far, False
        self.up, self.down = Stream(self, "up"), Stream(self, "down")


class FaultProxy:
    """plan: [(kind, direction)]; each happens to a PDU of full feature phase, one after about every `every` seconds."""

    def __init__(self, to, plan, every, seed):
        self.to, self.plan, self.every, self.rng = to, plan, every, random.Random(seed)
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.listener.setblocking(False)
        self.port = self.listener.getsockname()[1]
        self.sel = selectors.DefaultSelector()
        self.sel.register(self.listener, selectors.EVENT_READ)
        self.links, self.done, self.due, self.stopping = {}, {}, time.monotonic() + 0.3, False
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def stop(self):
        self.stopping = True
        self.thread.join(10)

    def run(self):
        while not self.stopping:
            for key, _ in self.sel.select(0.005):
                if key.fileobj is self.listener:
                    self.accept()
                elif key.fileobj in self.links:
                    self.readable(key.fileobj)
            now = time.monotonic()
            for link in set(self.links.values()):
                self.flush(link, now)
        for link in set(self.links.values()):
            self.close(link, False)
        self.listener.close()

    def accept(self):
        try:
            near, _ = self.listener.accept()
        except OSError:
            return
        try:
            far = socket.create_connection(self.to, timeout=5)
        except OSError:
            near.close()
            return
        link = Link(near, far)
        for s in (near, far):
            s.setblocking(False)
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.links[s] = link
            self.sel.register(s, selectors.EVENT_READ)

    def close(self, link, reset):
        for s in (link.near, link.far):
            if self.links.pop(s, None) is None:
                continue
            self.sel.unregister(s)
            if reset:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            s.close()

    def readable(self, s):
        link = self.links[s]
        stream = link.up if s is link.near else link.down
        if len(stream.out) > 8 << 20:
            time.sleep(0.001)
            return
        try:
            got = s.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError:
            self.close(link, True)
            return
        if not got:
            self.flush(link, float("inf"))
            self.close(link, False)
            return
        stream.data += got
        for pdu in stream.pdus():
            if not self.forward(link, stream, pdu):
                return
        self.flush(link, time.monotonic())

    def forward(self, link, stream, pdu):
        """False: the connection is gone."""
        if stream.shut:
            return True
        if link.full_feature and self.plan and time.monotonic() >= self.due:
            kind = self.take(stream.name, pdu)
            if kind:
                self.due = time.monotonic() + self.rng.expovariate(1 / self.every)
                return self.fault(link, stream, pdu, kind)
        stream.out += pdu
        if not link.full_feature and stream.name == "down" and pdu[0] & 0x3f == LOGIN_RSP and pdu[1] & 0x80 and \
                pdu[1] & 3 == FULL_FEATURE and not pdu[36]:
            link.full_feature = True
        return True

    def take(self, direction, pdu):
        """The next kind of fault that this PDU can have; it leaves the plan."""
        for k, (kind, d) in enumerate(self.plan[:40]):
            if d != direction or (kind == "flip-data" and not int.from_bytes(pdu[5:8], "big")):
                continue
            del self.plan[k]
            self.done[kind, d] = self.done.get((kind, d), 0) + 1
            return kind
        return None

    def fault(self, link, stream, pdu, kind):
        rng = self.rng
        if kind in ("flip", "flip-data"):
            at = rng.randrange(52 + 4 * pdu[4] if kind == "flip-data" else 0, len(pdu))
            pdu = pdu[:at] + bytes([pdu[at] ^ 1 << rng.randrange(8)]) + pdu[at + 1:]
            stream.out += pdu
        elif kind == "double":
            stream.out += pdu + pdu
        elif kind == "delay":
            stream.out += pdu
            stream.hold_until = time.monotonic() + rng.uniform(0.01, 0.25)
        elif kind == "half-close":
            stream.shut = True
            to = link.far if stream is link.up else link.near
            self.flush(link, float("inf"))
            try:
                to.shutdown(socket.SHUT_WR)
            except OSError:
                pass
        elif kind in ("cut", "cut-within"):
            if kind == "cut-within":
                stream.out += pdu[:rng.randrange(1, len(pdu))]
                self.flush(link, float("inf"))
            self.close(link, kind == "cut")
            return False
        return True

    def flush(self, link, now):
        for stream, to in ((link.up, link.far), (link.down, link.near)):
            if not stream.out or now < stream.hold_until or to not in self.links:
                continue
            try:
                n = to.send(stream.out)
                del stream.out[:n]
            except BlockingIOError:
                pass
            except OSError:
                self.close(link, True)
                return


def server(directory, level):
    conf = os.path.join(directory, "conf.yaml")
    with open(conf, "w") as f:
        f.write(f"""
volumes:
  disk: {{ type: ram, size: 64MiB }}
targets:
  iqn.2025-01.test.lunette:disk:
    error-recovery-level: {level}
    luns: {{ 0: {{ volume: disk }} }}
""")
    return conf


def under_load(level, kinds, each, every, seed, connections, seconds_max):
    """Proves that so many faults of each kind and direction under load fail no command and spoil no byte."""
    with tempfile.TemporaryDirectory(prefix="lunette-recovery-") as d, h.Server(config=server(d, level)) as s:
        plan = [(k, way) for k in kinds for way in ("up", "down") for _ in range(each)]
        random.Random(seed).shuffle(plan)
        total = len(plan)
        proxy = FaultProxy((s.host, s.port), plan, every, seed)
        url = f"iscsi://127.0.0.1:{proxy.port}/{s.iqn}/0?level={level}&connections={connections}&digests=both"
        end, runs, repairs = time.monotonic() + seconds_max, 0, {}
        try:
            while proxy.plan and time.monotonic() < end:
                want = min(30, max(2, len(proxy.plan) * every * 1.5))
                p = subprocess.run([lunette(), "bench", "--rw", "mixed", "--verify", "--bs", "8k", "--depth", "24", "--size", "32m",
                                    "--warmup", "0", "--probe", "100", "--time", str(want), "--json", url],
                                   capture_output=True, text=True, timeout=want + 90)
                if p.returncode:
                    raise RuntimeError(f"after {total - len(proxy.plan)} faults: bench ended with {p.returncode}: "
                                       f"{h.tail(p.stdout + p.stderr)}; server: {s.log_tail(2)}")
                r = json.loads(p.stdout)
                if r["errors"] or r["mismatches"] or r["sessions_lost"]:
                    raise RuntimeError(f"after {total - len(proxy.plan)} faults: {p.stdout}; server: {s.log_tail(2)}")
                for k in ("connections_lost", "snacks", "commands_resent", "reassigned"):
                    repairs[k] = repairs.get(k, 0) + r[k]
                runs += 1
        finally:
            proxy.stop()
        if proxy.plan:
            raise RuntimeError(f"only {total - len(proxy.plan)} of {total} faults in {seconds_max} s")
        print(f"# level {level}: {total} faults in {runs} runs, repairs {repairs}", flush=True)


def lunette():
    base = os.environ.get("LUNETTED") or os.path.join(h.flavour_dir("release"), "src/lunetted/lunetted")
    return os.path.join(os.path.dirname(base), "..", "lunette", "lunette")


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--faults", type=int, default=6)
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--level", type=int, choices=(1, 2))
    a = ap.parse_args()
    if not h.binaries_there():
        rep.skip("all", "lunetted is not built")
        return 0
    most = 60 + a.faults * 12
    if a.level in (None, 1):
        rep.case("level-1", under_load, 1, LEVEL1, a.faults, 0.05, a.seed, 4, most)
    if a.level == 2:
        rep.case("level-2", under_load, 2, LEVEL2, a.faults, 0.05, a.seed, 4, most)
    return rep.status()


if __name__ == "__main__":
    sys.exit(main())
