package consul

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/ambassadord/ambassadord/resolver"
)

const (
	// homeTimeout bounds how long an answer waits for its agent's datacenter, which it
	// can do without.
	homeTimeout = time.Second

	// homeRetry is how long an agent that does not tell is not asked again: a token
	// without agent:read is the likely reason.
	homeRetry = time.Minute
)

// home is the datacenter of an agent, asked for once and by one at a time.
type home struct {
	turn      chan struct{} // held by who reads or writes the next two
	name      string        // "" if it is not known
	retry     time.Time     // when to ask again while it is not
	forgotten atomic.Bool
}

// datacenter is the agent's own, "" when it does not tell. It is needed for answers
// that are of a datacenter which somebody named; any other is of the agent's.
func (a *agent) datacenter(ctx context.Context) string {
	h := &a.home
	select {
	case h.turn <- struct{}{}:
		defer func() { <-h.turn }()
	case <-ctx.Done():
		return ""
	}
	if h.forgotten.Swap(false) {
		h.name, h.retry = "", time.Time{}
	}
	if h.name != "" || time.Now().Before(h.retry) {
		return h.name
	}
	asking, cancel := context.WithTimeout(ctx, homeTimeout)
	defer cancel()
	var self struct{ Config struct{ Datacenter string } }
	_, err := a.client.Raw().Query("/v1/agent/self", &self, (&api.QueryOptions{}).WithContext(asking))
	switch {
	case ctx.Err() != nil:
		return ""
	case err != nil || self.Config.Datacenter == "":
		h.retry = time.Now().Add(homeRetry)
	default:
		h.name = self.Config.Datacenter
	}
	return h.name
}

// forget makes the datacenter be asked for again: behind the address of an agent that
// has failed another one may answer next.
func (h *home) forget() { h.forgotten.Store(true) }

// datacenterOf is that of an instance, "" if it is not known. Those of a peer are of a
// cluster of its own and may have the same names as ours.
func datacenterOf(entry *serviceEntry) string {
	if entry == nil || entry.Node == nil || entry.Node.PeerName != "" {
		return ""
	}
	return entry.Node.Datacenter
}

// distance is how far it is from one datacenter to the other, either of which may be
// unknown.
func distance(from, to string) resolver.Distance {
	switch {
	case from == "" || to == "":
		return resolver.DistanceUnknown
	case from == to:
		return resolver.SameDatacenter
	}
	return resolver.OtherDatacenter
}
