#!/usr/bin/env bash
# github.com/google/nftables v0.3.0: what it does not know of a rule it leaves out, without an
# error, and a rule that was copied by it means something else.
#
# Conn.GetRules decodes a rule into expressions. It knows neither `xfrm` (nft: ipsec) nor `osf`,
# and returns the rule without them: the comparison that followed stands there without what it
# compared. Nothing in the Rule says that it is not whole.
#   - A rule that is only compared with another, or shown, looks like one that it is not.
#   - A rule that is written back, into another chain, say, compares what an earlier expression
#     has left in the register: `meta l4proto tcp ipsec in reqid 1 drop` becomes
#     `meta l4proto tcp meta l4proto icmp drop`, and Flush returns no error.
#   - Where nothing earlier has used the register the kernel refuses it, and Flush returns an
#     error; so whether one is told depends on the rest of the rule.
# Whoever reads rules that others may have written must not write back what was read, and must
# not take a rule for its own because of what could be read of it.
#
# Debian 12 with Go on amd64 or arm64, as root. All is done in a temporary folder and in a
# network namespace of its own.
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

mkdir copy
cat >copy/main.go <<'GO'
// Command copy copies the rules of the chain here to the chain there.
package main

import (
	"fmt"
	"os"

	"github.com/google/nftables"
)

func main() {
	conn, err := nftables.New()
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	table := &nftables.Table{Name: "t", Family: nftables.TableFamilyIPv4}
	rules, err := conn.GetRules(table, &nftables.Chain{Name: "here", Table: table})
	fmt.Println("read:", len(rules), err)
	for _, rule := range rules {
		for _, e := range rule.Exprs {
			fmt.Printf("%T ", e)
		}
		conn.AddRule(&nftables.Rule{Table: table, Chain: &nftables.Chain{Name: "there", Table: table}, Exprs: rule.Exprs})
		fmt.Println("written:", conn.Flush() == nil)
	}
}
GO
(
	cd copy
	go mod init copy
	go get github.com/google/nftables@v0.3.0
	go mod tidy
	go build -o ../copy.bin .
) >/dev/null 2>&1

inside() {
	nft --version
	nft -f - <<-RULES
		table ip t {
			chain here {
				meta l4proto tcp ipsec in reqid 1 drop
				meta l4proto tcp osf name "Linux" drop
			}
			chain there {
			}
		}
	RULES
	./copy.bin | tee said
	nft list chain ip t there | tee there
	diff - said <<-SAID
		read: 2 <nil>
		*expr.Meta *expr.Cmp *expr.Cmp *expr.Verdict written: true
		*expr.Meta *expr.Cmp *expr.Cmp *expr.Verdict written: false
	SAID
	[[ $(grep drop there | xargs) == "meta l4proto tcp meta l4proto icmp drop" ]]
}
export -f inside
unshare --net bash -euo pipefail -c inside
echo "as described"
