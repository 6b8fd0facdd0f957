#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Runs `lunette check --destructive` against targets of this machine's packages, each started on loopback with a disk,
control sockets and state of its own, and writes the table of docs/conformance.md. A target that dies is started again
and the cases that are left run one by one.

  check_targets.py [--write] [--suite NAME] [TARGET]...      TARGET: lunette tgt istgt; all by default
Of targets that are not run the table has the results of their last run, kept in build/.
LUNETTE and LUNETTED name the programs, if not those of build/."""
import argparse, json, os, random, re, shutil, socket, subprocess, sys, tempfile, time
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LUNETTE = os.environ.get("LUNETTE") or f"{ROOT}/build/src/lunette/lunette"
LUNETTED = os.environ.get("LUNETTED") or f"{ROOT}/build/src/lunetted/lunetted"
KINDS = ("lunette", "tgt", "istgt")
IQN = "iqn.2026-11.test.lunette:disk"
LUNETTE_CONF = """
portals: [ "127.0.0.1:{0}", "127.0.0.1:{1}", {{ listen: "127.0.0.1:{2}", group: 2 }} ]
volumes: {{ disk: {{ type: ram, size: 64MiB }} }}
targets: {{ "{3}": {{ luns: {{ 0: disk }}, error-recovery-level: 2 }} }}
"""
ISTGT = """[Global]
  NodeBase "iqn.2026-11.test.lunette"
  PidFile {d}/pid
  AuthFile {d}/auth
  MediaDirectory {d}
  Timeout 30
  NopInInterval 20
  MaxSessions 64
  MaxConnections 8
  MaxR2T 32
  MaxOutstandingR2T 16
  DefaultTime2Wait 2
  DefaultTime2Retain 20
  FirstBurstLength 262144
  MaxBurstLength 1048576
  MaxRecvDataSegmentLength 262144
  InitialR2T Yes
  ImmediateData Yes
  DataPDUInOrder Yes
  DataSequenceInOrder Yes
  ErrorRecoveryLevel 0
[UnitControl]
  AuthMethod None
  Portal UC1 127.0.0.1:{ctl}
  Netmask 127.0.0.1
[PortalGroup1]
  Portal DA1 127.0.0.1:{port}
[InitiatorGroup1]
  InitiatorName "ALL"
  Netmask 127.0.0.0/8
[LogicalUnit1]
  TargetName disk
  Mapping PortalGroup1 InitiatorGroup1
  AuthMethod Auto
  UseDigest Auto
  UnitType Disk
  QueueDepth 32
  LUN0 Storage {d}/disk 64MB
