# SPDX-License-Identifier: BSD-3-Clause
"""A small iSCSI initiator for tests, written from RFC 7143: blocking, synchronous or pipelined. A Session is its leading
connection; join() makes further ones, which share its CmdSN and tags. Not fast, not complete; what it sends is exactly what a test says. Names are the standard's."""
import base64, hashlib, os, socket, struct

NOP_OUT, SCSI_CMD, TMF, LOGIN, TEXT, DATA_OUT, LOGOUT, SNACK = 0, 1, 2, 3, 4, 5, 6, 0x10
NOP_IN, SCSI_RSP, TMF_RSP, LOGIN_RSP, TEXT_RSP, DATA_IN, LOGOUT_RSP, R2T, ASYNC, REJECT = \
    0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x31, 0x32, 0x3f
_isid = iter(range(1, 1 << 24))


class Closed(ConnectionError):
    pass


class LoginRefused(Exception):
    def __init__(self, status, text=b""):
        super().__init__(f"login status {status:04x}")
        self.status, self.text = status, text


class ScsiError(Exception):
    def __init__(self, status, sense):
        self.status, self.sense = status, sense
        if len(sense) >= 8 and sense[0] & 0x7f in (0x72, 0x73):
            self.key, self.asc, self.ascq = sense[1] & 15, sense[2], sense[3]
        elif len(sense) >= 14:
            self.key, self.asc, self.ascq = sense[2] & 15, sense[12], sense[13]
        else:
            self.key = self.asc = self.ascq = None
        super().__init__(f"status {status:02x} sense {self.key}/{self.asc}/{self.ascq}")


def _table():
    t = []
    for n in range(256):
        for _ in range(8):
            n = n >> 1 ^ (0x82f63b78 if n & 1 else 0)
        t.append(n)
    return t


_crc = _table()


def crc32c(data):
    """The digest of RFC 7143 13.1, as its four bytes on the wire."""
    c = 0xffffffff
    for b in data:
        c = _crc[(c ^ b) & 255] ^ c >> 8
    return struct.pack("<I", c ^ 0xffffffff)


class Pdu:
    def __init__(self, bhs, data):
        self.bhs, self.data = bhs, data
        self.op = bhs[0] & 0x3f
        self.itt = struct.unpack(">I", bhs[16:20])[0]

    def u32(self, at):
        return struct.unpack(">I", self.bhs[at:at + 4])[0]


