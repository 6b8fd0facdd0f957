# SPDX-License-Identifier: BSD-3-Clause
"""What every test program outside the unit tests uses: case lines, builds, and servers that are started on free
ports, stopped by pid, and searched for sanitizer reports.

A test program prints one line a case: `ok NAME`, `FAIL NAME (reason)` or `SKIP NAME (reason)`; tests/run counts
them. Nothing here needs more than Python's standard library."""
import ctypes, glob, os, re, select, shutil, signal, socket, subprocess, sys, tempfile, threading, time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FLAVOURS = {  # name: (folder, compiler, meson options)
    "release": ("build-test", "gcc", ["--buildtype=release", "-Dwerror=true"]),
    "asan": ("build-asan", "clang", ["--buildtype=debugoptimized", "-Db_sanitize=address,undefined",
                                     "-Db_lundef=false", "-Dwerror=true"]),
    "tsan": ("build-tsan", "clang", ["--buildtype=debugoptimized", "-Db_sanitize=thread", "-Db_lundef=false",
                                     "-Dwerror=true"]),
    "fuzz": ("build-fuzz", "clang", ["--buildtype=debugoptimized", "-Dfuzz=true", "-Db_sanitize=address,undefined",
                                     "-Db_lundef=false"]),
}


class Report:
    """Counts and prints cases."""

    def __init__(self, prefix=""):
        self.prefix, self.failed, self.passed, self.skipped = prefix, 0, 0, 0

    def _line(self, word, name, reason):
        reason = " ".join(str(reason).split())[:600]
        print(f"{word} {self.prefix}{name}" + (f" ({reason})" if reason else ""), flush=True)

    def ok(self, name, note=""):
        self.passed += 1
        self._line("ok", name, note)

    def fail(self, name, reason):
        self.failed += 1
        self._line("FAIL", name, reason)

    def skip(self, name, reason):
        self.skipped += 1
        self._line("SKIP", name, reason)

    def check(self, name, cond, reason=""):
        self.ok(name) if cond else self.fail(name, reason or "condition is false")
        return bool(cond)

    def case(self, name, fn, *args):
        """Runs fn; an exception is the failure, Skip the skip; a returned string is a note."""
        try:
            note = fn(*args)
            self.ok(name, note or "")
        except Skip as e:
            self.skip(name, e)
        except Exception as e:  # noqa: a test that breaks is a failed test
            self.fail(name, f"{type(e).__name__}: {e}")

    def status(self):
        return 1 if self.failed else 0


class Skip(Exception):
    pass


_libc = ctypes.CDLL(None)


def die_with_parent():
    """In a child before exec: SIGKILL when the test that started it is gone, so that nothing is left behind. (The
    kernel means the thread that forked: start servers in threads that outlive them.)"""
    _libc.prctl(1, signal.SIGKILL)


def flavour_dir(flavour):
    return os.path.join(ROOT, FLAVOURS[flavour][0])


def build(flavour):
    """Configures (once) and builds; returns None or the reason why not."""
    folder, cc, opts = FLAVOURS[flavour]
    folder = os.path.join(ROOT, folder)
    if not os.path.exists(os.path.join(folder, "build.ninja")):
        shutil.rmtree(folder, ignore_errors=True)
        r = run(["meson", "setup", *opts, "-Dtests=true", folder, ROOT], 180, env={"CC": cc})
        if r.returncode:
            return "meson: " + tail(r.stdout)
    r = run(["ninja", "-k", "0", "-C", folder], 1200)
    if r.returncode == 0:
        return None
    bad = [l for l in r.stdout.splitlines() if "error:" in l or "undefined reference" in l]
    return bad[0] if bad else tail(r.stdout)


def run(cmd, timeout, env=None, **kw):
    """stdout and stderr together as text; 124 when the time is over. The whole process group is ended."""
    e = dict(os.environ, **(env or {}))
    p = subprocess.Popen(cmd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=e,
                         start_new_session=True, preexec_fn=die_with_parent, text=True, errors="replace", **kw)
    try:
        out, _ = p.communicate(timeout=timeout)
        return subprocess.CompletedProcess(cmd, p.returncode, out)
    except subprocess.TimeoutExpired:
        os.killpg(p.pid, signal.SIGKILL)
        out, _ = p.communicate()
        return subprocess.CompletedProcess(cmd, 124, out + "\ntime limit")


def stream(cmd, timeout, env, on_line, **kw):
    """Like run(), with on_line(text) for each line as it comes."""
    p = subprocess.Popen(cmd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                         env=dict(os.environ, **env), start_new_session=True, preexec_fn=die_with_parent, text=True, errors="replace", **kw)
    over = threading.Event()

    def stop():
        over.set()
        os.killpg(p.pid, signal.SIGKILL)

    timer, lines = threading.Timer(timeout, stop), []
    timer.start()
    for l in p.stdout:
        lines.append(l)
        on_line(l.rstrip("\n"))
    rc = p.wait()
    timer.cancel()
    return subprocess.CompletedProcess(cmd, 124 if over.is_set() else rc, "".join(lines))


def tail(text, n=3):
    return " / ".join(text.strip().splitlines()[-n:])


_given = set()


def free_port(host="127.0.0.1"):
    """A high port that nothing listens on now, outside the range that outgoing connections draw from."""
    import random
    for _ in range(200):
        port = random.randrange(20000, 32000)
        if port in _given:
            continue
        s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        try:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind((host, port))
            _given.add(port)
            return port
        except OSError:
            continue
        finally:
            s.close()
    raise RuntimeError("no free port")


SAN_SYMBOLIZER = shutil.which("llvm-symbolizer") or ""


