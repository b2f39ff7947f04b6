package agent

import (
	"slices"

	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/resolver"
)

type noEndpoints = resolver.NoEndpointsError

// logProblems tells of the mistakes in the declarations of clients that previous
// did not have.
func (a *agent) logProblems(previous, table *identity.Table) {
	if len(a.modes) == 0 {
		return
	}
	for _, c := range table.Clients() {
		var before *identity.Client
		if previous != nil {
			before = previous.Client(c.Container.ID)
		}
		for _, p := range c.Bindings.Problems {
			if before != nil && slices.ContainsFunc(before.Bindings.Problems, func(said *binding.Problem) bool { return said.Error() == p.Error() }) {
				continue
			}
			a.log.Warn("declaration", "client", c.Container.Name, "id", c.Container.ShortID(),
				"origin", p.Origin, "error", p.Err, "hint", hint.Of(p.Err))
		}
		if before == nil && len(c.Bindings.Ports()) > 0 && c.Container.NetworkMode == "host" {
			a.log.Warn("declaration", "client", c.Container.Name, "id", c.Container.ShortID(),
				"error", "its network is the host's, where nothing is redirected", "hint", "give it a network of its own")
		}
	}
}
