# SPDX-License-Identifier: BSD-3-Clause
quiet_login "$T_IQN" "$T_PORTAL1"; D=$(blk "$T_IQN" "$T_LUN")
modprobe -a ext4 2>/dev/null; mkdir -p /mnt/a
ok "mkfs.ext4" mkfs.ext4 -q -F $D 128M
ok "mount" mount -o discard $D /mnt/a
head -c 20000000 /dev/urandom > /mnt/a/f1; mkdir /mnt/a/d; for i in $(seq 200); do echo $i > /mnt/a/d/$i; done
s=$(sha256sum < /mnt/a/f1)
ok "umount" umount /mnt/a; echo 3 > /proc/sys/vm/drop_caches
ok "logout and login again" eval "logout $T_IQN $T_PORTAL1 && login $T_IQN $T_PORTAL1"
D=$(blk "$T_IQN" "$T_LUN"); ok "mount again" mount $D /mnt/a
ok "20 MB file unchanged" [ "$(sha256sum < /mnt/a/f1)" = "$s" ]
ok "200 small files there" [ "$(cat /mnt/a/d/* | sort -n | tail -1)" = 200 ]
rm /mnt/a/f1; sync
maybe "fstrim" fstrim -v /mnt/a
ok "umount" umount /mnt/a
ok "fsck finds nothing" e2fsck -f -n $D
ok "blkid names it" eval "blkid -p $D | grep -q ext4"
maybe "blkdiscard" blkdiscard -f $D
