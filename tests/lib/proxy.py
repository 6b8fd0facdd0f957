#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""A TCP proxy on loopback that makes a bad network: delay each way, cut all connections, flip a bit. In a thread of
the test, or as a program: proxy.py LISTENPORT HOST PORT DELAY_MS; SIGUSR1 cuts."""
import heapq, selectors, signal, socket, sys, threading, time


class Proxy:
    def __init__(self, to, delay=0.0, host="127.0.0.1", port=0, flip=None):
        """to: (host, port). delay: seconds each way. flip(direction, total, data) -> data, direction 'up' or 'down'."""
        self.to, self.delay, self.flip = to, delay, flip
        self.lsock = socket.socket()
        self.lsock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.lsock.bind((host, port))
        self.lsock.listen(128)
        self.port = self.lsock.getsockname()[1]
        self.stop_flag, self.cut_flag, self.accepted = False, False, 0
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def cut(self):
        """Every connection that exists now is reset."""
        self.cut_flag = True

    def stop(self):
        self.stop_flag = True
        self.thread.join(5)

    def _run(self):
        sel = selectors.DefaultSelector()
        self.lsock.setblocking(False)
        sel.register(self.lsock, selectors.EVENT_READ)
        peer, total, pend = {}, {}, {}  # pend: socket -> bytes that wait to be sent
        heap, n = [], 0  # (due, n, socket to, data or None for end)
        limit = 64 << 20

        def drop(s):
            for x in (s, peer.pop(s, None)):
                if x is not None:
                    peer.pop(x, None)
                    pend.pop(x, None)
                    try:
                        sel.unregister(x)
                    except (KeyError, ValueError):
                        pass
                    x.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    x.close()

        while not self.stop_flag:
            wait = 0.05
            if heap:
                wait = max(0, min(wait, heap[0][0] - time.monotonic()))
            for key, ev in sel.select(wait):
                s = key.fileobj
                if s is self.lsock:
                    try:
                        a, _ = s.accept()
                        b = socket.create_connection(self.to, timeout=5)
                    except OSError:
                        continue
                    self.accepted += 1
                    for x in (a, b):
                        x.setblocking(False)
                        x.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        total[x] = 0
                        pend[x] = bytearray()
                        sel.register(x, selectors.EVENT_READ, "up" if x is a else "down")
                    peer[a], peer[b] = b, a
                    continue
                if s not in peer:
                    continue
                if ev & selectors.EVENT_READ:
                    try:
                        d = s.recv(1 << 18)
                    except BlockingIOError:
                        d = None
                    except OSError:
                        d = b""
                    if d is not None:
                        if d and self.flip:
                            d = self.flip(key.data, total[s], d)
                        total[s] += len(d)
                        n += 1
                        heapq.heappush(heap, (time.monotonic() + self.delay, n, peer[s], d))
                        if not d:
                            sel.unregister(s)
                            sel.register(s, selectors.EVENT_WRITE, key.data) if pend.get(s) else None
            now = time.monotonic()
            if self.cut_flag:
                self.cut_flag = False
                for s in list(peer):
                    if s in peer:
                        drop(s)
                heap = []
            while heap and heap[0][0] <= now:
                _, _, s, d = heapq.heappop(heap)
                if s not in peer:
                    continue
                if not d:
                    if not pend[s]:
                        drop(s)
                    continue
                pend[s] += d
            for s in list(pend):
                b = pend.get(s)
                if not b:
                    continue
                try:
                    k = s.send(memoryview(b)[:1 << 18])
                    del b[:k]
                except BlockingIOError:
                    pass
                except OSError:
                    drop(s)
        for s in list(peer):
            if s in peer:
                drop(s)
        self.lsock.close()
        sel.close()


if __name__ == "__main__":
    p = Proxy((sys.argv[2], int(sys.argv[3])), float(sys.argv[4]) / 1000, port=int(sys.argv[1]))
    signal.signal(signal.SIGUSR1, lambda *_: p.cut())
    print("ready", flush=True)
    while p.thread.is_alive():
        p.thread.join(0.2)
