package consul

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
)

// What has changed concerns one member of a crowd, as a rule, and to ask about each of thousands
// takes a second. A check that fails, or no longer does, names its service. And what is known
// of instances can be compared for many at once: a transaction of "get" operations returns
// them with the indexes at which they were registered (Consul's HTTP API, "Transactions").
// What these two miss, such as a new instance without a check, the members' own looking finds.

const (
	// mostOperations is how many a transaction may have.
	mostOperations = 128
	// atATime is how many transactions are under way.
	atATime = 4

	// lookFor bounds a search, after which all look for themselves. lookInterval is the least
	// time between two of these, and one part in lookShare how much of the time they may take.
	lookFor      = 250 * time.Millisecond
	lookInterval = 100 * time.Millisecond
	lookShare    = 10
)

// registration is an instance of a service as an answer had it.
type registration struct {
	node, id string
	index    uint64 // at which it was registered last
}

// registrationsOf are those of entries that can be asked for.
func registrationsOf(entries []*api.ServiceEntry) []registration {
	var all []registration
	for _, e := range entries {
		if e != nil && e.Node != nil && e.Service != nil && e.Service.ModifyIndex != 0 {
			all = append(all, registration{e.Node.Node, e.Service.ID, e.Service.ModifyIndex})
		}
	}
	return all
}

// failingChecks are the checks of one status.
type failingChecks []failingCheck

type failingCheck struct {
	Node, CheckID, ServiceName string
	ModifyIndex                uint64
}

// changed are the names of the services of which a check is only in one of both, or another
// now. A node's check names none: all services of that node are concerned.
func (f failingChecks) changed(now failingChecks) map[string]bool {
	names := map[string]bool{}
	had := make(map[failingCheck]bool, len(f))
	for _, c := range f {
		had[c] = true
	}
	for _, c := range now {
		if !had[c] {
			names[c.ServiceName] = true
		}
		delete(had, c)
	}
	for c := range had {
		names[c.ServiceName] = true
	}
	delete(names, "")
	return names
}

// tell tells the members of these services that they are concerned.
func (c *crowd) tell(services map[string]bool) {
	if len(services) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for m := range c.members {
		if services[m.service] {
			m.tell()
		}
	}
}

func (m *member) tell() {
	select {
	case m.told <- struct{}{}:
	default:
	}
}

// suspect is an instance that may be another by now, and whose it is.
type suspect struct {
	registration

	of *member
}

// findSuspects tells the members whose instances were registered anew, or are gone. What fails
// is left to the members, who say what is wrong with the agent.
func (c *crowd) findSuspects(ctx context.Context) {
	if !c.agent.trusted || c.scope.namespace != "" || c.scope.partition != "" { // nobody else has thousands, nor transactions there
		return
	}
	all := c.suspects()
	ctx, cancel := context.WithTimeout(ctx, lookFor)
	defer cancel()
	var asking sync.WaitGroup
	slots := make(chan struct{}, atATime)
	for some := range slices.Chunk(all, mostOperations) {
		slots <- struct{}{}
		if ctx.Err() != nil {
			break
		}
		asking.Go(func() {
			defer func() { <-slots }()
			if c.compare(ctx, some) != nil {
				cancel()
			}
		})
	}
	asking.Wait()
}

// suspects are all instances of the members, in turn: of each service the first, then of each the
// second. When a service is released anew, any of them tells.
func (c *crowd) suspects() (all []suspect) {
	type group struct {
		of  *member
		all []registration
	}
	c.mu.Lock()
	groups := make([]group, 0, len(c.members))
	for m := range c.members {
		groups = append(groups, group{m, m.instances()})
	}
	c.mu.Unlock()
	for rank := 0; len(groups) > 0; rank++ {
		groups = slices.DeleteFunc(groups, func(g group) bool { return rank >= len(g.all) })
		for _, g := range groups {
			all = append(all, suspect{g.all[rank], g.of})
		}
	}
	return all
}

// compare tells the members of those of some that are not what they were.
func (c *crowd) compare(ctx context.Context, some []suspect) error {
	for len(some) > 0 {
		now, gone, err := c.registered(ctx, some)
		if err != nil {
			return err
		}
		if len(gone) == 0 {
			for i, s := range some {
				if now[i] != s.index {
					s.of.tell()
				}
			}
			return nil
		}
		var rest []suspect // of which a transaction that fails says nothing
		for i, s := range some {
			if gone[i] {
				s.of.tell()
			} else {
				rest = append(rest, s)
			}
		}
		some = rest
	}
	return nil
}

// registered are the indexes at which some were registered last, or else which are gone.
func (c *crowd) registered(ctx context.Context, some []suspect) (now []uint64, gone map[int]bool, err error) {
	release, err := c.agent.lanes.takeShort(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer release()
	operations := make(api.TxnOps, len(some))
	for i, s := range some {
		operations[i] = &api.TxnOp{Service: &api.ServiceTxnOp{Verb: api.ServiceGet, Node: s.node, Service: api.AgentService{ID: s.id}}}
	}
	options := &api.QueryOptions{}
	c.scope.apply(options)
	done, response, _, err := c.agent.client.Txn().Txn(operations, options.WithContext(ctx))
	switch {
	case err != nil:
		return nil, nil, err
	case !done:
		gone = map[int]bool{}
		for _, e := range response.Errors {
			if e != nil && e.OpIndex >= 0 && e.OpIndex < len(some) {
				gone[e.OpIndex] = true
			}
		}
		if len(gone) == 0 {
			return nil, nil, errNoTransaction
		}
		return nil, gone, nil
	case len(response.Results) != len(some): // the token may not read some of them
		return nil, nil, errNoTransaction
	}
	for i, r := range response.Results {
		if r == nil || r.Service == nil || r.Service.ID != some[i].id {
			return nil, nil, errNoTransaction
		}
		now = append(now, r.Service.ModifyIndex)
	}
	return now, nil, nil
}
