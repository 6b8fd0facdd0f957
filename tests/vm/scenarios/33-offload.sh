# SPDX-License-Identifier: BSD-3-Clause
# What a Linux client offloads: trim of a file system, zeroing of a range, copies; and a disk that grows is seen without
# a rescan.
[ -n "${T_IQN_LAB:-}" ] || skip "this target has no disks to spare"
quiet_login "$T_IQN_LAB" "$T_LAB1" 3; D=$(blk "$T_IQN_LAB" 3)
used() { host lab used lab3.img; }
mkdir -p /mnt/t
ok "mkfs" mkfs.ext4 -q -F -E nodiscard $D
ok "mount" mount $D /mnt/t
head -c 30000000 /dev/urandom > /mnt/t/f; sync; a=$(used)
rm /mnt/t/f; sync
ok "fstrim" fstrim -v /mnt/t
b=$(used); note "blocks on the server: $a before, $b after the trim"
ok "the trim frees space on the server" [ "$b" -lt $((a - 20000)) ]
umount /mnt/t
ok "blkdiscard -z: zeroes" blkdiscard -z $D
ok "all of it reads as zeros" cmp -n $(blockdev --getsize64 $D) $D /dev/zero
ok "blkdiscard: discards" blkdiscard $D
ok "the kernel offloads writes of zeros" [ "$(cat /sys/block/${D#/dev/}/queue/write_zeroes_max_bytes)" -gt 0 ]
quiet_login "$T_IQN_LAB" "$T_LAB1" 0; G=$(blk "$T_IQN_LAB" 0); a=$(blockdev --getsize64 $G)
ok "the disk grows on the server" host lab conf bigger
ok "the guest sees it by itself, at its next I/O" wait_for 30 "dd if=$G of=/dev/null bs=4k count=1 iflag=direct; [ \$(blockdev --getsize64 $G) -gt $a ] || { dmesg | grep -q 'Capacity data has changed'; }"
echo 1 > /sys/block/${G#/dev/}/device/rescan
ok "and knows the new size" [ "$(blockdev --getsize64 $G)" = $((160<<20)) ]
