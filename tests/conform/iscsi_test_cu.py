#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Runs libiscsi's conformance suite, iscsi-test-cu, against LUNs of several profiles, on both loops and under the
sanitizers. One case for each suite.test and configuration, merged over the LUN profiles: the worst verdict wins,
skipped means skipped on every profile. expected.txt says what may skip or fail, with the reason.

  iscsi_test_cu.py                 everything that tests/run wants
  iscsi_test_cu.py --url URL       one run against any target (to try this program)
  iscsi_test_cu.py --config release-uring [--profile thin] [-t SUITE]..."""
import argparse, concurrent.futures as cf, fnmatch, os, re, shutil, sys, tempfile, time
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
import harness as h

MIB = 1 << 20
# LUN profile: (server options, suites or None for all, suites left out). Below 2^21 blocks, so that every LBA
# can be reached with READ (6); 8000 blocks at least.
PROFILES = {
    "thin": (["--ram", "512M,pbs=512"], None),
    "file": (["--file", "{dir}/lun,size=512M"], None),
    "512e": (["--file", "{dir}/lun,size=256M,bs=512,pbs=4096"], None),
    "4096": (["--ram", "512M,bs=4096"], None),
    "removable": (["--ram", "256M,removable"],
                  ["NoMedia", "PreventAllow", "StartStopUnit", "TestUnitReady", "Inquiry", "Mandatory"]),
    "checked": (["--file", "{dir}/lun,size=256M,integrity={dir}/sums,pi=1"],
                ["WriteAtomic16", "CompareAndWrite", "OrWrite", "Read10", "Read16", "Write16", "Verify16", "Unmap",
                 "WriteSame16", "Inquiry", "ReadCapacity16"]),
    "ro": (["--file", "{dir}/lun,ro"], ["ReadOnly", "Read10", "Read16", "TestUnitReady", "ModeSense6"]),
}
# Where each command waits for the disk, a suite takes longer: an UNMAP is in the log of checksums before it ends.
PATIENCE = {"checked": 4}
# Tests that mean something on one kind of LUN only: where else they are not run, and why. GetLBAStatus.UnmapSingle
# unmaps every other logical block, and by the tool's mistake expects an answer about the next physical one.
# ProutReserve.Access* writes blocks of 512 bytes whatever the LUN has.
NOT_ON = {"GetLBAStatus.UnmapSingle": ("file", "512e", "removable", "ro"), "ProutReserve.Access*": ("4096",)}
# These write 512 bytes as one block, whatever the block is: a part of one of 4096, which we refuse.
NOT_ON |= {f"ProutReserve.Access{t}": ("4096",) for t in ("EA", "WE", "EARO", "WERO", "EAAR", "WEAR")}
# What a test says when the LUN is not of its kind: the profile that has such a LUN.
NEEDS = {"not removable": "removable", "Media is not": "removable", "not write-protected": "ro", "LBPPB < 2": "512e",
         "WRITEATOMIC16 is not implemented": "thin"}
# build, loop: profiles. The first column of a run's names.
CONFIGS = {
    "release-uring": ("release", "uring", list(PROFILES)),
    "release-epoll": ("release", "epoll", ["thin", "file", "checked"]),
    "asan-uring": ("asan", "uring", ["thin", "file", "removable"]),
    "asan-epoll": ("asan", "epoll", ["file"]),
    "tsan-uring": ("tsan", "uring", ["thin"]),
    "tsan-epoll": ("tsan", "epoll", ["file"]),
}
TEST = re.compile(r"^  Test: (\S+) \.\.\.(.*)$")


def suites():
    r = h.run(["iscsi-test-cu", "-l"], 20)
    seen = []
    for l in r.stdout.splitlines():
        m = re.match(r"^ALL\.([^.]+)\.([^.]+)$", l)
        if m:
            seen.append((m[1], m[2]))
    return seen


def parse(out):
    """{test: (verdict, words)}"""
    found, name, last, text = {}, None, None, []
    for l in out.splitlines():
        m = TEST.match(l)
        if m:
            if name:
                found[name] = ("FAIL", "no verdict: " + " ".join(text))
            name, text, l = m[1], [], m[2]
        a = re.match(r"^\s+\d+\. (\S+:\d+\s+- .*)$", l)
        if name is None:
            if a and last in found:  # the assertions of a test follow its verdict
                found[last] = (found[last][0], (found[last][1] + " " + " ".join(a[1].split())).strip())
            continue
        # behind the last verdict of a suite its teardown talks; CUnit does not count that
        v = re.match(r"^(.*?)(passed|FAILED)(?:\s+\[.*)?$", l.rstrip())
        if not v or v[1].endswith("["):
            text.append(l.strip())
            continue
        words = " ".join(t for t in [*text, v[1].strip()] if t)
        verdict = "FAIL" if v[2] == "FAILED" else "SKIP" if "[SKIPPED]" in words else "passed"
        found[name] = (verdict, words)
        last, name = name, None
    if name:
        found[name] = ("FAIL", "no verdict: " + " ".join(text))
    return found


def run_suite(suite, tests, urls, limit):
    url = urls[0]
    cmd = ["iscsi-test-cu", "--dataloss", "--allow-sanitize", f"--test=ALL.{suite}", url]
    if suite == "MultipathIO":
        cmd.append(urls[-1])
    r = h.run(cmd, limit)
    found = parse(r.stdout)
    if set(tests) <= set(found):
        return found, r.stdout
    if len(tests) == 1:
        return {tests[0]: ("FAIL", f"no verdict, status {r.returncode}: {h.tail(r.stdout)}")}, r.stdout
    log = r.stdout
    for t in tests:  # the tool died on the way: one by one
        r = h.run(["iscsi-test-cu", "--dataloss", "--allow-sanitize", f"--test=ALL.{suite}.{t}", *cmd[4:]], limit)
        log += r.stdout
        found[t] = parse(r.stdout).get(t) or ("FAIL", f"no verdict, status {r.returncode}: {h.tail(r.stdout)}")
    return found, log


def run_profile(profile, urls, want, scale, keep):
    only, out, by = PROFILES.get(profile, (None, None))[1], {}, {}
    for s, t in suites():
        if (only is None or s in only) and (not want or s in want):
            by.setdefault(s, []).append(t)
    for s, tests in by.items():
        found, log = run_suite(s, tests, urls, 30 * scale)
        keep.write(f"==== {profile} {s}\n{log}\n")
        for t, (v, w) in found.items():
            if not any(profile in p for pat, p in NOT_ON.items() if fnmatch.fnmatchcase(f"{s}.{t}", pat)):
                out[f"{s}.{t}"] = (v, w)
    return out


def merge(into, new, profile):
    for k, (v, w) in new.items():
        old = into.get(k)
        if v != "passed":
            w = f"{profile}: {w}"
        rank = {"SKIP": 0, "passed": 1, "FAIL": 2}
        if old is None or rank[v] > rank[old[0]]:
            into[k] = (v, w)
        elif v == "FAIL" and old[0] == "FAIL":
            into[k] = (v, old[1] + " | " + w)


def expected():
    rows = []
    for l in open(os.path.join(HERE, "expected.txt")):
        if l.strip() and not l.startswith("#"):
            verdict, pattern, reason = l.split(None, 2)
            rows.append((verdict, pattern, reason.strip()))
    return rows


def elsewhere(words, profiles):
    """The reason, when this configuration has no LUN of the kind that the test wants."""
    for said, profile in NEEDS.items():
        if said in words and profile not in profiles:
            return f"no '{profile}' LUN in this configuration; release-uring has one"


def judge(rep, config, merged, whole, profiles):
    rows, used = expected(), set()
    count = {"passed": 0, "FAIL": 0, "SKIP": 0, "tool": 0}
    for k in sorted(merged):
        v, w = merged[k]
        row = next((r for r in rows if fnmatch.fnmatchcase(k, r[1]) and
                    ((v == "SKIP" and r[0] == "skip") or (v == "FAIL" and r[0] == "tool"))), None)
        if v == "passed":
            count[v] += 1
            rep.ok(f"{config}/{k}")
        elif v == "SKIP" and elsewhere(w, profiles):
            count[v] += 1
            rep.skip(f"{config}/{k}", elsewhere(w, profiles))
        elif row and v == "SKIP":
            used.add(row)
            count[v] += 1
            rep.skip(f"{config}/{k}", row[2])
        elif row:
            used.add(row)
            count["tool"] += 1
            rep.skip(f"{config}/{k}", "fails by the tool's own mistake: " + row[2])
        elif v == "SKIP":
            count["FAIL"] += 1
            rep.fail(f"{config}/{k}", "skipped itself, and expected.txt does not say why: " + w[:200])
        else:
            count["FAIL"] += 1
            rep.fail(f"{config}/{k}", w[:260])
    if whole:
        for r in set(rows) - used:
            rep.fail(f"{config}/expected.txt", f"row '{r[0]} {r[1]}' matched nothing: remove it")
    print(f"   {config}: {count['passed']} passed, {count['FAIL']} failed, {count['SKIP']} skipped, "
          f"{count['tool']} failed by the tool's mistakes")


def run_config(rep, config, profiles, want, logdir):
    flavour, loop, mine = CONFIGS[config]
    merged = {}
    with open(os.path.join(logdir, f"iscsi-test-cu-{config}.log"), "w") as keep:
        for p in profiles or mine:
            with tempfile.TemporaryDirectory(prefix="lunette-cu-") as d:
                with open(os.path.join(d, "lun"), "wb") as f:
                    f.truncate(256 * MIB)
                if p != "ro":
                    os.unlink(os.path.join(d, "lun"))
                opts = [o.format(dir=d) for o in PROFILES[p][0]]
                t = time.monotonic()
                try:
                    second = h.free_port()  # a portal group, and so a target port, of its own
                    s = h.Server(*opts, "--listen", f"127.0.0.1:{second},group=2", flavour=flavour, loop=loop)
                except Exception as e:
                    rep.fail(f"{config}/{p}/server", e)
                    continue
                merge(merged, run_profile(p, [s.url(), s.url().replace(f":{s.port}/", f":{second}/")], want,
                                          PATIENCE.get(p, 1) * (1 if flavour == "release" else 3), keep), p)
                bad = s.finish()
                rep.check(f"{config}/{p}/server-clean", not bad, bad)
                print(f"   {config}/{p}: {time.monotonic() - t:.0f} s", flush=True)
    judge(rep, config, merged, not want and not profiles and len(mine) == len(PROFILES), profiles or mine)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--url", action="append", help="twice: two paths to one LUN")
    ap.add_argument("--config", action="append", choices=list(CONFIGS))
    ap.add_argument("--profile", action="append", choices=list(PROFILES))
    ap.add_argument("-t", action="append", metavar="SUITE", default=[])
    a = ap.parse_args()
    rep = h.Report("conform/")
    if not shutil.which("iscsi-test-cu"):
        rep.skip("iscsi-test-cu", "libiscsi-bin is not installed")
        return 0
    logdir = os.path.join(h.flavour_dir("release"), "logs")
    os.makedirs(logdir, exist_ok=True)
    if a.url:
        with open(os.path.join(logdir, "iscsi-test-cu-url.log"), "w") as keep:
            merged = {}
            merge(merged, run_profile("url", a.url, a.t, 1, keep), "url")
            judge(rep, "url", merged, False, [])
        return rep.status()
    todo = [c for c in a.config or CONFIGS if h.binaries_there(CONFIGS[c][0]) or rep.skip(c, "lunetted is not built")]
    with cf.ThreadPoolExecutor(3) as pool:  # the tool mostly waits for its own timers
        for f in [pool.submit(run_config, rep, c, a.profile, a.t, logdir) for c in todo]:
            f.result()
    return rep.status()


if __name__ == "__main__":
    sys.exit(main())
