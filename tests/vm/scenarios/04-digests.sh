# SPDX-License-Identifier: BSD-3-Clause
# Header and data digests in all four combinations; the data is right.
for hd in None CRC32C; do for dd in None CRC32C; do
  node "$T_IQN" "$T_PORTAL1"; setn "$T_IQN" "$T_PORTAL1" node.conn[0].iscsi.HeaderDigest=$hd node.conn[0].iscsi.DataDigest=$dd
  ok "login with HeaderDigest=$hd DataDigest=$dd" login "$T_IQN" "$T_PORTAL1"
  D=$(blk "$T_IQN" "$T_LUN")
  for c in /sys/class/iscsi_connection/*; do ok "HeaderDigest=$hd DataDigest=$dd agreed" [ "$(cat $c/header_digest)$(cat $c/data_digest)" = "$([ $hd = None ] && echo 0 || echo 1)$([ $dd = None ] && echo 0 || echo 1)" ]; done
  head -c 3000320 /dev/urandom > /tmp/r; dd if=/tmp/r of=$D bs=4096 oflag=direct conv=notrunc 2>/dev/null || dd if=/tmp/r of=$D bs=512 conv=notrunc,fsync 2>/dev/null
  echo 3 > /proc/sys/vm/drop_caches
  ok "3 MB come back as written with $hd $dd" eval "head -c 3000320 $D | cmp - /tmp/r"
  logout "$T_IQN" "$T_PORTAL1" >/dev/null; adm -m node -T "$T_IQN" -p "$T_PORTAL1" -o delete >/dev/null
done; done