class Session:
    """Logs in on construction. user/secret: one-way CHAP (MD5). keys: further login keys."""

    def __init__(self, host, port, target=None, lun=0, initiator="iqn.2025-01.test.lunette:initiator", user=None,
                 secret=None, keys=None, timeout=20, isid=None, login=True, leader=None, cid=0):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.s = socket.socket(family, socket.SOCK_STREAM)
        self.s.settimeout(timeout)
        self.s.connect((host, port))
        self.s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.target, self.lun, self.initiator = target, lun, initiator
        self.user, self.secret, self.extra = user, secret, keys or {}
        self.isid = (isid or (0x80 << 40 | (os.getpid() & 0xffff) << 24 | next(_isid))).to_bytes(6, "big")
        self.leader, self.cid, self.expstatsn = leader or self, cid, 0
        if not leader:
            self.cmdsn, self.itt, self.tsih = 1, 1, 0
        self.params = dict(leader.params) if leader else {}
        self.hdigest = self.ddigest = False
        if login:
            self.login()

    # what all connections of a session share
    @property
    def cmdsn(self):
        return self.leader._cmdsn

    @cmdsn.setter
    def cmdsn(self, v):
        self.leader._cmdsn = v

    @property
    def itt(self):
        return self.leader._itt

    @itt.setter
    def itt(self, v):
        self.leader._itt = v

    @property
    def tsih(self):
        return self.leader._tsih

    @tsih.setter
    def tsih(self, v):
        self.leader._tsih = v

    def join(self, cid, host=None, port=None, login=True, **keys):
        """A further connection of this session, to the same portal or to another one."""
        peer = self.s.getpeername() if not host else (host, port)
        return Session(peer[0], peer[1], self.target, self.lun, self.initiator, self.user, self.secret, keys,
                       self.s.gettimeout(), int.from_bytes(self.isid, "big"), login, self.leader, cid)

    # --- framing
    def send(self, op, flags=0, b23=b"\0\0", lun=None, itt=None, words=b"", data=b"", immediate=False):
        """words: bytes 20..47 of the header. No AHS."""
        if itt is None:
            itt = self.itt
            self.itt += 1
        lun = struct.pack(">H", self.lun | (0x4000 if self.lun > 255 else 0)) + bytes(6) if lun is None else lun  # SAM-5 4.7
        bhs = bytes([op | (0x40 if immediate else 0), flags]) + b23 + bytes([0]) + len(data).to_bytes(3, "big") + lun + \
            struct.pack(">I", itt) + words.ljust(28, b"\0")
        assert len(bhs) == 48
        data += bytes(-len(data) % 4)
        self.s.sendall(bhs + (crc32c(bhs) if self.hdigest else b"") + data +
                       (crc32c(data) if self.ddigest and data else b""))
        return itt

    def exactly(self, n):
        parts = []
        while n:
            b = self.s.recv(min(n, 1 << 18))
            if not b:
                raise Closed("connection closed by the target")
            parts.append(b)
            n -= len(b)
        return b"".join(parts)

    def recv(self):
        bhs = self.exactly(48)
        n = int.from_bytes(bhs[5:8], "big")
        ahs = self.exactly(bhs[4] * 4)
        if self.hdigest and self.exactly(4) != crc32c(bhs + ahs):
            raise Closed("header digest is wrong")
        data = self.exactly(n + -n % 4)
        if self.ddigest and n and self.exactly(4) != crc32c(data):
            raise Closed("data digest is wrong")
        data = data[:n]
        p = Pdu(bhs, data)
        if p.op in (SCSI_RSP, TMF_RSP, LOGIN_RSP, TEXT_RSP, LOGOUT_RSP, ASYNC, REJECT) or \
                p.op == DATA_IN and bhs[1] & 1 or p.op == NOP_IN and p.itt != 0xffffffff:
            self.expstatsn = (p.u32(24) + 1) & 0xffffffff
        return p

    def next(self):
        """The next PDU that is not the target's ping (which is answered)."""
        while True:
            p = self.recv()
            if p.op == NOP_IN and p.itt == 0xffffffff:
                if p.u32(20) != 0xffffffff:
                    self.send(NOP_OUT, 0x80, itt=0xffffffff, lun=p.bhs[8:16], immediate=True,
                              words=p.bhs[20:24] + struct.pack(">II", self.cmdsn, self.expstatsn))
                continue
            return p

    # --- login
    def login_pdu(self, keys, csg, nsg, transit=True):
        text = b"".join(f"{k}={v}".encode() + b"\0" for k, v in keys.items())
        self.send(LOGIN, (0x80 if transit else 0) | csg << 2 | nsg, lun=self.isid + struct.pack(">H", self.tsih), itt=0,
                  words=struct.pack(">HHII", self.cid, 0, self.cmdsn, self.expstatsn), data=text, immediate=True)
        p = self.recv()
        if p.op != LOGIN_RSP:
            raise Closed(f"opcode {p.op:02x} during login")
        status = struct.unpack(">H", p.bhs[36:38])[0]
        if status:
            raise LoginRefused(status, p.data)
        self.tsih = struct.unpack(">H", p.bhs[14:16])[0]
        got = dict(x.split("=", 1) for x in p.data.decode("utf-8", "replace").split("\0") if "=" in x)
        self.params.update(got)
        return p, got

    def login(self):
        first = {"InitiatorName": self.initiator, "SessionType": "Normal" if self.target else "Discovery"}
        if self.target:
            first["TargetName"] = self.target
        if self.user:
            self.login_pdu({**first, "AuthMethod": "CHAP"}, 0, 1, transit=False)
            p, got = self.login_pdu({"CHAP_A": "5"}, 0, 1, transit=False)
            c = got["CHAP_C"]
            chal = base64.b64decode(c[2:]) if c[:2] in ("0b", "0B") else bytes.fromhex(c[2:])
            r = hashlib.md5(bytes([int(got["CHAP_I"])]) + self.secret.encode() + chal).hexdigest()
            self.login_pdu({"CHAP_N": self.user, "CHAP_R": "0x" + r}, 0, 1)
            first = {}
        keys = {"HeaderDigest": "None", "DataDigest": "None", "MaxRecvDataSegmentLength": "262144",
                **({"DefaultTime2Wait": "2", "DefaultTime2Retain": "0"} if self.leader is self else {}), **({
                    "InitialR2T": "No", "ImmediateData": "Yes", "MaxBurstLength": "1048576", "FirstBurstLength": "65536",
                    "MaxConnections": "1", "MaxOutstandingR2T": "1", "ErrorRecoveryLevel": "0"}
                    if self.target and self.leader is self else {}),
                **self.extra}
        _, got = self.login_pdu({**first, **keys}, 1, 3)
        self.hdigest, self.ddigest = got.get("HeaderDigest") == "CRC32C", got.get("DataDigest") == "CRC32C"
        burst = self.params.get("FirstBurstLength", "")
        self.first_burst = int(burst) if burst.isdigit() else 65536  # "Irrelevant" where no unsolicited data is allowed
        self.max_xmit = int(self.params.get("MaxRecvDataSegmentLength", 8192))
        self.immediate = self.params.get("ImmediateData", "Yes") == "Yes"

    # --- full feature phase
    def command(self, cdb, out=b"", want=0, immediate_data=True):
        """Sends one SCSI command; returns its tag. Unsolicited data beyond the immediate part is never sent."""
        flags = 0x80 | (0x40 if want else 0) | (0x20 if out else 0) | 1
        first = b""
        if out and immediate_data and self.immediate:
            first = out[:min(self.first_burst, self.max_xmit)]
        words = struct.pack(">III", len(out) or want, self.cmdsn, self.expstatsn) + cdb.ljust(16, b"\0")
        self.cmdsn = (self.cmdsn + 1) & 0xffffffff
        return self.send(SCSI_CMD, flags, words=words, data=first)

    def data_out(self, p, out):
        ttt, off, n, sn = p.u32(20), p.u32(40), p.u32(44), 0
        while n:
            m = min(n, self.max_xmit)
            self.send(DATA_OUT, 0x80 if m == n else 0, itt=p.itt, lun=p.bhs[8:16], data=out[off:off + m],
                      words=struct.pack(">IIIIII", ttt, 0, self.expstatsn, 0, sn, off))
            off, n, sn = off + m, n - m, sn + 1

    def finish(self, itt, out=b"", size=0):
        """Waits for the response of that command; returns its data. ScsiError on any status but GOOD."""
        data = bytearray(size)
        while True:
            p = self.next()
            if p.op == REJECT:
                raise Closed(f"Reject, reason {p.bhs[2]:02x}")
            if p.op == ASYNC:
                continue
            if p.itt != itt:
                raise Closed(f"response for tag {p.itt}, not {itt}")
            if p.op == R2T:
                self.data_out(p, out)
            elif p.op == DATA_IN:
                off = p.u32(40)
                data[off:off + len(p.data)] = p.data
                if p.bhs[1] & 1:
                    if p.bhs[3]:
                        raise ScsiError(p.bhs[3], b"")
                    return bytes(data)
            elif p.op == SCSI_RSP:
                if p.bhs[2] or p.bhs[3]:
                    n = int.from_bytes(p.data[:2], "big") if len(p.data) >= 2 else 0
                    raise ScsiError(p.bhs[3] if not p.bhs[2] else 0x100 | p.bhs[2], p.data[2:2 + n])
                return bytes(data)

    def scsi(self, cdb, out=b"", want=0):
        return self.finish(self.command(cdb, out, want), out, want)

    def ready(self):
        """TEST UNIT READY until the unit attentions are over."""
        for _ in range(8):
            try:
                return self.scsi(bytes(6))
            except ScsiError as e:
                if e.key != 6:
                    raise
        raise RuntimeError("unit attentions never end")

    def read(self, lba, n, bs=512):
        return self.scsi(struct.pack(">BBQIBB", 0x88, 0, lba, n, 0, 0), want=n * bs)

    def write(self, lba, data, bs=512, fua=False):
        return self.scsi(struct.pack(">BBQIBB", 0x8a, 8 if fua else 0, lba, len(data) // bs, 0, 0), out=data)

    def flush(self):
        return self.scsi(struct.pack(">BBQIBB", 0x91, 0, 0, 0, 0, 0))

    def capacity(self):
        d = self.scsi(bytes([0x9e, 0x10]) + bytes(8) + struct.pack(">I", 32) + bytes(2), want=32)
        return struct.unpack(">QI", d[:12])  # last LBA, block bytes

    def inquiry(self, page=None, n=255):
        return self.scsi(bytes([0x12, 0 if page is None else 1, page or 0]) + struct.pack(">H", n) + b"\0", want=n)

    def nop(self, data=b"ping"):
        itt = self.send(NOP_OUT, 0x80, words=struct.pack(">III", 0xffffffff, self.cmdsn, self.expstatsn), data=data,
                        immediate=True)
        p = self.next()
        if p.op != NOP_IN or p.itt != itt or p.data != data:
            raise Closed(f"wrong answer to NOP-Out: {p.op:02x}")

    def send_targets(self, value="All"):
        itt = self.send(TEXT, 0x80, lun=bytes(8), words=struct.pack(">III", 0xffffffff, self.cmdsn, self.expstatsn),
                        data=f"SendTargets={value}".encode() + b"\0")
        self.cmdsn += 1
        p = self.next()
        if p.op != TEXT_RSP or p.itt != itt:
            raise Closed(f"wrong answer to a text request: {p.op:02x}")
        return p.data.decode().split("\0")

    def tmf(self, function, ref=0xffffffff):
        self.send(TMF, 0x80 | function, words=struct.pack(">III", ref, self.cmdsn, self.expstatsn), immediate=True)
        while True:
            p = self.next()
            if p.op == TMF_RSP:
                return p.bhs[2]

    def logout_request(self, reason=0, cid=None, expstatsn=None):
        """reason: 0 session, 1 connection, 2 connection for recovery. Returns the response."""
        words = struct.pack(">HHII", (self.cid if cid is None else cid) if reason else 0, 0, self.cmdsn,
                            self.expstatsn if expstatsn is None else expstatsn)
        self.send(LOGOUT, 0x80 | reason, lun=bytes(8), words=words, immediate=True)
        while True:
            p = self.next()
            if p.op == LOGOUT_RSP:
                return p.bhs[2]

    def logout(self):
        self.logout_request()
        self.close()

    def close(self):
        self.s.close()
