# SPDX-License-Identifier: BSD-3-Clause
# xfs made, filled, unmounted, mounted again by a new session, checked; trim works.
quiet_login "$T_IQN" "$T_PORTAL1"; D=$(blk "$T_IQN" "$T_LUN")
modprobe -a xfs 2>/dev/null; mkdir -p /mnt/x
ok "mkfs.xfs" mkfs.xfs -q -f $D
ok "mount" mount $D /mnt/x
head -c 20000000 /dev/urandom > /mnt/x/f1; mkdir /mnt/x/d; for i in $(seq 200); do echo $i > /mnt/x/d/$i; done
s=$(sha256sum < /mnt/x/f1)
ok "umount" umount /mnt/x; echo 3 > /proc/sys/vm/drop_caches
ok "logout and login again" eval "logout $T_IQN $T_PORTAL1 && login $T_IQN $T_PORTAL1"
D=$(blk "$T_IQN" "$T_LUN"); ok "mount again" mount $D /mnt/x
ok "20 MB file unchanged" [ "$(sha256sum < /mnt/x/f1)" = "$s" ]
ok "200 small files there" [ "$(cat /mnt/x/d/* | sort -n | tail -1)" = 200 ]
rm /mnt/x/f1; sync
ok "fstrim" fstrim -v /mnt/x
ok "umount" umount /mnt/x
ok "xfs_repair finds nothing" xfs_repair -n $D
