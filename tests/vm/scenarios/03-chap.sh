# SPDX-License-Identifier: BSD-3-Clause
# CHAP one way and mutual with every algorithm; wrong secrets, users and directions are refused; discovery too.
auth() { # iqn portal user secret [muser msecret]
  adm -m node -T "$1" -p "$2" -o delete >/dev/null 2>&1; node "$1" "$2"
  setn "$1" "$2" node.session.auth.authmethod=CHAP node.session.auth.username="$3" node.session.auth.password="$4" || return 1
  [ -z "${5:-}" ] || setn "$1" "$2" node.session.auth.username_in="$5" node.session.auth.password_in="$6"; }
try() { login "$1" "$2" && logout "$1" "$2"; }
C=$T_IQN_CHAP CP=$T_PORTAL_CHAP M=$T_IQN_MUTUAL MP=$T_PORTAL_MUTUAL
node $C $CP; nok "no authentication where CHAP is needed" login $C $CP
auth $C $CP $T_USER $T_PASS; ok "one way, right secret" try $C $CP
for a in MD5 SHA1 SHA256 SHA3-256; do
  auth $C $CP $T_USER $T_PASS; setn $C $CP node.session.auth.chap_algs=$a && ok "one way, $a" try $C $CP
  auth $M $MP $T_USER $T_PASS $T_MUSER $T_MPASS; setn $M $MP node.session.auth.chap_algs=$a && ok "mutual, $a" try $M $MP
done
auth $C $CP $T_USER $T_PASS; setn $C $CP node.session.auth.chap_algs=SHA3-256,SHA256,SHA1,MD5; ok "one way, whole list" try $C $CP
auth $C $CP $T_USER wrongsecret12; nok "wrong secret" login $C $CP
auth $C $CP nobody $T_PASS; nok "wrong user" login $C $CP
auth $M $MP $T_USER $T_PASS $T_MUSER wrongsecret12; nok "mutual: the target's secret is wrong" login $M $MP
auth $M $MP $T_USER wrongsecret12 $T_MUSER $T_MPASS; nok "mutual: our secret is wrong" login $M $MP
auth $M $MP $T_USER $T_PASS $T_MUSER $T_MPASS; ok "mutual, right secrets" try $M $MP
# discovery sessions ask for the same
nok "discovery without authentication" adm -m discovery -t sendtargets -p $CP
sed -i '/^discovery.sendtargets.auth/d' /etc/iscsi/iscsid.conf
printf 'discovery.sendtargets.auth.authmethod = CHAP\ndiscovery.sendtargets.auth.username = %s\ndiscovery.sendtargets.auth.password = %s\n' $T_USER $T_PASS >> /etc/iscsi/iscsid.conf
ok "discovery with CHAP" adm -m discovery -t sendtargets -p $CP
sed -i '/^discovery.sendtargets.auth/d' /etc/iscsi/iscsid.conf