def sanitizer_env(logbase):
    sym = f":external_symbolizer_path={SAN_SYMBOLIZER}" if SAN_SYMBOLIZER else ""
    supp = os.path.join(ROOT, "tests/lib/tsan.supp")
    return {
        "ASAN_OPTIONS": f"log_path={logbase}.asan:detect_leaks=1:exitcode=99{sym}",
        "UBSAN_OPTIONS": f"log_path={logbase}.ubsan:print_stacktrace=1:halt_on_error=0{sym}",
        "TSAN_OPTIONS": f"log_path={logbase}.tsan:exitcode=98:halt_on_error=0:suppressions={supp}{sym}",
    }


def sanitizer_reports(logbase):
    """The reports that the runtime left, as a list of first lines."""
    found = []
    for f in glob.glob(logbase + ".*san*"):
        with open(f, errors="replace") as fh:
            text = fh.read()
        first = next((l for l in text.splitlines() if "ERROR" in l or "WARNING" in l or "runtime error" in l), "")
        if first:
            frames = [re.sub(r"0x[0-9a-f]+ (in )?| \(\S*\+0x\S*.*", "", l.strip()).replace(ROOT + "/", "")
                      for l in text.splitlines() if re.match(r"\s+#\d", l)]
            own = [f for f in frames if "/src/" in f or "/tests/" in f][:4] or frames[:3]
            found.append(" ".join([re.sub(r"^=*\d*=*|\(pid=\d+\)", "", first.strip())] + own))
    return sorted(set(found))[:4]


class Server:
    """One lunetted. Options are its command line; --listen, --state and --loop are added here."""

    def __init__(self, *args, flavour="release", loop=None, host="127.0.0.1", port=None, binary=None,
                 listen=True, state=None, wrap=(), env=None, wait=True, target=None, config=None):
        self.flavour, self.host = flavour, host
        self.port = port or free_port()
        self.dir = tempfile.mkdtemp(prefix="lunette-test-")
        self.state = state or os.path.join(self.dir, "state")
        self.binary = binary or os.environ.get("LUNETTED") or \
            os.path.join(flavour_dir(flavour), "src/lunetted/lunetted")
        self.iqn = target or "iqn.2025-01.test.lunette:disk"
        cmd = [*wrap, self.binary]
        if listen:
            cmd += ["--listen", f"{host}:{self.port}"]
        cmd += ["--state", self.state] + (["--config", config] if config else ["--target", self.iqn])
        if loop:
            cmd += ["--loop", loop]
        self.cmd = cmd + [str(a) for a in args]
        self.env = dict(os.environ, **sanitizer_env(os.path.join(self.dir, "san")), **(env or {}))
        self.proc = None
        self.start(wait)

    def start(self, wait=True):
        self.log = open(os.path.join(self.dir, "log"), "ab")
        self.proc = subprocess.Popen(self.cmd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.log,
                                     env=self.env, start_new_session=True, preexec_fn=die_with_parent)
        if wait:
            self.wait_ready()

    def wait_ready(self, timeout=None):
        timeout = timeout or (15 if self.flavour == "release" else 40)
        end, got = time.monotonic() + timeout, b""
        fd = self.proc.stdout.fileno()
        while time.monotonic() < end:
            if not select.select([fd], [], [], 0.2)[0]:
                continue
            data = os.read(fd, 4096)
            if not data:
                raise RuntimeError(f"lunetted ended with {self.proc.wait()} before it was ready: {self.log_tail()}")
            got += data
            if b"ready" in [l.strip() for l in got.split(b"\n")]:
                return
        self.kill()
        raise RuntimeError("lunetted was not ready in time: " + self.log_tail())

    def url(self, lun=0, user=None):
        return f"iscsi://{user + '@' if user else ''}{self.host}:{self.port}/{self.iqn}/{lun}"

    def portal(self):
        return f"{self.host}:{self.port}"

    def pid(self):
        return self.proc.pid

    def log_tail(self, n=3):
        try:
            with open(os.path.join(self.dir, "log"), errors="replace") as f:
                return tail(f.read(), n)
        except OSError:
            return ""

    def alive(self):
        return self.proc.poll() is None

    def stop(self, timeout=None):
        """SIGTERM; returns the exit status, or 'hung'."""
        if self.alive():
            self.proc.terminate()
        try:
            return self.proc.wait(timeout or (8 if self.flavour == "release" else 25))
        except subprocess.TimeoutExpired:
            self.kill()
            return "hung"
        finally:
            self.proc.stdout.close()
            self.log.close()

    def kill(self):
        """SIGKILL, as a crash of the program."""
        if self.alive():
            os.kill(self.proc.pid, signal.SIGKILL)
        self.proc.wait()

    def reports(self):
        return sanitizer_reports(os.path.join(self.dir, "san"))

    def finish(self):
        """Stops, removes the folder; returns what was wrong (exit status, sanitizer reports) or ''."""
        bad, found = [], self.reports() if not self.alive() else []
        if not self.alive():
            bad.append(f"server had ended with {self.proc.returncode}: {self.log_tail()}")
        else:
            rc = self.stop()
            if rc != 0:
                bad.append(f"server ended with {rc}: {self.log_tail()}")
        bad = (found or self.reports()) + bad
        shutil.rmtree(self.dir, ignore_errors=True)
        return "; ".join(bad)

    def __enter__(self):
        return self

    def __exit__(self, kind, exc, tb):
        bad = self.finish()
        if bad and kind is None:
            raise RuntimeError(bad)


def binaries_there(flavour="release"):
    return os.path.exists(os.environ.get("LUNETTED") or os.path.join(flavour_dir(flavour), "src/lunetted/lunetted"))
