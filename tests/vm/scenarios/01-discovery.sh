# SPDX-License-Identifier: BSD-3-Clause
# SendTargets lists the target with both portals; records of both can be logged in to; the same twice leaves no rest.
disc() { adm -m discovery -t sendtargets -p "$T_PORTAL1"; }
ok "sendtargets discovery" disc
disc > /tmp/d 2>&1
ok "it lists the target" grep -q "$T_IQN" /tmp/d
ok "with the first portal" grep -q "$T_ADV1,1 $T_IQN" /tmp/d
ok "with the second portal" grep -q "$T_ADV2,1 $T_IQN" /tmp/d
ok "discovery by the second portal" adm -m discovery -t sendtargets -p "$T_PORTAL2"
ok "login to all that was discovered" adm -m node -T "$T_IQN" --login
ok "two sessions" [ "$(sessions_of "$T_IQN" | wc -l)" = 2 ]
ok "the disk by the first session" blk "$T_IQN" "$T_LUN" 1
ok "the disk by the second session" blk "$T_IQN" "$T_LUN" 2
A=$(blk "$T_IQN" "$T_LUN" 1) B=$(blk "$T_IQN" "$T_LUN" 2)
ok "both are one disk (same serial)" [ "$(cat /sys/block/${A#/dev/}/device/wwid)" = "$(cat /sys/block/${B#/dev/}/device/wwid)" ]
dd if=/dev/urandom of=$A bs=64k count=16 oflag=direct 2>/dev/null
ok "what one writes the other reads" eval "cmp <(dd if=$A bs=64k count=16 iflag=direct 2>/dev/null) <(dd if=$B bs=64k count=16 iflag=direct 2>/dev/null)"
ok "logout" adm -m node -T "$T_IQN" --logout
ok "delete the records" adm -m node -T "$T_IQN" -o delete
