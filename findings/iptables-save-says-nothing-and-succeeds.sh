#!/usr/bin/env bash
# iptables-nft 1.8.9: one rule that nft has written makes iptables-save leave its whole
# table out, and exit 0.
#
# In a table that iptables made (`table ip nat`), nft adds a valid rule that iptables has
# no words for, `tcp dport 9999 redirect to :1`. From then on
#   - `iptables-save` prints one comment in place of the table and exits 0: a backup made
#     like that lacks every rule of the table, and nothing says so to a script;
#   - `iptables -S` refuses with exit code 1;
#   - `iptables -D`, `-F` and `-X` go on to work, so rules can be removed that cannot be
#     listed.
# Whoever decides by iptables-save whether its rules are there takes them for gone.
#
# Debian 12 on amd64 or arm64, as root. The packages are unpacked in a temporary folder and
# run in a network namespace of their own.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
packages=(iptables=1.8.9-2 libip4tc2=1.8.9-2 libip6tc2=1.8.9-2 libxtables12=1.8.9-2 libnftnl11=1.2.4-2 libmnl0=1.0.4-3
	nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2 libjansson4=2.14-2)
apt-get download "${packages[@]}" >/dev/null
for package in *.deb; do dpkg-deb -x "$package" root; done
libraries=$(dirname "$(find "$dir/root" -name libxtables.so.12)")
export LD_LIBRARY_PATH=$libraries XTABLES_LIBDIR=$libraries/xtables

inside() {
	export PATH=$dir/root/usr/sbin:$PATH
	xtables-nft-multi iptables --version
	nft --version
	xtables-nft-multi iptables -t nat -N OURS
	xtables-nft-multi iptables -t nat -A OUTPUT -j OURS
	echo "before: $(xtables-nft-multi iptables-save -t nat | grep -c OURS) lines name the chain"
	nft add rule ip nat OUTPUT tcp dport 9999 redirect to :1

	saved=$(xtables-nft-multi iptables-save -t nat) && code=0 || code=$?
	echo "iptables-save: exit $code, \"$saved\""
	[[ $code == 0 && $saved == *incompatible* && $saved != *OURS* ]]

	xtables-nft-multi iptables -t nat -S 2>/dev/null && code=0 || code=$?
	echo "iptables -S: exit $code"
	[[ $code == 1 ]]

	xtables-nft-multi iptables -t nat -D OUTPUT -j OURS
	xtables-nft-multi iptables -t nat -F OURS
	xtables-nft-multi iptables -t nat -X OURS
	echo "iptables -D, -F, -X: exit 0; nft still shows: $(nft list table ip nat | grep -c OURS) lines with the chain"
	! nft list table ip nat | grep -q OURS
}
export -f inside
export dir
unshare --net bash -euo pipefail -c inside
echo "as described"
