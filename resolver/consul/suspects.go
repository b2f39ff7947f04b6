package consul

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unique"

	"github.com/hashicorp/consul/api"
)

// What has changed concerns one member of a crowd, as a rule, and to ask about each of thousands
// takes a second. A check that fails, or no longer does, names its service. And what is known
// of instances can be compared for many at once: a transaction of "get" operations returns
// them with the indexes at which they were registered (Consul's HTTP API, "Transactions").
// What these two miss, such as a new instance without a check, the crowd's probes find.

const (
	// mostOperations is how many a transaction may have.
	mostOperations = 128
	// mostNames bounds the names of one instance, in bytes: a transaction may have 512 KiB.
	mostNames = 1 << 10

	// lookFor bounds a search (Config), after which all are probed. lookInterval is the least
	// time between two of these, and one part in lookShare how much of the time they may take.
	lookFor      = 250 * time.Millisecond
	lookInterval = 100 * time.Millisecond
	lookShare    = 10
	// giveWay is for how long a search pauses that has found somebody, who asks meanwhile: on a
	// small machine the agent has no processor for both.
	giveWay = 20 * time.Millisecond
	// noLookFor is for how long there is no search after one whose transactions have failed, as
	// they do where the agent knows none.
	noLookFor = 10 * time.Second
)

// registration is an instance of a service as an answer had it.
type registration struct {
	node  unique.Handle[string] // of thousands of services each has its instances on the same ones
	id    string
	index uint64 // at which it was registered last
}

// registrationsOf are those of entries that can be asked for.
func registrationsOf(entries []*serviceEntry) []registration {
	all := make([]registration, 0, len(entries))
	for _, e := range entries {
		if e != nil && e.Node != nil && e.Service != nil && e.Service.ModifyIndex != 0 && len(e.Node.Node)+len(e.Service.ID) <= mostNames {
			all = append(all, registration{unique.Make(e.Node.Node), e.Service.ID, e.Service.ModifyIndex})
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
			names[strings.ToLower(c.ServiceName)] = true
		}
		delete(had, c)
	}
	for c := range had {
		names[strings.ToLower(c.ServiceName)] = true
	}
	delete(names, "")
	return names
}

// tell tells the members of these services that they are concerned.
func (c *crowd) tell(services map[string]bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name := range services {
		for m := range c.members[name] {
			m.tell(nil)
		}
	}
}

// suspect is an instance that may be another by now, and whose it is.
type suspect struct {
	registration

	service string
}

// findSuspects tells the members whose instances were registered anew, or are gone, and reports
// whether that can be found out. What fails is left to the probes, which say what is wrong with
// the agent.
func (c *crowd) findSuspects() bool {
	if !c.agent.trusted || c.scope.namespace != "" || c.scope.partition != "" { // nobody else has thousands, nor transactions there
		return false
	}
	all := c.suspects()
	ctx, cancel := context.WithTimeout(c.ctx, c.lookFor)
	defer cancel()
	var (
		asking sync.WaitGroup
		failed atomic.Bool
		found  atomic.Bool
		slots  = make(chan struct{}, cap(c.agent.lanes.transactions))
	)
	for some := range slices.Chunk(all, mostOperations) {
		slots <- struct{}{}
		if found.Swap(false) {
			pause(ctx, giveWay)
		}
		if ctx.Err() != nil {
			break
		}
		asking.Go(func() {
			defer func() { <-slots }()
			if err := c.compare(ctx, some, &found); err != nil {
				failed.Store(failed.Load() || ctx.Err() == nil)
				cancel()
			}
		})
	}
	asking.Wait()
	return !failed.Load()
}

