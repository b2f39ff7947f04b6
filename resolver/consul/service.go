package consul

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/consul/api"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/suggest"
	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/internal/answer"
)

type serviceSource struct{ client *Client }

const serviceHint = "write consul-service://NAME, with ?tag=, &dc= and &near= as needed"

// Check accepts the parameters tag, which may repeat, dc and near.
func (serviceSource) Check(q resolver.Query) error {
	switch {
	case q.Host == "":
		return hint.Errorf(serviceHint, "no service is named")
	case strings.ContainsAny(q.Host, "/?#") || q.Host == "." || q.Host == "..":
		return hint.Errorf(serviceHint, "%q is not a service's name", q.Host)
	case q.Port != 0:
		return hint.Errorf("leave out :"+strconv.Itoa(int(q.Port))+"; Consul knows each instance's port",
			"service %s with a port", q.Host)
	case q.Path != "":
		return hint.Errorf(serviceHint, "service %s with a path, %q", q.Host, q.Path)
	}
	return checkParams(q.Values(), "tag", "dc", "near")
}

// checkParams refuses parameters that are unknown, empty, or repeated, which only
// tag may be.
func checkParams(values url.Values, known ...string) error {
	for _, key := range slices.Sorted(maps.Keys(values)) {
		if !slices.Contains(known, key) {
			fix := "it takes no parameters"
			if len(known) > 0 {
				fix = "the parameters are " + strings.Join(known, ", ")
			}
			if near := suggest.Closest(key, known); near != "" {
				fix = fmt.Sprintf("did you mean %s=?", near)
			}
			return hint.Errorf(fix, "unknown parameter %q", key)
		}
		if slices.Contains(values[key], "") {
			return hint.Errorf("write "+key+"=VALUE, or leave it out", "parameter %s is empty", key)
		}
		if len(values[key]) > 1 && key != "tag" {
			return hint.Errorf("leave one", "parameter %s is given %d times", key, len(values[key]))
		}
	}
	return nil
}

// Watch publishes the passing instances, and again when they change.
func (s serviceSource) Watch(ctx context.Context, q resolver.Query, publish func(resolver.Answer)) error {
	agent, err := s.client.configured()
	if err != nil {
		return err
	}
	values := q.Values()
	wanted := service{name: q.Host, tags: values["tag"], dc: values.Get("dc"), near: values.Get("near")}
	err = s.client.watch(ctx, publish, func(options *api.QueryOptions) (resolver.Answer, *api.QueryMeta, error) {
		options.Datacenter, options.Near = wanted.dc, wanted.near
		// The failing instances are asked for as well: the note counts them.
		entries, meta, err := agent.client.Health().ServiceMultipleTags(wanted.name, wanted.tags, false, options)
		if err != nil {
			return resolver.Answer{}, nil, err
		}
		return wanted.answer(entries, aclNote(meta, len(entries) == 0)), meta, nil
	})
	if err != nil {
		return request{agent: agent, trusted: true, what: wanted.String(), rule: "service:read and node:read"}.explain(err)
	}
	return nil
}

// service is which instances are wanted.
type service struct {
	name     string
	tags     []string
	dc, near string
}

func (s service) String() string {
	text := "service " + s.name
	if len(s.tags) > 0 {
		text += " with tag " + strings.Join(s.tags, ", ")
	}
	if s.dc != "" {
		text += " in datacenter " + s.dc
	}
	return text
}

// answer makes endpoints of the instances whose checks all pass. They keep the
// agent's order when near asked for one.
func (s service) answer(entries []*api.ServiceEntry, aclNote string) resolver.Answer {
	var (
		endpoints          []resolver.Endpoint
		failing, malformed int
	)
	for _, entry := range entries {
		switch endpoint, ok := endpointOf(entry); {
		case entry != nil && !passing(entry.Checks):
			failing++
		case !ok:
			malformed++
		default:
			endpoints = append(endpoints, endpoint)
		}
	}
	if s.near == "" {
		slices.SortFunc(endpoints, func(a, b resolver.Endpoint) int {
			return cmp.Or(cmp.Compare(a.Name, b.Name), answer.Compare(a, b))
		})
	}
	notes := [...]string{2: aclNote}
	if len(entries) == 0 {
		notes[0] = fmt.Sprintf("Consul has no instance of %s", s)
	}
	if failing > 0 {
		notes[0] = countNote(failing, len(entries), "not passing")
	}
	if malformed > 0 {
		notes[1] = countNote(malformed, len(entries), "registered without a usable address and port")
	}
	return answer.New(endpoints, notes[:]...)
}

func countNote(n, of int, what string) string {
	verb := "are"
	if n == 1 {
		verb = "is"
	}
	noun := "instances"
	if of == 1 {
		noun = "instance"
	}
	return fmt.Sprintf("%d of %d %s %s %s", n, of, noun, verb, what)
}

// passing tells whether no check of the instance or its node says otherwise;
// maintenance counts as one that does.
func passing(checks api.HealthChecks) bool {
	checks = slices.DeleteFunc(slices.Clone(checks), func(c *api.HealthCheck) bool { return c == nil })
	return checks.AggregatedStatus() == api.HealthPassing
}

// endpointOf reads where an instance listens: its own address, else its node's.
func endpointOf(entry *api.ServiceEntry) (resolver.Endpoint, bool) {
	if entry == nil || entry.Service == nil {
		return resolver.Endpoint{}, false
	}
	host := entry.Service.Address
	if host == "" && entry.Node != nil {
		host = entry.Node.Address
	}
	q, err := resolver.ParseHostPort(net.JoinHostPort(host, strconv.Itoa(entry.Service.Port)))
	if err != nil {
		return resolver.Endpoint{}, false
	}
	endpoint := endpointFor(q)
	endpoint.Name = entry.Service.ID
	if weight := entry.Service.Weights.Passing; weight > 0 { // agents older than weights send none
		endpoint.Weight = uint16(min(weight, math.MaxUint16))
	}
	return endpoint, true
}

// aclNote says whether ACLs may be why an answer is short. Consul hides what a
// token may not read rather than refusing the request.
func aclNote(meta *api.QueryMeta, empty bool) string {
	switch {
	case meta.ResultsFilteredByACLs:
		return "some of it the token may not read"
	case empty && meta.DefaultACLPolicy == "deny":
		return "or the token may not read it, for ACLs deny by default"
	}
	return ""
}

// endpointFor is the endpoint of one host:port.
func endpointFor(q resolver.Query) resolver.Endpoint {
	if q.Scheme == resolver.SchemeStatic {
		return resolver.Endpoint{Addr: q.AddrPort(), Weight: 1}
	}
	return resolver.Endpoint{Host: q.Host, Port: q.Port, Weight: 1}
}
