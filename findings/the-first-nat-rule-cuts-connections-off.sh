#!/usr/bin/env bash
# iptables 1.8.9 on Linux: the first redirect of a network namespace takes connections that are
# older than itself; a second one does not.
#
# A nat table is asked for the first packet of a connection only, so that a rule should be
# nothing to the connections that live already. But connection tracking begins in a namespace
# with the first rule that needs it: one that translates, or that matches a state. A chain of
# the nat table is not enough, nor is a rule in it that accepts. To the tracker a connection from before that is new at its
# next packet (net.netfilter.nf_conntrack_tcp_loose is 1 by default), so that packet is asked
# for, and redirected: to a port where nobody knows of it, which answers with a reset.
#   - A redirect of a port's new connections cuts off who has been connected to that port for
#     hours, and in the same namespace with a redirect of any other port there before, it does not.
#   - With `--syn` in the rule nobody is cut off, either way.
# Seen in containers: the engine puts rules of its own into those on user networks, for its DNS,
# and none into those on the default bridge, so that it depends on the network.
#
# Debian 12 with perl on amd64 or arm64, as root. The packages are unpacked in a temporary folder
# and run in network namespaces of their own.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
packages=(iptables=1.8.9-2 libxtables12=1.8.9-2 libip4tc2=1.8.9-2 libip6tc2=1.8.9-2 libnftnl11=1.2.4-2 libmnl0=1.0.4-3)
apt-get download "${packages[@]}" >/dev/null 2>&1
for package in *.deb; do dpkg-deb -x "$package" root; done
lib=$(dirname "$(find "$dir/root" -name libxtables.so.12)")
export LD_LIBRARY_PATH=$lib XTABLES_LIBDIR=$lib/xtables PATH=$dir/root/usr/sbin:$PATH

cat >talk.pl <<'PERL'
# Connects, says something, has the command in the arguments run, and says something again.
use IO::Socket::INET;
my $server = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1', LocalPort => 7000) or die $!;
my $client = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => 7000) or die $!;
my $served = $server->accept or die $!;
$client->syswrite('before') && $served->sysread(my $first, 99) or die $!;
system(@ARGV) == 0 or die 'the command failed';
$client->syswrite('after');
my $ready = '';
vec($ready, $client->fileno, 1) = vec($ready, $served->fileno, 1) = 1;
select($ready, undef, undef, 5) or die 'nobody hears anything';
print vec($ready, $client->fileno, 1) && !defined $client->sysread(my $end, 99) ? "$!\n" : "goes on\n";
PERL

inside() {
	ip link set lo up
	rule="iptables-nft -t nat -A OUTPUT -p tcp -d 127.0.0.1 --dport 7000 -j REDIRECT --to-ports 1"
	case $1 in
	first) perl talk.pl $rule ;;
	"after one that accepts")
		iptables-nft -t nat -A OUTPUT -p tcp --dport 9 -j ACCEPT
		perl talk.pl $rule
		;;
	second)
		iptables-nft -t nat -A OUTPUT -p tcp --dport 9 -j REDIRECT --to-ports 10
		perl talk.pl $rule
		;;
	syn) perl talk.pl ${rule/-p tcp/-p tcp --syn} ;;
	esac
}
export -f inside
iptables-nft --version
for which in first "after one that accepts" second syn; do
	said=$(unshare --net bash -euo pipefail -c "inside '$which'")
	echo "$which: $said"
	echo "$which: $said" >>said
done
diff - said <<-SAID
	first: Connection reset by peer
	after one that accepts: Connection reset by peer
	second: goes on
	syn: goes on
SAID
echo "as described"