// suspects are all instances of the members, in turn: of each service the first, then of each the
// second. When a service is released anew, any of them tells. What several members have seen is
// there once.
func (c *crowd) suspects() (all []suspect) {
	type group struct {
		service string
		all     []registration
	}
	c.mu.Lock()
	groups, total := make([]group, 0, len(c.members)), 0
	for name, of := range c.members {
		g := group{service: name}
		var seen map[registration]bool
		for m := range of {
			switch {
			case len(of) == 1:
				g.all = m.instances
			case seen == nil:
				seen = make(map[registration]bool, len(m.instances))
				fallthrough
			default:
				for _, r := range m.instances {
					if !seen[r] {
						seen[r] = true
						g.all = append(g.all, r)
					}
				}
			}
		}
		groups = append(groups, g)
		total += len(g.all)
	}
	c.mu.Unlock()
	all = make([]suspect, 0, total)
	for rank := 0; len(groups) > 0; rank++ {
		groups = slices.DeleteFunc(groups, func(g group) bool { return rank >= len(g.all) })
		for _, g := range groups {
			all = append(all, suspect{g.all[rank], g.service})
		}
	}
	return all
}

// compare tells the members of those of some that are not what they were, and sets found if there
// are any.
func (c *crowd) compare(ctx context.Context, some []suspect, found *atomic.Bool) error {
	for len(some) > 0 {
		now, gone, err := c.registered(ctx, some)
		if err != nil {
			return err
		}
		changed := map[string]bool{}
		var rest []suspect // of which a transaction that fails says nothing
		for i, s := range some {
			switch {
			case gone == nil && now[i] != s.index && now[i] != 0, gone[i]:
				changed[s.service] = true
			case gone != nil:
				rest = append(rest, s)
			}
		}
		if len(changed) > 0 {
			c.tell(changed)
			found.Store(true)
		}
		some = rest
	}
	return nil
}

// txnOperation is api.TxnOp with nothing but what names an instance: 128 whole ones take longer
// to read than what they ask for.
type txnOperation struct{ Service txnService }

type txnService struct {
	Verb, Node string
	Service    struct{ ID string }
}

// txnAnswer is api.TxnResponse, likewise.
type txnAnswer struct {
	Results []struct {
		Service *struct {
			ID          string
			ModifyIndex uint64
		}
	}
	Errors []struct{ OpIndex *int }
}

// registered are the indexes at which some were registered last, 0 for those that the token may not
// read, or else which are gone.
func (c *crowd) registered(ctx context.Context, some []suspect) (now []uint64, gone map[int]bool, err error) {
	release, err := c.agent.lanes.takeShare(ctx, c.agent.lanes.transactions)
	if err != nil {
		return nil, nil, err
	}
	defer release()
	operations := make([]txnOperation, len(some))
	for i, s := range some {
		of := &operations[i].Service
		of.Verb, of.Node, of.Service.ID = string(api.ServiceGet), s.node.Value(), s.id
	}
	if c.scope.consistency != "" {
		ctx = withParameters(ctx, url.Values{c.scope.consistency: {""}})
	}
	var answer txnAnswer
	_, err = c.agent.client.Raw().Write("/v1/txn", operations, &answer, (&api.WriteOptions{Datacenter: c.scope.dc}).WithContext(ctx))
	if status, ok := errors.AsType[api.StatusError](err); ok && status.Code == http.StatusConflict {
		answer = txnAnswer{}
		err = json.Unmarshal([]byte(status.Body), &answer)
		gone = map[int]bool{}
		for _, e := range answer.Errors {
			if e.OpIndex != nil && *e.OpIndex >= 0 && *e.OpIndex < len(some) {
				gone[*e.OpIndex] = true
			}
		}
		if err == nil && len(gone) == 0 {
			err = errNoTransaction
		}
		return nil, gone, err
	}
	if err != nil {
		return nil, nil, err
	}
	now = make([]uint64, len(some))
	results := answer.Results
	for i, s := range some { // in the order of the operations; those that the token may not read are left out
		if len(results) > 0 && results[0].Service != nil && results[0].Service.ID == s.id {
			now[i], results = results[0].Service.ModifyIndex, results[1:]
		}
	}
	if len(results) > 0 {
		return nil, nil, errNoTransaction
	}
	return now, nil, nil
}
