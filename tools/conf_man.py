#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""The options in lunetted.conf(5), made from the tables of the program itself.

  conf_man.py LUNETTED PAGE.scd           rewrites what lies between the two marks of the page
  conf_man.py --check LUNETTED PAGE.scd   exit status 1 when the page is not what would be written"""
import json, subprocess, sys

BEGIN, END = "; options, made by tools/conf_man.py\n", "; end of options\n"


def esc(text):
    return text.replace("\\", "\\\\").replace("_", "\\_").replace("*", "\\*")


def option(name, o, required):
    notes = []
    if "enum" in o:
        notes.append("One of " + ", ".join(f"*{esc(v)}*" for v in o["enum"]) + ".")
    if name in required:
        notes.append("Required.")
    if "default" in o:
        notes.append(f"Default: {esc(o['default'])}.")
    if "x-minimum" in o:
        notes.append(f"At least {esc(o['x-minimum'])}.")
    if "x-maximum" in o:
        notes.append(f"At most {esc(o['x-maximum'])}.")
    return f"*{esc(name)}*\n\t" + " ".join([esc(o["description"]), *notes]) + "\n\n"


def options(o, skip=()):
    return "".join(option(n, v, o.get("required", [])) for n, v in o["properties"].items() if n not in skip)


def volumes(schema):
    kinds = schema["properties"]["volumes"]["additionalProperties"]["oneOf"]
    common = set.intersection(*(set(k["properties"]) for k in kinds))
    every = {"properties": {n: v for n, v in kinds[0]["properties"].items() if n in common}, "required": ["type"]}
    out = "## volumes/NAME\n\nA disk. Options of every kind:\n\n" + options(every)
    for k in kinds:
        kind = k["properties"]["type"]["const"]
        out += f"Options of *type: {esc(kind)}*:\n\n" + options(k, common)
    out += "## volumes/NAME/filters\n\nLayers that each request passes before it reaches the driver: *integrity* keeps checksums, the others are for tests.\n\n"
    for k in kinds[0]["properties"]["filters"]["items"]["oneOf"]:
        out += f"Options of *type: {esc(k['properties']['type']['const'])}*:\n\n" + options(k, ("type",))
    return out


def sections(schema):
    p = schema["properties"]
    parts = [("server", p["server"]), ("portals", p["portals"]["items"]),
             ("users/NAME", p["users"]["additionalProperties"]), ("discovery", p["discovery"]),
             ("isns", p["isns"]), ("volumes", None), ("targets/IQN", p["targets"]["additionalProperties"]),
             ("targets/IQN/luns/NUMBER", p["targets"]["additionalProperties"]["properties"]["luns"]["additionalProperties"])]
    left = set(p) - {n.split("/")[0] for n, _ in parts}
    if left:
        sys.exit(f"conf_man.py has no heading for {', '.join(sorted(left))}: add it to sections()")
    return "".join(volumes(schema) if o is None else f"## {n}\n\n{esc(o['description'])}\n\n" + options(o)
                   for n, o in parts)


def main():
    check = sys.argv[1] == "--check"
    exe, page = sys.argv[2:] if check else sys.argv[1:]
    schema = json.loads(subprocess.run([exe, "--schema"], capture_output=True, text=True, check=True).stdout)
    old = open(page).read()
    head, rest = old.split(BEGIN)
    new = head + BEGIN + "\n" + sections(schema) + END + rest.split(END)[1]
    if not check:
        open(page, "w").write(new)
    elif new != old:
        sys.exit(f"{page} is not what the program says; run tools/conf_man.py {exe} {page}")


main()
