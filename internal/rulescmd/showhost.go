package rulescmd

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/guard"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// showLeases adds the addresses of mode host to what is shown first of their family, which is
// all.
func showLeases(shown *Shown, leases []netip.Addr, all []Shown) {
	served := slices.ContainsFunc(all, func(s Shown) bool {
		return slices.ContainsFunc(s.Rules, func(r ShownRule) bool { return r.Chain == netrules.HostChain })
	})
	for _, addr := range leases {
		if netrules.FamilyOf(addr) != shown.Family {
			continue
		}
		shown.Rules = append(shown.Rules, ShownRule{Text: netrules.AddressText(addr), Explanation: netrules.Explanation{
			Kind: netrules.KindAddress, Why: "what containers dial in mode host; without a daemon that renews it, it goes within minutes",
		}})
		if !served {
			shown.Orphans = append(shown.Orphans, Orphan{Chain: addr.String(), Reason: "no rule leads its ports anywhere"})
		}
	}
}

// showGuards reports the tables of the guards in a namespace. Each is a running
// daemon's, for the kernel drops it with its process.
func showGuards(ns *netns.Namespace, report func(Shown)) error {
	tables, err := guard.Read(ns)
	if err != nil {
		err = fmt.Errorf("%s: %w", ns.Path(), err)
	}
	for _, table := range tables {
		shown := Shown{Namespace: ns.Path(), Family: netrules.Bridge, Variant: netrules.IPTablesNFT}
		for _, r := range table.Rules {
			shown.Rules = append(shown.Rules, ShownRule{
				Chain: table.Name, Text: r.String(), Counters: netrules.Counters{Packets: r.Packets, Bytes: r.Bytes},
				Explanation: netrules.Explanation{Kind: netrules.KindGuard, Why: "an address is proof of whose a connection is only if nobody else can send from it"},
			})
		}
		for _, b := range table.Bindings {
			rule := ShownRule{Chain: table.Name, Text: b.String(), Explanation: netrules.Explanation{
				Kind: netrules.KindBinding, Why: fmt.Sprintf("only what comes in by this port of the bridge may be from %s", b.Addr),
			}}
			rule.Client, rule.ID, _ = identity.ParseOwner(b.Owner + " ") // as identity.OwnerText writes it, with nothing declared
			shown.Rules = append(shown.Rules, rule)
		}
		report(shown)
	}
	return err
}
