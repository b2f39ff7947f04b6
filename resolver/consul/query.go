package consul

import (
	"context"
	"fmt"

	"github.com/hashicorp/consul/api"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/internal/answer"
)

type querySource struct{ client *Client }

// Check accepts a prepared query's name or ID, and near and port beside the scope's
// parameters.
func (querySource) Check(q resolver.Query) error {
	if err := checkName(q, "prepared query", "write consul-query://NAME, with ?dc=, &port= and &near= as needed"); err != nil {
		return err
	}
	return checkParams(q.Values(), append([]string{"near", "port"}, scopeParams...)...)
}

// Watch publishes the instances that the query finds, and again when it finds
// others. Which are healthy enough, and in which datacenter they are, the query
// itself decides.
func (s querySource) Watch(ctx context.Context, q resolver.Query, publish func(resolver.Answer)) error {
	var (
		scope = scopeOf(q.Values())
		port  = q.Values().Get("port")
		what  = "prepared query " + q.Host + scope.String()
	)
	return s.client.watch(ctx, &watchSpec{
		what:   what,
		rule:   "query:read and service:read",
		scope:  scope,
		every:  s.client.config.Poll,
		polled: true,
		ask: func(a *agent, options *api.QueryOptions) (said, error) {
			options.Near = q.Values().Get("near")
			var found *queryResult
			meta, err := a.client.Raw().Query("/v1/query/"+q.Host+"/execute", &found, options)
			if err != nil {
				return said{}, err
			}
			if found == nil {
				return said{}, hint.Errorf("is it a Consul agent's HTTP port?", "no result")
			}
			home := found.Datacenter // unless one was asked for, or they are of another
			if scope.dc != "" || found.Failovers > 0 {
				home = a.datacenter(options.Context())
			}
			return said{answer: queryAnswer(what, home, port, found), index: meta.LastIndex}, nil
		},
	}, publish)
}

// queryResult is the answer of /v1/query/:query/execute, as far as it is used.
type queryResult struct {
	Service, Datacenter string
	Failovers           int
	Nodes               []serviceEntry
}

// queryAnswer makes endpoints of what was found, by the port of that name, as seen from the
// datacenter home.
func queryAnswer(what, home, port string, found *queryResult) resolver.Answer {
	var (
		endpoints []resolver.Endpoint
		leftOut   answer.LeftOut
		notes     [2]string
	)
	for i := range found.Nodes {
		entry := &found.Nodes[i]
		endpoint, ok := endpointOf(entry, statusOf(entry), port)
		if !ok {
			leftOut.Add(malformed(entry, port))
			continue
		}
		endpoint.Distance = distance(home, datacenterOf(entry))
		endpoints = append(endpoints, endpoint)
	}
	if len(found.Nodes) == 0 {
		notes[0] = fmt.Sprintf("%s finds no healthy instance of service %s", what, found.Service)
	}
	if found.Failovers > 0 {
		notes[1] = "they are in datacenter " + found.Datacenter + ", by the query's failover"
	}
	return leftOut.Answer(endpoints, notes[:]...)
}