"""


def free_port():
    while True:  # below what outgoing connections draw from, and tgtd's control numbers end at 32767
        port = random.randrange(20000, 32000)
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)):
                return port


class Target:
    """One running target. up() starts it anew."""

    def __init__(self, kind):
        self.kind, self.proc, self.lun = kind, None, 1 if kind == "tgt" else 0

    def __enter__(self):
        self.dir = tempfile.mkdtemp(prefix="lunette-check-")
        self.up()
        return self

    def __exit__(self, *a):
        self.down()
        shutil.rmtree(self.dir, ignore_errors=True)

    def spawn(self, *cmd):
        log = open(f"{self.dir}/log", "ab")
        self.proc = subprocess.Popen(cmd, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.dir)

    def adm(self, *args):
        return subprocess.run(["tgtadm", "-C", str(self.port), "--lld", "iscsi", *args], capture_output=True).returncode

    def up(self):
        self.port = free_port()
        with open(f"{self.dir}/disk", "wb") as f:
            f.truncate(64 << 20)
        getattr(self, f"up_{self.kind}")()
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.1)
        raise SystemExit(f"{self.kind} does not start: {open(self.dir + '/log').read()[-400:]}")

    def up_lunette(self):
        with open(f"{self.dir}/conf.yaml", "w") as f:
            f.write(LUNETTE_CONF.format(self.port, free_port(), free_port(), IQN))
        self.spawn(LUNETTED, "--config", f"{self.dir}/conf.yaml", "--state", f"{self.dir}/state", "--socket", f"{self.dir}/ctl")

    def up_tgt(self):
        os.makedirs("/var/run/tgtd", exist_ok=True)
        self.spawn("tgtd", "-f", "-C", str(self.port), "--iscsi", f"portal=127.0.0.1:{self.port},portal=127.0.0.1:{free_port()}")
        for _ in range(50):
            if self.adm("--mode", "target", "--op", "show") == 0:
                break
            time.sleep(0.1)
        self.adm("--mode", "target", "--op", "new", "--tid", "1", "--targetname", IQN)
        self.adm("--mode", "target", "--op", "bind", "--tid", "1", "--initiator-address", "ALL")
        for k in ("HeaderDigest", "DataDigest"):  # its default refuses CRC32C
            self.adm("--mode", "target", "--op", "update", "--tid", "1", "--name", k, "--value", "CRC32C,None")
        self.adm("--mode", "logicalunit", "--op", "new", "--tid", "1", "--lun", "1", "--bstype", "rdwr",
                 "--backing-store", f"{self.dir}/disk")

    def up_istgt(self):
        for name, text in (("conf", ISTGT.format(d=self.dir, port=self.port, ctl=free_port())), ("auth", "")):
            with open(f"{self.dir}/{name}", "w") as f:
                f.write(text)
            os.chmod(f"{self.dir}/{name}", 0o600)
        self.spawn("istgt", "-D", "-c", f"{self.dir}/conf")

    def down(self):
        if self.proc.poll() is None:
            self.proc.kill()
        self.proc.wait()
        for f in (f"/var/run/tgtd/socket.{self.port}", f"/var/run/tgtd/socket.{self.port}.lock"):
            if self.kind == "tgt" and os.path.exists(f):
                os.unlink(f)

    def check(self, suite, case=None):
        cmd = [LUNETTE, "check", "--json", "--destructive", "--timeout", "3", "--suite", suite]
        cmd += ["--case", case] if case else []
        r = subprocess.run(cmd + [f"iscsi://127.0.0.1:{self.port}/{IQN}/{self.lun}"], capture_output=True, text=True, timeout=1200)
        try:
            return json.loads(r.stdout)["cases"]
        except ValueError:
            return None


def version(kind):
    if kind == "lunette":
        return "Lunette"
    r = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", kind], capture_output=True, text=True)
    return f"{kind} {r.stdout.split('-')[0].split(':')[-1]}"


def suites():
    r = subprocess.run([LUNETTE, "check", "--list"], capture_output=True, text=True)
    seen = {}
    for l in r.stdout.splitlines()[1:]:
        seen.setdefault(l.split("/")[0], []).append(l.split()[0].split("/")[1])
    return seen


def run(kind, want):
    """{suite: {case: row}}"""
    out = {}
    with Target(kind) as t:
        for suite, names in suites().items():
            if suite == "every" or want and suite not in want:
                continue
            rows, left = out.setdefault(suite, {}), names
            while left:
                for c in t.check(suite, None if left == names else ",".join(left)) or []:
                    if c["suite"] == suite:
                        rows[c["case"]] = c
                    elif c["suite"] == "every":
                        seen = out.setdefault("every", {})
                        if c["case"] not in seen or c["result"] == "fail":
                            seen[c["case"]] = c
                done = [n for n in left if n in rows and rows[n]["result"] != "skipped"] or left[:1]
                left = [n for n in left if n not in done]
                if left or any("no new session" in r["reason"] for r in rows.values()):
                    t.down()  # it died on the way
                    t.up()
            count = {}
            for r in rows.values():
                count[r["result"]] = count.get(r["result"], 0) + 1
            print(f"{kind:8} {suite:10} {count}", flush=True)
    return out


def cell(rows):
    n = {k: sum(r["result"] == k for r in rows.values()) for k in ("pass", "fail", "lax", "not supported", "skipped")}
    return f"{n['pass']} / {n['fail']} / {n['lax']} / {n['not supported'] + n['skipped']}", n


def table(results):
    kinds = list(results)
    out = ["| suite | " + " | ".join(version(k) for k in kinds) + " |", "|---|" + "---:|" * len(kinds)]
    total = {k: {} for k in kinds}
    for suite in [s for s in suites() if any(s in r for r in results.values())]:
        cells = []
        for k in kinds:
            text, n = cell(results[k].get(suite, {}))
            cells.append(text)
            for w, v in n.items():
                total[k][w] = total[k].get(w, 0) + v
        out.append(f"| {suite} | " + " | ".join(cells) + " |")
    out.append("| **all** | " + " | ".join(f"**{n['pass']} / {n['fail']} / {n['lax']} / {n['not supported'] + n['skipped']}**"
                                           for n in total.values()) + " |")
    for k in kinds:
        bad = [(s, c, r) for s, rows in results[k].items() for c, r in rows.items() if r["result"] in ("fail", "lax")]
        out += ["", f"### {version(k)}: what fails", ""]
        out += ["Nothing."] if not bad else ["| case | clause | the target must | but |", "|---|---|---|---|"]
        for s, c, r in bad:
            why = re.sub(r"0x[0-9a-f]+", "0x..", r["reason"]).replace("|", "\\|")
            lax = " (lax)" if r["result"] == "lax" else ""
            out.append(f"| `{s}/{c}`{lax} | {r['clause']} | {r['requirement']} | {why} |".replace("\n", " "))
    return "\n".join(out) + "\n"


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--write", action="store_true", help="into docs/conformance.md")
    ap.add_argument("--suite", action="append")
    ap.add_argument("target", nargs="*", choices=[*KINDS, []])
    a = ap.parse_args()
    results = {}
    for k in KINDS:
        kept = f"{ROOT}/build/check-{k}.json"
        if not a.target or k in a.target:
            results[k] = run(k, a.suite)
            with open(kept, "w") as f:
                json.dump(results[k], f)
        elif os.path.exists(kept):
            with open(kept) as f:
                results[k] = json.load(f)
    text = table(results)
    if not a.write:
        print(text)
        return
    path = f"{ROOT}/docs/conformance.md"
    old = open(path).read()
    mark = "<!-- written by tools/check_targets.py -->\n"
    with open(path, "w") as f:
        f.write(old[:old.index(mark) + len(mark)] + "\n" + text)


if __name__ == "__main__":
    main()
