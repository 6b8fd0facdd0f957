#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Measures the limit (bench/limit.c), lunetted, and tgt where it is installed, side by side.

Servers run on one core and the generator on another. Every row runs in interleaved rounds: each round measures
each server once, so that what else the machine does hits all of them alike. The medians are compared. Writes a
Markdown table to standard output, and all figures as JSON to --out. What it started it stops again.

usage: bench/compare.py [--build DIR] [--rows REGEX] [--rounds N] [--secs S] [--servers LIST] [--out FILE]
                        [--before DIR] [--size BYTES] [--file-size BYTES] [--dir DIR] [--cores SERVER,GENERATOR] [--spin] [--realtime]
"""
import argparse
import atexit
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

IQN = 'iqn.2025-01.net.lunette.bench:t'
# name, arguments of `lunette bench`, medium, goal as ratio to the better limit (None: no goal)
ROWS = [
    ('4 KiB random read, 1 x 1', '--rw randread --bs 4k --depth 1', 'ram', 0.90),
    ('4 KiB random read, 1 x 32', '--rw randread --bs 4k --depth 32', 'ram', 0.92),
    ('4 KiB random read, 4 x 16', '--rw randread --bs 4k --depth 16 --sessions 4', 'ram', 0.85),
    ('4 KiB random write, 1 x 32', '--rw randwrite --bs 4k --depth 32', 'ram', 0.85),
    ('4 KiB random write, 1 x 32; the limit keeps the data', '--rw randwrite --bs 4k --depth 32', 'store', 0.85),
    ('64 KiB random read, 1 x 16', '--rw randread --bs 64k --depth 16', 'ram', 0.90),
    ('64 KiB random read, 1 x 16, data digest', '--rw randread --bs 64k --depth 16 --digests data', 'ram', 0.90),
    ('256 KiB sequential read, 1 x 8', '--rw read --bs 256k --depth 8', 'ram', 0.90),
    ('1 MiB sequential read, 1 x 4', '--rw read --bs 1m --depth 4', 'ram', 0.90),
    ('1 MiB sequential write, 1 x 4', '--rw write --bs 1m --depth 4', 'ram', 0.95),
    ('1 MiB sequential write, 1 x 4; the limit keeps the data', '--rw write --bs 1m --depth 4', 'store', 0.95),
    ('4 KiB random read, file in page cache, 1 x 32', '--rw randread --bs 4k --depth 32', 'file', 0.75),
    ('1 MiB sequential read, file in page cache, 1 x 4', '--rw read --bs 1m --depth 4', 'file', 0.75),
    ('4 KiB random read, 1 x 32 over 4 connections', '--rw randread --bs 4k --depth 32 --connections 4', 'connections', None),
    ('4 KiB random read, 1 x 32, level 2', '--rw randread --bs 4k --depth 32 --level 2', 'connections', None),
    ('64 KiB random read, 1 x 16 over 4 connections', '--rw randread --bs 64k --depth 16 --connections 4', 'connections', None),
    ('logins per second', '--login-storm 8', 'logins', None),
    ('1,000 idle sessions', '--idle 1000', 'idle', None),
]
started = []


def stop_all():
    for p in started:
        if p.poll() is None:
            p.send_signal(signal.SIGKILL)
            p.wait()
    started.clear()


def start(args, log):
    p = subprocess.Popen(args, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    started.append(p)
    return p


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def wait_port(port, p, name):
    end = time.time() + 60
    while time.time() < end:
        if p.poll() is not None:
            break
        with socket.socket() as s:
            if s.connect_ex(('127.0.0.1', port)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit(f'{name} does not listen; see its log')


class Bench:
    def __init__(self, a):
        self.a = a
        self.dir = tempfile.mkdtemp(prefix='lunette-bench-', dir=a.dir)
        self.shm = None
        self.left = []  # files that tgt leaves behind when it is killed
        self.server_core, self.gen_core = a.cores.split(',')
        self.file = os.path.join(self.dir, 'file')
        self.prefix = ['chrt', '-f', '5'] if a.realtime else []
        self.servers = {}  # name -> {'pid':, medium: arguments of the generator}
        atexit.register(self.cleanup)

    def cleanup(self):
        stop_all()
        shutil.rmtree(self.dir, ignore_errors=True)
        for path in [self.shm, *self.left]:
            if path and os.path.exists(path):
                os.unlink(path)

    def log(self, name):
        return open(os.path.join(self.dir, name + '.log'), 'wb')

    def pinned(self, *args):
        return self.prefix + ['taskset', '-c', self.server_core, *map(str, args)]

    def make_file(self):
        if os.path.exists(self.file):
            return
        with open(self.file, 'wb') as f:
            block = os.urandom(1 << 20)
            for i in range(self.a.file_size >> 20):
                f.write(i.to_bytes(8, 'big') + block[8:])
            f.flush()
            os.fsync(f.fileno())
        with open(self.file, 'rb') as f:
            while f.read(1 << 20):
                pass

    def start_limit(self, name, media, extra, file_extra):
        limit = os.path.join(self.a.build, 'bench', 'limit')
        s = {}
        for medium in media & {'ram', 'file', 'store'}:
            port = free_port()
            args = [limit, '--port', port, *extra]
            args += ['--file', self.file, *file_extra] if medium == 'file' else ['--size', self.a.size]
            args += ['--store'] if medium == 'store' else []
            p = start(self.pinned(*args), self.log(f'{name}-{medium}'))
            wait_port(port, p, name)
            size = self.a.file_size if medium == 'file' else self.a.size
            s[medium] = (p.pid, ['--raw', f'127.0.0.1:{port}', '--size', str(size)])
        self.servers[name] = s

    def iscsi_media(self, pid, port, ram_lun, file_lun, media):
        url = f'iscsi://127.0.0.1:{port}/{IQN}'
        ram = (pid, ['--size', str(self.a.size), f'{url}/{ram_lun}'])
        s = {'ram': ram, 'store': ram,
             'file': (pid, ['--size', str(self.a.file_size), f'{url}/{file_lun}']),
             'connections': ram, 'logins': (pid, [f'{url}/{ram_lun}']), 'idle': (pid, [f'{url}/{ram_lun}'])}
        return {m: s[m] for m in s if m in media}

    def start_lunetted(self, media, name='lunetted', build=None):
        port = free_port()
        args = [os.path.join(build or self.a.build, 'src', 'lunetted', 'lunetted'), '--listen', f'127.0.0.1:{port}',
                '--target', IQN, '--cores', '1', '--state', os.path.join(self.dir, name + '-state'),
                '--socket', os.path.join(self.dir, name + '.sock'), '--ram', str(self.a.size)]
        if 'file' in media:
            args += ['--file', self.file + ',ro']
        p = start(self.pinned(*args), self.log(name))
        wait_port(port, p, name)
        self.servers[name] = self.iscsi_media(p.pid, port, 0, 1, media)

    def start_tgt(self, media):
        port, c = free_port(), str(500 + os.getpid() % 400)
        self.shm = f'/dev/shm/lunette-bench-{os.getpid()}'
        self.left = [f'/var/run/tgtd/socket.{c}', f'/var/run/tgtd/socket.{c}.lock']
        with open(self.shm, 'wb') as f:
            f.truncate(self.a.size)
        p = start(self.pinned('tgtd', '-f', '-C', c, '--iscsi', f'portal=127.0.0.1:{port}'), self.log('tgt'))
        wait_port(port, p, 'tgt')

        def adm(*args):
            subprocess.run(['tgtadm', '-C', c, '--lld', 'iscsi', *args], check=True, stdout=subprocess.DEVNULL)
        adm('--mode', 'target', '--op', 'new', '--tid', '1', '--targetname', IQN)
        adm('--mode', 'target', '--op', 'bind', '--tid', '1', '--initiator-address', 'ALL')
        for k, v in (('InitialR2T', 'No'), ('ImmediateData', 'Yes'), ('MaxBurstLength', '16776192'),
                     ('FirstBurstLength', '262144'), ('MaxRecvDataSegmentLength', '1048576'),
                     ('MaxXmitDataSegmentLength', '1048576'), ('HeaderDigest', 'CRC32C,None'),
                     ('DataDigest', 'CRC32C,None'), ('MaxOutstandingR2T', '8')):
            adm('--mode', 'target', '--op', 'update', '--tid', '1', '--name', k, '--value', v)
        adm('--mode', 'logicalunit', '--op', 'new', '--tid', '1', '--lun', '1', '--bstype', 'rdwr',
            '--backing-store', self.shm)
        if 'file' in media:
            adm('--mode', 'logicalunit', '--op', 'new', '--tid', '1', '--lun', '2', '--bstype', 'rdwr',
                '--backing-store', self.file)
        self.servers['tgt'] = self.iscsi_media(p.pid, port, 1, 2, media)

    def start_all(self, media):
        if 'file' in media:
            self.make_file()
        for s in self.a.servers.split(','):
            if s == 'plain':
                self.start_limit('plain', media, [], [])
            elif s == 'tuned':
                self.start_limit('tuned', media, ['--spin', '--sndbuf', str(384 << 10)], ['--mmap'])
            elif s == 'lunetted':
                self.start_lunetted(media)
            elif s == 'before' and self.a.before:
                self.start_lunetted(media - {'connections'}, 'before', self.a.before)
            elif s == 'tgt' and shutil.which('tgtd'):
                self.start_tgt(media)
        for s in ('lunetted', 'before', 'tgt'):
            for m in sorted({'ram', 'store', 'connections'} & self.servers.get(s, {}).keys())[:1]:
                self.generate(self.servers[s][m], ['--fill', '--time', '0.1', '--warmup', '0', '--bs', '64k'])

    def generate(self, server, args):
        pid, where = server
        cmd = [self.a.lunette, 'bench'] if self.a.lunette else [os.path.join(self.a.build, 'src', 'lunette', 'lunette'), 'bench']
        cmd = self.prefix + cmd + ['--json', '--cpu', self.gen_core, '--server-pid', str(pid), *args, *where]
        r = subprocess.run(cmd, capture_output=True, text=True, timeout=120 + 4 * self.a.secs)
        if not r.stdout.strip():
            raise SystemExit(f'{" ".join(cmd)}\n{r.stderr}')
        if r.returncode:
            print(f'warning: {" ".join(cmd)}: {r.stderr or r.stdout}', file=sys.stderr)
        return json.loads(r.stdout)

    def measure(self, row):
        name, args, medium, _ = row
        args = args.split() + ['--time', str(self.a.secs), '--warmup', str(min(0.2, self.a.secs / 4))]
        if self.a.spin:
            args.append('--spin')
        who = [s for s in self.servers if medium in self.servers[s]]
        samples = {s: [] for s in who}
        for n in range(1 if medium == 'idle' else self.a.rounds):
            for s in who[n % len(who):] + who[:n % len(who)]:
                samples[s].append(self.generate(self.servers[s][medium], args))
        return samples


def medians(samples):
    keys = samples[0].keys()
    return {k: statistics.median(x[k] for x in samples) for k in keys}


def one_line(row, m):
    value = {'logins': 'logins_per_s', 'idle': 'rss_per_session'}.get(row[2], 'iops')
    cpu = {'logins': 'server_cpu_us_per_login', 'idle': 'server_cpu'}.get(row[2], 'server_cpu_us_per_io')
    limit = max((m[s][value] for s in ('plain', 'tuned') if s in m), default=None)
    mine, tgt, before = m.get('lunetted'), m.get('tgt'), m.get('before')
    cells = [row[0]]
    for s in ('plain', 'tuned', 'lunetted', 'tgt'):
        cells.append(f'{m[s][value]:,.0f} ({m[s][cpu]:.4g})' if s in m else '')
    ratio = mine[value] / limit if mine and limit else None
    cells.append(f'{ratio:.2f}' if ratio else '')
    cells.append(f'{row[3]:.2f}' if row[3] else '')
    cells.append(f'{mine[value] / tgt[value]:.1f}' if mine and tgt and tgt[value] else '')
    if before:
        cells.append(f"{before[value]:,.0f} ({before[cpu]:.4g})")
        cells.append(f'{mine[value] / before[value]:.2f}')
    return ratio, '| ' + ' | '.join(cells) + ' |'


def parse():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--build', default='build')
    p.add_argument('--lunette', help='the generator, if not the one of the build')
    p.add_argument('--rows', default='.')
    p.add_argument('--rounds', type=int, default=5)
    p.add_argument('--secs', type=float, default=1.0)
    p.add_argument('--servers', default='plain,tuned,lunetted,before,tgt')
    p.add_argument('--before', help='build folder of an earlier version, measured in the same rounds')
    p.add_argument('--out')
    p.add_argument('--size', type=int, default=1 << 30)
    p.add_argument('--file-size', type=int, default=1 << 30)
    p.add_argument('--dir', default='/var/tmp')
    p.add_argument('--cores', default='0,1')
    p.add_argument('--realtime', action='store_true',
                   help='real-time priority for both, on a machine with other work (as root)')
    p.add_argument('--spin', action='store_true', help='the generator polls too')
    return p.parse_args()


def main():
    a = parse()
    rows = [r for r in ROWS if re.search(a.rows, r[0])]
    b = Bench(a)
    b.start_all({r[2] for r in rows})
    print('| workload | limit, plain | limit, tuned | lunetted | tgt | to limit | goal | to tgt |' +
          (' before | to before |' if a.before else ''))
    print('|---|--:|--:|--:|--:|--:|--:|--:|' + ('--:|--:|' if a.before else ''), flush=True)
    out = []
    for row in rows:
        samples = b.measure(row)
        m = {s: medians(v) for s, v in samples.items()}
        ratio, line = one_line(row, m)
        print(line, flush=True)
        out.append({'workload': row[0], 'goal': row[3], 'ratio': ratio, 'medians': m, 'samples': samples})
    if a.out:
        with open(a.out, 'w') as f:
            json.dump({'rounds': a.rounds, 'secs': a.secs, 'size': a.size, 'file_size': a.file_size, 'rows': out}, f, indent=1)


if __name__ == '__main__':
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    main()
