#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""`lunette check --destructive` against lunetted: every case of the compliance suite passes, and none is skipped or
unsupported for another reason than expected() knows. On both kernel loops, under the sanitizers, and with CHAP.

  lunette_check.py [--config NAME] [--suite NAME]      NAME: of CONFIGS"""
import argparse, json, os, sys
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
import harness as h

IQN = "iqn.2025-01.test.lunette:disk"
USER = "check:a-long-secret-of-ours"
# name: (build, loop, login by CHAP, suites or None for all)
CONFIGS = {
    "release-uring": ("release", "uring", False, None),
    "asan-epoll": ("asan", "epoll", False, None),
    "chap": ("release", "epoll", True, ["login", "keys", "discovery", "mcs"]),
}
def expected(case, chap, reason):
    """Why a case may not apply, or None."""
    if reason.startswith("ErrorRecoveryLevel=2 was offered, 0 was"):
        return "error recovery levels 1 and 2 are not offered yet"
    if case == "login/auth-skipped" and not chap:
        return "a target without users has nothing to skip"
    if chap and case in ("login/in-one-request", "login/two-stages", "login/security-to-full", "login/continue-bit",
                         "login/text-of-8192-bytes", "login/portal-group-tag-discovery"):
        return "goes without authentication; the other configurations have it"
    return None


def binary(flavour, name):
    given = os.environ.get("LUNETTED")
    if given:
        return given if name == "lunetted" else os.path.join(os.path.dirname(given), "..", "lunette", "lunette")
    return os.path.join(h.flavour_dir(flavour), "src", name, name)


def run(rep, name, want):
    flavour, loop, chap, suites = CONFIGS[name]
    ports = [h.free_port() for _ in range(2)]
    opts = ["--cores", "2", "--ram", "64M"] + (["--chap", USER] if chap else [])
    opts += ["--listen", f"127.0.0.1:{ports[0]}", "--listen", f"127.0.0.1:{ports[1]},group=2"]
    s = h.Server(*opts, flavour=flavour, loop=loop, target=IQN)
    for suite in want or suites or [None]:
        cmd = [binary(flavour, "lunette"), "check", "--json", "--destructive", "--timeout", "20" if flavour == "asan" else "10"]
        cmd += ["--suite", suite] if suite else []
        r = h.run(cmd + [s.url(user=USER.replace(":", "%") if chap else None)], 500)
        try:
            cases = json.loads(r.stdout)["cases"]
        except ValueError:
            rep.fail(f"{name}/{suite or 'all'}", f"status {r.returncode}: {h.tail(r.stdout)}")
            continue
        for c in cases:
            case = f"{c['suite']}/{c['case']}"
            if c["suite"] == "every" and suite:
                case += "-in-" + suite
            why = expected(f"{c['suite']}/{c['case']}", chap, c["reason"])
            if c["result"] == "pass":
                rep.ok(f"{name}/{case}")
            elif why and c["result"] == "not supported":
                rep.skip(f"{name}/{case}", why)
            else:
                rep.fail(f"{name}/{case}", f"{c['result']}: {c['reason']} ({c['clause']})")
    bad = s.finish()
    rep.check(f"{name}/server-clean", not bad, bad)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--config", action="append", choices=list(CONFIGS))
    ap.add_argument("--suite", action="append")
    a = ap.parse_args()
    rep = h.Report("conform/check/")
    for name in a.config or CONFIGS:
        if h.binaries_there(CONFIGS[name][0]):
            run(rep, name, a.suite)
        else:
            rep.skip(name, "lunetted is not built")
    return rep.status()


if __name__ == "__main__":
    sys.exit(main())
