#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Rules of the code base that a compiler does not know, as tests. `--all` runs every check and then plants one
violation of each in a scratch tree to show that the check can fail. Prints `ok|FAIL|SKIP NAME (reason)`.

  lint.py --all | --check NAME | --list     [--root DIR]"""
import argparse, os, re, shutil, subprocess, sys, tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))

# Includes point one way. Folder under src/: the folders whose headers its files may name.
EDGES = {
    "base": ["base"],
    "loop": ["loop", "base"],
    "block": ["block", "loop", "base"],
    "scsi": ["scsi", "block", "loop", "base"],
    "iscsi": ["iscsi", "scsi", "base"],
    "net": ["net", "iscsi", "scsi", "block", "loop", "base"],
    "conf": ["conf", "net", "iscsi", "scsi", "block", "loop", "base"],
    "api": ["api", "conf", "net", "iscsi", "scsi", "block", "loop", "base"],
    "lunetted": ["lunetted", "api", "conf", "net", "iscsi", "scsi", "block", "loop", "base"],
    "lunette": ["lunette", "net", "iscsi", "scsi", "block", "loop", "base"],
}
FILE_LINES = 900
WIDTH = 110


def tree_files(root, *exts):
    """Tracked files of a checkout; every file of a scratch tree."""
    r = subprocess.run(["git", "-C", root, "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True)
    if r.returncode == 0 and r.stdout:
        names = r.stdout.splitlines()
    else:
        names = [os.path.relpath(os.path.join(d, f), root) for d, _, fs in os.walk(root) for f in fs]
    return sorted(n for n in names if (not exts or n.endswith(exts)) and os.path.isfile(os.path.join(root, n)))


def read(root, name):
    with open(os.path.join(root, name), errors="replace") as f:
        return f.read()


def code_only(text):
    """Comments, strings and character constants blanked; lines stay where they are."""
    def blank(m):
        return re.sub(r"[^\n]", " ", m[0])
    return re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\'', blank, text, flags=re.S)


def line_of(text, pos):
    return text.count("\n", 0, pos) + 1


def reasons(name):
    """A list file: path -> reason; a path without a reason is itself a violation."""
    out = {}
    for l in open(os.path.join(HERE, name)):
        l = l.strip()
        if l and not l.startswith("#"):
            path, _, why = l.partition(":")
            assert why.strip(), f"{name}: {path} has no reason"
            out[path.strip()] = why.strip()
    return out


def listed(path, table):
    return any(path == p or (p.endswith("/") and path.startswith(p)) for p in table)


def check_include_direction(root):
    bad = []
    for f in tree_files(root, ".c", ".h"):
        m = re.match(r"src/([a-z]+)/", f)
        if not m:
            continue
        if m[1] not in EDGES:
            bad.append(f"{f}: folder {m[1]} is in no row of the table of include directions")
            continue
        for i, l in enumerate(read(root, f).splitlines(), 1):
            inc = re.match(r'\s*#\s*include\s+"([a-z]+)/', l)
            if inc and inc[1] not in EDGES[m[1]]:
                bad.append(f"{f}:{i}: {m[1]}/ may not include {inc[1]}/")
            up = re.match(r'\s*#\s*include\s+"\.\./', l)
            if up:
                bad.append(f"{f}:{i}: include by the path from src/, not by ../")
    return bad


def check_atomics(root):
    allow, bad = reasons("atomics.txt"), []
    pat = re.compile(r"\b(pthread_(?:mutex|cond|rwlock|spin)\w*|_Atomic|atomic_\w+|__atomic_\w+|__sync_\w+|mtx_\w+|"
                     r"stdatomic\.h)")
    for f in tree_files(root, ".c", ".h"):
        if listed(f, allow):
            continue
        for i, l in enumerate(code_only(read(root, f)).splitlines(), 1):
            m = pat.search(l)
            if m:
                bad.append(f"{f}:{i}: {m[1]}; only files of tools/lint/atomics.txt may")
    return bad


def check_pure(root):
    """Engines and parsers do no I/O: they run under fuzzer, unit test and simulator as they run in production."""
    allow, bad = reasons("pure.txt"), []
    calls = re.compile(r"(?<![\w.>])(open|openat|read|pread|write|pwrite|recv|recvmsg|send|sendmsg|socket|connect|"
                       r"accept|bind|listen|time|clock_gettime|gettimeofday|sleep|usleep|getrandom|rand)\s*\(")
    heads = re.compile(r'#\s*include\s+["<](loop/loop\.h|sys/socket\.h|netinet/[^">]*|arpa/inet\.h|time\.h)[">]')
    for f in tree_files(root, ".c", ".h"):
        if not (f.startswith("src/iscsi/") or re.match(r"src/conf/(tree|schema|parse|yaml|json)", f)) or listed(f, allow):
            continue
        text = read(root, f)
        for i, l in enumerate(text.splitlines(), 1):
            m = heads.search(l)
            if m:
                bad.append(f"{f}:{i}: includes {m[1]}; an engine may not")
        code = code_only(text)
        for m in calls.finditer(code):
            before = code[:m.start()].rstrip()
            if before.endswith(("*", ")")) or re.search(r"\b(int|void|ssize_t|bool|struct \w+)$", before):
                continue  # a declaration or a member of that name
            bad.append(f"{f}:{line_of(code, m.start())}: calls {m[1]}(); an engine may not")
    return bad


def check_spdx(root):
    bad = []
    for f in tree_files(root, ".c", ".h", ".py", ".sh"):
        if "SPDX-License-Identifier: BSD-3-Clause" not in read(root, f)[:300]:
            bad.append(f"{f}: no SPDX line")
    return bad


def check_machine_paths(root):
    """Nothing may name a place that exists on one machine only."""
    pat = re.compile("/wor" + "k/|/hom" + r"e/[a-z]+/|/roo" + r"t/\w|deb\.debian\.or" + "g|pypi\.or" + r"g|crates\.i" + "o\\b")
    bad = []
    for f in tree_files(root):
        if f.endswith((".png", ".bin")) or f.startswith("fuzz/corpus/"):
            continue
        for i, l in enumerate(read(root, f).splitlines(), 1):
            m = pat.search(l)
            if m:
                bad.append(f"{f}:{i}: names {m[0]}")
    return bad


def check_file_length(root):
    bad = []
    for f in tree_files(root, ".c", ".h"):
        n = read(root, f).count("\n")
        if n > FILE_LINES:
            bad.append(f"{f}: {n} lines, more than {FILE_LINES}")
    return bad


def check_line_width(root):
    bad = []
    for f in tree_files(root, ".c", ".h"):
        for i, l in enumerate(read(root, f).splitlines(), 1):
            w = len(l.expandtabs(8))
            if w > WIDTH + (20 if f.startswith("src/") else 45):
                bad.append(f"{f}:{i}: {w} columns")
            elif l != l.rstrip():
                bad.append(f"{f}:{i}: blanks at the end")
    return bad


def check_test_sentence(root):
    """Every unit test file says what it proves before its first test."""
    bad = []
    for f in tree_files(root, ".c"):
        if not re.match(r"tests/unit/test_", f):
            continue
        text = read(root, f)
        for m in re.finditer(r"^static void (\w+)\(void \*\*\w+\)\s*\{(.*?)^\}", text, flags=re.S | re.M):
            before = text[:m.start()].rstrip()
            if before.endswith("*/") or re.match(r"\s*/[*/]", m[2]):
                continue
            if re.search(r"cmocka_unit_test\w*\(\s*" + m[1] + r"\b", text):
                bad.append(f"{f}:{line_of(text, m.start())}: {m[1]} does not say what it proves")
    return bad


def check_unbounded_libc(root):
    pat = re.compile(r"(?<![\w.>])(strcpy|strcat|sprintf|vsprintf|gets|strtok|alloca|atoi|atol|system|popen)\s*\(")
    bad = []
    for f in tree_files(root, ".c", ".h"):
        if not f.startswith("src/"):
            continue
        code = code_only(read(root, f))
        for m in pat.finditer(code):
            bad.append(f"{f}:{line_of(code, m.start())}: {m[1]}()")
    return bad


def check_man_options(root):
    """Every option of --help is in the man page, and every option that the man page heads a paragraph with exists."""
    bad, seen = [], False
    for prog, page in (("lunetted", "lunetted.8.scd"), ("lunette", "lunette.1.scd")):
        exe = os.path.join(root, "build-test/src", prog, prog)
        man = os.path.join(root, "docs/man", page)
        if not (os.access(exe, os.X_OK) and os.path.exists(man)):
            continue
        seen = True
        r = subprocess.run([exe, "--help"], capture_output=True, text=True, timeout=20)
        help_opts = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", r.stdout + r.stderr))
        text = read(root, "docs/man/" + page).replace("\\", "")
        man_opts = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))
        heads = set(o for l in text.splitlines() if l.startswith("*-") for o in re.findall(r"(?<![\w-])--[a-z][a-z-]+", l))
        bad += [f"{page}: {o} of --help is not described" for o in sorted(help_opts - man_opts)]
        bad += [f"{page}: {o} is described but {prog} --help does not know it" for o in sorted(heads - help_opts)]
    return bad if seen else None


def check_shell(root):
    if not shutil.which("bash"):
        return None
    bad = []
    for f in tree_files(root):
        first = read(root, f)[:40] if f.endswith(".sh") or f in (".ci/run",) else ""
        if "bash" in first or "/bin/sh" in first:
            r = subprocess.run(["bash", "-n", os.path.join(root, f)], capture_output=True, text=True)
            if r.returncode:
                bad.append(f"{f}: {r.stderr.strip().splitlines()[0]}")
    return bad


def check_python(root):
    bad = []
    for f in tree_files(root):
        if f.endswith(".py") or f == "tests/run":
            try:
                compile(read(root, f), f, "exec")
            except SyntaxError as e:
                bad.append(f"{f}:{e.lineno}: {e.msg}")
    return bad


TIDY = ("-*,bugprone-assignment-in-if-condition,bugprone-infinite-loop,"
        "bugprone-macro-repeated-side-effects,bugprone-not-null-terminated-result,"
        "bugprone-redundant-branch-condition,bugprone-suspicious-*,bugprone-terminating-continue,"
        "bugprone-too-small-loop-variable,bugprone-undefined-memory-manipulation,bugprone-unused-return-value,"
        "-bugprone-suspicious-include,-bugprone-suspicious-string-compare,misc-definitions-in-headers,misc-misplaced-const,misc-redundant-expression,"
        "performance-no-int-to-ptr,-performance-no-int-to-ptr")


def check_clang_tidy(root):
    """A few checks that find mistakes, not style; in the build that clang compiled."""
    db = next((d for d in ("build-asan", "build-tsan") if os.path.exists(os.path.join(root, d, "compile_commands.json"))), None)
    if not db or not shutil.which("clang-tidy"):
        return None
    import json
    with open(os.path.join(root, db, "compile_commands.json")) as f:
        cmds = json.load(f)
    files = sorted({os.path.normpath(os.path.join(c["directory"], c["file"])) for c in cmds})
    files = [f for f in files if f.startswith(os.path.join(root, "src") + os.sep) and os.path.exists(f)]
    if not files:
        return None
    n, out = max(1, os.cpu_count() or 2), []
    procs = [subprocess.Popen(["timeout", "240", "clang-tidy", "-p", os.path.join(root, db), "--quiet", "--checks=" + TIDY,
                               "--warnings-as-errors=*", *files[i::n]], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              text=True) for i in range(n) if files[i::n]]
    for p in procs:
        text, _ = p.communicate()
        if p.returncode == 124:
            out.append("clang-tidy: time limit of 240 s")
        out += [re.sub(r"^\S*\.\./", "", l.replace(root + os.sep, "")) for l in text.splitlines() if re.search(r": (error|warning): ", l)]
    return sorted(set(out))


# name: (check, file to plant, its text) - None: no plant, the tool is not ours
CHECKS = {
    "include-direction": (check_include_direction, "src/base/x.c", '#include "loop/loop.h"\n'),
    "atomics": (check_atomics, "src/scsi/x.c", "static pthread_mutex_t m;\n"),
    "pure-engines": (check_pure, "src/iscsi/x.c", "int f(void)\n{\n\treturn read(0, 0, 0);\n}\n"),
    "spdx": (check_spdx, "src/base/x.c", "int x;\n"),
    "machine-paths": (check_machine_paths, "tools/x.sh", "cd /wor" + "k/main\n"),
    "file-length": (check_file_length, "src/base/x.c", "int x;\n" * (FILE_LINES + 1)),
    "line-width": (check_line_width, "src/base/x.c", "int x; \n"),
    "test-sentence": (check_test_sentence, "tests/unit/test_x.c",
                      "static void t(void **s)\n{\n\tf();\n}\n\nint m = cmocka_unit_test(t);\n"),
    "unbounded-libc": (check_unbounded_libc, "src/base/x.c", "void f(char *a) { strcpy(a, a); }\n"),
    "shell-syntax": (check_shell, "tools/x.sh", "#!/bin/bash\nif\n"),
    "python-syntax": (check_python, "tools/x.py", "def\n"),
    "man-options": (check_man_options, None, None),
    "clang-tidy": (check_clang_tidy, None, None),
}


def run_check(name, root):
    bad = CHECKS[name][0](root)
    if bad is None:
        print(f"SKIP lint/{name} (nothing to look at yet, or the tool is missing)", flush=True)
    elif bad:
        for b in bad[:40]:
            print("   " + b)
        print(f"FAIL lint/{name} ({len(bad)}: {bad[0]})", flush=True)
    else:
        print(f"ok lint/{name}", flush=True)
    return not bad


def self_test(name):
    fn, path, text = CHECKS[name]
    if path is None:
        return True
    with tempfile.TemporaryDirectory(prefix="lunette-lint-") as d:
        p = os.path.join(d, path)
        os.makedirs(os.path.dirname(p))
        with open(p, "w") as f:
            f.write(text)
        caught = bool(fn(d))
    print(f"{'ok' if caught else 'FAIL'} lint/self-test/{name}" + ("" if caught else " (a planted violation was not seen)"))
    return caught


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--all", action="store_true")
    ap.add_argument("--check", action="append", choices=list(CHECKS), default=[])
    ap.add_argument("--list", action="store_true")
    ap.add_argument("--root", default=ROOT)
    a = ap.parse_args()
    if a.list:
        print(*CHECKS, sep="\n")
        return 0
    good = True
    for name in a.check or CHECKS:
        good &= run_check(name, a.root)
    if a.all:
        for name in CHECKS:
            good &= self_test(name)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
