package consul

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"time"
	"unique"

	"github.com/hashicorp/consul/api"

	"github.com/ambassadord/ambassadord/resolver/consul/blocking"
	"github.com/ambassadord/ambassadord/resolver/consul/sharedwatch"
)

// scopedAgent is an agent as a shared watch asks it, in one scope.
type scopedAgent struct {
	agent       *agent
	scope       scope
	wait, slack time.Duration
}

// subscribe joins q's watch to the shared one of its scope at a.
func (a *agent) subscribe(q *watchSpec, config Config) *sharedwatch.Subscription {
	options := sharedwatch.Options{
		Source:  &scopedAgent{agent: a, scope: q.scope, wait: config.Wait, slack: config.Slack},
		Timeout: config.Timeout, Search: config.search, Linger: blocking.Longest(config.Wait),
	}
	timeout := config.Timeout
	return a.shared.Subscribe(q.scope, options, q.service, func(ctx context.Context) (uint64, error) { return a.probe(ctx, q, timeout) })
}

// probe asks for the index of what q asks.
func (a *agent) probe(ctx context.Context, q *watchSpec, timeout time.Duration) (index uint64, err error) {
	defer recovered(q, &err)
	release, err := a.slots.TakeProbe(ctx)
	if err != nil {
		return 0, err
	}
	defer release()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	options := &api.QueryOptions{}
	q.scope.apply(options)
	meta, err := q.probe(a, options.WithContext(ctx))
	if err != nil {
		return 0, err
	}
	return meta.LastIndex, nil
}

// Probes is half of the requests that do not wait.
func (s *scopedAgent) Probes() int { return s.agent.slots.Probes() }

// Query asks path by a blocking query.
func (s *scopedAgent) Query(ctx context.Context, path string, index uint64, into any) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, blocking.Longest(s.wait)+s.slack)
	defer cancel()
	options := &api.QueryOptions{WaitIndex: index, WaitTime: s.wait}
	s.scope.apply(options)
	meta, err := s.agent.client.Raw().Query(path, into, options.WithContext(ctx))
	if err != nil {
		return 0, err
	}
	return meta.LastIndex, nil
}

// Transactions is 0 at an agent that a target names, and in a namespace or partition: nobody has
// thousands of services at the one, and transactions know none of the others.
func (s *scopedAgent) Transactions() int {
	if !s.agent.trusted || s.scope.namespace != "" || s.scope.partition != "" {
		return 0
	}
	return s.agent.slots.Transactions()
}

// mostNames bounds the names of one instance, in bytes: a transaction may have 512 KiB.
const mostNames = 1 << 10

// instancesOf are those of entries that a transaction can ask for.
func instancesOf(entries []*serviceEntry) []sharedwatch.Instance {
	all := make([]sharedwatch.Instance, 0, len(entries))
	for _, e := range entries {
		if e != nil && e.Node != nil && e.Service != nil && e.Service.ModifyIndex != 0 && len(e.Node.Node)+len(e.Service.ID) <= mostNames {
			all = append(all, sharedwatch.Instance{Node: unique.Make(e.Node.Node), ID: e.Service.ID, Index: e.Service.ModifyIndex})
		}
	}
	return all
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

// Registered asks for some by one transaction.
func (s *scopedAgent) Registered(ctx context.Context, some []sharedwatch.Candidate) (now []uint64, gone map[int]bool, err error) {
	release, err := s.agent.slots.TakeTransaction(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer release()
	operations := make([]txnOperation, len(some))
	for i, c := range some {
		of := &operations[i].Service
		of.Verb, of.Node, of.Service.ID = string(api.ServiceGet), c.Node.Value(), c.ID
	}
	if s.scope.consistency != "" {
		ctx = withParameters(ctx, url.Values{s.scope.consistency: {""}})
	}
	var answer txnAnswer
	_, err = s.agent.client.Raw().Write("/v1/txn", operations, &answer, (&api.WriteOptions{Datacenter: s.scope.dc}).WithContext(ctx))
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
	for i, c := range some { // in the order of the operations; those that the token may not read are left out
		if len(results) > 0 && results[0].Service != nil && results[0].Service.ID == c.ID {
			now[i], results = results[0].Service.ModifyIndex, results[1:]
		}
	}
	if len(results) > 0 {
		return nil, nil, errNoTransaction
	}
	return now, nil, nil
}

var errNoTransaction = errors.New("a transaction that tells nothing")
