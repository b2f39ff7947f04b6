#!/usr/bin/env bash
# nftables 1.0.6: of two nat chains at one hook with one priority the younger one translates,
# and loading the older one's table anew makes that the younger.
#
# Two programs each have a table with `type nat hook output priority -100` and a redirect of
# the same port. The kernel puts a new chain before those of its priority, and the first chain
# that translates a connection decides. So
#   - who came first loses to who comes later, in tables that have nothing to do with each other;
#   - a program that is restarted, and makes its table anew, wins from then on;
#   - `nft list ruleset` shows the tables in the order of their making, whoever of them wins.
# With the same rules in one chain it is the other way round: the first rule decides. Whoever
# must not depend on who was started last takes a priority of its own.
#
# Debian 12 with iproute2 on amd64 or arm64, as root. The packages are unpacked in a temporary folder and
# run in a network namespace of their own.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
packages=(nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2 libnftnl11=1.2.4-2 libmnl0=1.0.4-3
	libjansson4=2.14-2 libxtables12=1.8.9-2)
apt-get download "${packages[@]}" >/dev/null 2>&1
for package in *.deb; do dpkg-deb -x "$package" root; done
LD_LIBRARY_PATH=$(dirname "$(find "$dir/root" -name libnftables.so.1)")
export LD_LIBRARY_PATH PATH=$dir/root/usr/sbin:$PATH

inside() {
	nft --version
	ip link set lo up
	table() { # table NAME PORT: a program makes its table
		nft -f - <<-RULES
			table ip $1
			delete table ip $1
			table ip $1 {
				chain output {
					type nat hook output priority -100;
					tcp dport 7000 counter redirect to :$2
				}
			}
		RULES
	}
	winner() { # the table whose rule takes a new connection to port 7000
		for name in first second; do nft list table ip $name | grep -o 'packets [0-9]*' | sed "s/^/$name /"; done >before
		(: </dev/tcp/127.0.0.1/7000) 2>/dev/null || true # nobody listens at either
		for name in first second; do nft list table ip $name | grep -o 'packets [0-9]*' | sed "s/^/$name /"; done >after
		{ diff before after || true; } | sed -n 's/^> \([a-z]*\) .*/\1/p'
	}

	table first 1111
	table second 2222
	one=$(winner)
	echo "first is made, then second: $one translates"
	[[ $one == second ]]

	table first 1111
	two=$(winner)
	listed=$(nft list tables | awk '{ print $3 }' | paste -sd ' ')
	echo "first is made anew: $two translates; nft lists: $listed"
	[[ $two == first && $listed == "second first" ]]

	nft add table ip both '{ chain output { type nat hook output priority -150; }; }'
	nft add rule ip both output tcp dport 7001 counter redirect to :1111
	nft add rule ip both output tcp dport 7001 counter redirect to :2222
	(: </dev/tcp/127.0.0.1/7001) 2>/dev/null || true
	rules=$(nft list chain ip both output | grep -o 'packets [0-9]*' | paste -sd ' ')
	echo "in one chain, the first rule and the second: $rules"
	[[ $rules == "packets 1 packets 0" ]]
}
export -f inside
unshare --net bash -euo pipefail -c inside
echo "as described"
