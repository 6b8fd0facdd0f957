#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# The recipe of docs/ipsec.md between two network namespaces: with ESP nothing of a session is readable on the wire, and a
# packet that is sent in the clear is refused; without it the same text is found, so that the search is known to work.
. /job/lib/glib.sh
export LC_ALL=C PYTHONDONTWRITEBYTECODE=1
B=/job/bin
modprobe -a veth esp4 xfrm_user af_packet gcm ghash_generic aes_generic seqiv 2>/dev/null
ip netns add srv; ip netns add cli
ip link add vs netns srv type veth peer name vc netns cli
for x in "srv vs 192.0.2.1" "cli vc 192.0.2.2"; do set -- $x; ip -n $1 addr add $3/24 dev $2; ip -n $1 link set $2 up; ip -n $1 link set lo up; done
ip netns exec srv $B/lunetted --listen 192.0.2.1:3260 --open --ram 16M --target iqn.2025-01.test.lunette:disk --state /tmp/state >/tmp/out 2>/tmp/err </dev/null & P=$!
wait_for 30 "grep -qx ready /tmp/out" || cat /tmp/err

# what went over the wire while a session writes and reads a known text: finds it or not, counts ESP and TCP packets
wire() { ip netns exec cli python3 - <<'PY'
import socket, sys, threading
sys.path.insert(0, "/job/bin")
import iscsi
text, seen = b"A text that nobody else shall read. ", []
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003)); s.bind(("vc", 0)); s.settimeout(0.5)
stop = threading.Event()
def look():
    while not stop.is_set():
        try: seen.append(s.recv(65536))
        except TimeoutError: pass
t = threading.Thread(target=look); t.start()
try:
    c = iscsi.Session("192.0.2.1", 3260, "iqn.2025-01.test.lunette:disk")
    c.ready()
    c.write(0, (text * 15)[:512])
    assert c.read(0, 1) == (text * 15)[:512]
    c.logout()
finally:
    stop.set(); t.join()
ip = [p for p in seen if p[12:14] == b"\x08\x00"]
print("readable" if any(text in p or b"InitiatorName" in p for p in seen) else "hidden",
      sum(p[23] == 50 for p in ip), sum(p[23] == 6 for p in ip))
PY
}
key1=0x$(od -An -tx1 -N20 /dev/urandom | tr -d ' \n') key2=0x$(od -An -tx1 -N20 /dev/urandom | tr -d ' \n')
esp() { # namespace, own address, the other's, key out, key in
  ip -n $1 xfrm state add src $2 dst $3 proto esp spi $6 reqid 1 mode transport replay-window 128 flag esn aead 'rfc4106(gcm(aes))' $4 128 &&
  ip -n $1 xfrm state add src $3 dst $2 proto esp spi $7 reqid 1 mode transport replay-window 128 flag esn aead 'rfc4106(gcm(aes))' $5 128 &&
  ip -n $1 xfrm policy add src $2/32 dst $3/32 proto tcp dir out tmpl src $2 dst $3 proto esp reqid 1 mode transport level required &&
  ip -n $1 xfrm policy add src $3/32 dst $2/32 proto tcp dir in tmpl src $3 dst $2 proto esp reqid 1 mode transport level required; }

ok "server" kill -0 $P
set -- $(wire); note "in the clear: $*"
ok "without IPsec the text is on the wire" [ "$1" = readable ]
ok "security associations of the server" esp srv 192.0.2.1 192.0.2.2 $key1 $key2 0x101 0x102
nok "a client in the clear is refused" timeout 5 ip netns exec cli bash -c 'exec 3<>/dev/tcp/192.0.2.1/3260'
ok "security associations of the client" esp cli 192.0.2.2 192.0.2.1 $key2 $key1 0x102 0x101
set -- $(wire); note "with ESP: $*"
ok "the session works, and nothing is readable" [ "$1" = hidden ]
ok "all of it is ESP" [ "${2:-0}" -gt 10 -a "${3:-1}" = 0 ]
kill $P; wait $P; ok "the server ends in good order" [ $? -eq 0 ]
finish
