#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Proves of each row of the SCSI command tables that the unit tests saw it succeed and saw each error that it can give:
those of its gates, which follow from its flags (test_scsi_table tries every reserved bit of every row besides), and
its own, which scsi_errors.txt lists. A row that gives an error which
nobody listed fails too, so that the list stays whole.

  scsi_cover.py PROGRAM...           runs the test programs and judges
  scsi_cover.py --write PROGRAM...   writes scsi_errors.txt from what they saw; look at the difference"""
import os, subprocess, sys, tempfile

LIST = os.path.join(os.path.dirname(os.path.abspath(__file__)), "scsi_errors.txt")
MEDIUM, WRITES, PR_READ, PR_WRITE, NO_UA = 1 << 3, 1 << 4, 1 << 5, 1 << 6, 1 << 8  # scsi/lu.h
INVALID_FIELD, LBA, CONFLICT, PROTECTED = 0x052400, 0x052100, 0x18, 0x072700
NO_MEDIUM = (0x023A02, 0x020403)


def observe(programs):
    rows, seen = {}, {}
    with tempfile.NamedTemporaryFile("r", suffix=".cover") as f:
        for p in programs:
            if subprocess.run([p], env=dict(os.environ, SCSI_COVER=f.name), timeout=100,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode:
                sys.exit(f"{p} failed")
        for line in f:
            kind, name, *rest = line.rstrip("\n").split("\t")
            if kind == "row":
                rows[name] = (int(rest[0], 16), int(rest[1]))
            else:
                seen.setdefault(name, set()).add(int(rest[0], 16))
    return rows, seen


def attention(code):
    return code >> 16 == 6


def gates(flags, lba):
    """What the gates must have been seen to say, each as a set of which one is enough."""
    need = [{0x00, 0x04}]
    need += [{CONFLICT}] if flags & (PR_READ | PR_WRITE) else []
    need += [set(NO_MEDIUM)] if flags & MEDIUM else []
    need += [{PROTECTED}] if flags & WRITES else []
    need += [{LBA}] if lba else []
    return need


# What a gate, a state of the unit or the medium says of any command alike, tested once for all of them.
COMMON = {0x00, 0x04, 0x08, CONFLICT, 0x28, 0x30, 0x40, INVALID_FIELD, PROTECTED, 0x072702, *NO_MEDIUM, 0x02041B, 0x033103}


def own(codes, lba):
    return {c for c in codes if c not in COMMON and not attention(c) and c >> 8 != 0x0204 and not (lba and c == LBA)}


def show(code):
    return f"{code >> 16:02x}/{code >> 8 & 255:02x}/{code & 255:02x}"


def judge(rows, seen):
    listed = {}
    for line in open(LIST):
        if line.strip() and not line.startswith("#"):
            name, codes = line.rstrip("\n").split(": ")
            listed[name] = {int(c.replace("/", ""), 16) for c in codes.split()}
    wrong = [f"{n} is listed and no row" for n in listed if n not in rows]
    for name, (flags, lba) in rows.items():
        got = seen.get(name, set())
        wrong += [f"{name}: no test saw {' or '.join(show(c) for c in sorted(need))}" for need in gates(flags, lba)
                  if not need & got]
        if not flags & NO_UA and not any(attention(c) for c in got):
            wrong.append(f"{name}: no test saw a unit attention")
        mine = own(got, lba)
        wrong += [f"{name}: gave {show(c)}, which scsi_errors.txt does not name" for c in sorted(mine - listed.get(name, set()))]
        wrong += [f"{name}: no test saw {show(c)}" for c in sorted(listed.get(name, set()) - mine)]
    return wrong


def main():
    write, programs = "--write" in sys.argv, [a for a in sys.argv[1:] if a != "--write"]
    rows, seen = observe(programs)
    if write:
        with open(LIST, "w") as f:
            f.write("# The errors of each row of the SCSI command tables that are its own: not of a gate. See scsi_cover.py.\n")
            for name, (flags, lba) in rows.items():
                mine = own(seen.get(name, set()), lba)
                if mine:
                    f.write(f"{name}: {' '.join(show(c) for c in sorted(mine))}\n")
    wrong = judge(rows, seen)
    if wrong:
        print("where the tests are right: run this program with --write, and look at the difference")
    print("\n".join(wrong) or f"{len(rows)} rows, {sum(map(len, seen.values()))} outcomes")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
