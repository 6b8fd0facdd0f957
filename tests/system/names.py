#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Names beyond ASCII (RFC 7143 4.2.7.2): what Lunette makes of each character is what Python's tables of RFC 3454 and RFC 3722 make
of it, wherever the character stands in a name."""
import os, stringprep, subprocess, sys, unicodedata
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
import harness as h

rep = h.Report("system/names/")
DAEMON = os.environ.get("LUNETTED") or os.path.join(h.flavour_dir("release"), "src/lunetted/lunetted")
DUMP = os.path.join(os.path.dirname(DAEMON), "../../tests/lib/prepdump")
OLD = unicodedata.ucd_3_2_0  # the version that RFC 3454 knows
NEVER = [getattr(stringprep, "in_table_" + t) for t in
         ("a1", "b1", "c11_c12", "c21_c22", "c3", "c4", "c5", "c6", "c7", "c8", "c9", "d1")]


def prepared(text):
    return OLD.normalize("NFKC", "".join(stringprep.map_table_b2(c) for c in text))


def table():
    return {int(a, 16): int(b, 16) for a, b in (line.split() for line in
            subprocess.run([DUMP], capture_output=True, text=True, timeout=60, check=True).stdout.splitlines())}


def each_character():
    """Every character that is taken becomes what the tables say, is allowed in a name, stays itself the second time, and grows not."""
    t = table()
    for c, to in t.items():
        assert prepared(chr(c)) == chr(to), f"U+{c:04X}: U+{to:04X}, not {prepared(chr(c))!r}"
        for bad in NEVER:
            assert not bad(chr(c)) and not bad(chr(to)), f"U+{c:04X} {bad.__name__}"
        assert to < 0x80 or t.get(to) == to, f"U+{to:04X} does not stay"
        assert len(chr(to).encode()) <= len(chr(c).encode()), f"U+{c:04X} grows"
    assert len(t) > 30000 and t[0xc4] == 0xe4, f"{len(t)} characters"
    return f"{len(t)} characters"


def in_any_company():
    """No character that is taken changes a neighbour or is changed by one: character by character is the whole normalization."""
    t = [c for c in table() if c < 0x3000]
    some = [ord(x) for x in "ae-.:1"] + t[::17]
    for a in some:
        for b in t:
            both, single = prepared(chr(a) + chr(b)), prepared(chr(a)) + prepared(chr(b))
            assert both == single, f"U+{a:04X} U+{b:04X}: {both!r}, not {single!r}"


if __name__ == "__main__":
    for fn in (each_character, in_any_company):
        rep.case(fn.__name__.replace("_", "-"), fn)
    sys.exit(rep.status())
