# SPDX-License-Identifier: BSD-3-Clause
# Discovery, login, logout, delete, many times over: no session is left on either side. CYCLES, default 100.
cycle() { adm -m discovery -t sendtargets -p "$T_PORTAL1" >/dev/null && adm -m node -T "$T_IQN" -p "$T_ADV1" --login >/dev/null && blk "$T_IQN" "$T_LUN" >/dev/null &&
  adm -m node -T "$T_IQN" -p "$T_ADV1" --logout >/dev/null && adm -m node -T "$T_IQN" -o delete >/dev/null; }
many() { local i; for i in $(seq ${CYCLES:-100}); do cycle || { echo "cycle $i"; return 1; }; done; }
ok "${CYCLES:-100} cycles of discovery, login, logout, delete" many
ok "no session is left over" [ "$(ls /sys/class/iscsi_session 2>/dev/null | wc -l)" = 0 ]
