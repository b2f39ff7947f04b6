package agent

import (
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/resolver"
)

// declaredBy lists what each client declares, quarantined ports left out: what their
// targets cost is counted against them.
func declaredBy(table *identity.Table) []resolver.Owned {
	var all []resolver.Owned
	for _, c := range table.Clients() {
		one := resolver.Owned{Owner: c.Container.Name}
		for _, b := range c.Bindings.All() {
			if b.Problem == nil {
				one.Targets = append(one.Targets, b.Target)
			}
		}
		if len(one.Targets) > 0 {
			all = append(all, one)
		}
	}
	return all
}
