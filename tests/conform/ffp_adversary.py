#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""A hostile but literate initiator: what RFC 7143 lets a target expect in full feature phase, and what it must survive.
Written from the RFC alone. Each case names its clause; where the RFC leaves a choice, every choice passes, but never
a hang, a wrong byte on the medium or a dead server.

  ffp_adversary.py [PORT [TARGET]] [-k WORD] [-l LOOP]     without PORT it starts its own server
Prints `ok|FAIL|SKIP NAME (reason)` lines and at last `N passed, N failed, N skipped`; exit status 1 on failure."""
import os, sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "lib"), HERE]
import harness
from iscsi import Session
from ffp.peer import CASES, srv
from ffp import order, data, wire, requests, sessions, features  # noqa: they register their cases


def main():
    args, word, options = [], "", ["--ram", "64M", "--cores", "2"]
    it = iter(sys.argv[1:])
    for x in it:
        if x == "-k":
            word = next(it)
        elif x == "-l":
            options += ["--loop", next(it)]
        else:
            args.append(x)
    server = None
    rep = harness.Report("conform/ffp/")
    if args:
        srv.port = int(args[0])
    else:
        server = harness.Server(*options)
        srv.port, srv.target = server.port, server.iqn
    if len(args) > 1:
        srv.target = args[1]
    elif not srv.target:
        d = Session(srv.host, srv.port)
        srv.target = next(x[11:] for x in d.send_targets() if x.startswith("TargetName="))
        d.close()
    for name, clause, fn in sorted(CASES, key=lambda c: c[0].startswith("zz_")):  # those that end sessions, last
        if word not in name:
            continue
        before = rep.failed
        rep.case(name, fn)
        if rep.failed > before:
            print(f"     {clause}", flush=True)
        if server and server.proc.poll() is not None:
            rep.fail("server", f"died with {server.proc.returncode} in {name}: {server.log_tail()}")
            server.finish()
            server = harness.Server(*options)
            srv.port = server.port
    if server:
        bad = server.finish()
        rep.check("server-ends-well", not bad, bad)
    print(f"{rep.passed} passed, {rep.failed} failed, {rep.skipped} skipped")
    return rep.status()


if __name__ == "__main__":
    sys.exit(main())
