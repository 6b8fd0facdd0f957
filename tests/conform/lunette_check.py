#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""`lunette check --destructive` against lunetted: every case of the compliance suite passes, and none is skipped or
unsupported for another reason than expected() knows. On both kernel loops, under the sanitizers, and with CHAP.

  lunette_check.py [--config NAME] [--suite NAME]      NAME: of CONFIGS"""
import argparse, json, os, sys, tempfile
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
import harness as h

IQN = "iqn.2025-01.test.lunette:disk"
USER = "check:a-long-secret-of-ours"
# name: (build, loop, kind, suites; each is a run). Kinds: all that the target can, its defaults, with CHAP.
CONFIGS = {
    "release-uring": ("release", "uring", "full", ["[!a]*,async"]),
    "asan-epoll": ("asan", "epoll", "full", ["[!a]*,async"]),
    "default": ("release", "epoll", "default", ["[!a]*,async"]),
    "chap": ("release", "epoll", "chap", ["login", "auth", "keys", "discovery", "mcs"]),
}
CONF = """
portals: [ "127.0.0.1:{0}", "127.0.0.1:{1}", {{ listen: "127.0.0.1:{2}", group: 2 }} ]
volumes: {{ disk: {{ type: ram, size: 64MiB }} }}
targets: {{ "{3}": {{ luns: {{ 0: disk }}, error-recovery-level: 2 }} }}
"""
def expected(case, kind, reason):
    """Why a case may not apply, or None."""
    if kind != "full" and reason.startswith("ErrorRecoveryLevel=2 was offered, 0 was"):
        return "the default is level 0; release-uring and asan-epoll have level 2"
    if kind != "full" and case.startswith("mcs/") and reason.startswith("SendTargets tells no"):
        return "one portal; release-uring and asan-epoll have more"
    if case == "login/auth-skipped" and kind != "chap":
        return "a target without users has nothing to skip; chap has them"
    if kind == "chap" and case in ("login/in-one-request", "login/two-stages", "login/security-to-full", "login/continue-bit",
                                   "login/text-of-8192-bytes", "login/portal-group-tag-discovery"):
        return "goes without authentication; the other configurations have it"
    return None


def binary(flavour, name):
    given = os.environ.get("LUNETTED")
    if given:
        return given if name == "lunetted" else os.path.join(os.path.dirname(given), "..", "lunette", "lunette")
    return os.path.join(h.flavour_dir(flavour), "src", name, name)


def start(name, program=None):
    flavour, loop, kind, _ = CONFIGS[name]
    opts = ["--cores", "2"]
    if kind != "full":
        return h.Server(*opts, "--ram", "64M", *(["--chap", USER] if kind == "chap" else []), flavour=flavour, loop=loop, target=IQN,
                        binary=program)
    ports = [h.free_port() for _ in range(3)]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", delete=False) as f:
        f.write(CONF.format(*ports, IQN))
    s = h.Server(*opts, flavour=flavour, loop=loop, target=IQN, port=ports[0], config=f.name, listen=False, binary=program)
    os.unlink(f.name)
    return s


def run(rep, name, want):
    flavour, loop, kind, suites = CONFIGS[name]
    chap = kind == "chap"
    s = start(name)
    for suite in want or suites:
        cmd = [binary(flavour, "lunette"), "check", "--json", "--destructive", "--timeout", "20" if flavour == "asan" else "10"]
        cmd += ["--suite", suite]
        r = h.run(cmd + [s.url(user=USER.replace(":", "%") if chap else None)], 500)
        try:
            cases = json.loads(r.stdout)["cases"]
        except ValueError:
            rep.fail(f"{name}/{suite}", f"status {r.returncode}: {h.tail(r.stdout)}")
            continue
        for c in cases:
            case = f"{c['suite']}/{c['case']}"
            if c["suite"] == "every" and len(want or suites) > 1:
                case += "-in-" + suite
            why = expected(f"{c['suite']}/{c['case']}", kind, c["reason"])
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
