package consul

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/consul/api"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/consul/blocking"
	"github.com/ambassadord/ambassadord/resolver/internal/answer"
)

type serviceSource struct{ client *Client }

const serviceHint = "write consul-service://NAME, with ?tag=, &port=, &dc= and &near= as needed"

// serviceParams are the parameters of consul-service://.
var serviceParams = []string{"tag", "port", "dc", "near", "health", "ns", "partition", "consistency"}

// Check accepts a service's name and serviceParams, of which tag may repeat.
func (serviceSource) Check(q resolver.Query) error {
	if err := checkName(q, "service", serviceHint); err != nil {
		return err
	}
	return checkParams(q.Values(), serviceParams...)
}

// checkName wants the name of a kind of thing and nothing beside it.
func checkName(q resolver.Query, kind, fix string) error {
	switch {
	case q.Host == "":
		return hint.Errorf(fix, "no %s is named", kind)
	case strings.ContainsAny(q.Host, "/?#") || q.Host == "." || q.Host == "..":
		return hint.Errorf(fix, "%q is not a %s's name", q.Host, kind)
	case q.Port != 0:
		return hint.Errorf("leave out :"+strconv.Itoa(int(q.Port))+"; Consul knows each instance's port, and ?port=NAME is one of several",
			"%s %s with a port", kind, q.Host)
	case q.Path != "":
		return hint.Errorf(fix, "%s %s with a path, %q", kind, q.Host, q.Path)
	}
	return nil
}

// Watch publishes the instances, and again when they change.
func (s serviceSource) Watch(ctx context.Context, q resolver.Query, publish func(resolver.Answer)) error {
	return s.client.watch(ctx, serviceSpec(q), publish)
}

// serviceSpec is what a watch of q asks.
func serviceSpec(q resolver.Query) *watchSpec {
	values := q.Values()
	wanted := service{
		name:    q.Host,
		tags:    values["tag"],
		port:    values.Get("port"),
		near:    values.Get("near"),
		warning: values.Get("health") == api.HealthWarning,
		scope:   scopeOf(values),
	}
	return &watchSpec{
		service: wanted.name,
		what:    wanted.String(),
		rule:    serviceRule,
		scope:   wanted.scope,
		kind:    SchemeService,
		history: func(a *agent, options *api.QueryOptions) (*api.QueryMeta, error) {
			_, meta, err := a.client.Health().Checks(nowhere, options) // the index of all checks
			return meta, err
		},
		ask: func(a *agent, options *api.QueryOptions) (said, error) {
			// The failing instances are asked for as well: the answer says why each is left out.
			var entries []*serviceEntry
			meta, err := wanted.read(a, options, &entries)
			if err != nil {
				return said{}, err
			}
			home := wanted.home(options.Context(), a, entries)
			return said{wanted.answer(entries, home, aclNote(meta, len(entries) == 0)), meta.LastIndex, instancesOf(entries)}, nil
		},
		probe: func(a *agent, options *api.QueryOptions) (*api.QueryMeta, error) {
			options.Filter = "Service.Port == -1" // none: the index is all that is wanted
			return wanted.read(a, options, new(blocking.Ignored))
		},
	}
}

// service is which instances are wanted.
type service struct {
	name    string
	tags    []string
	port    string // the name of one of an instance's ports; "" for its default
	near    string
	warning bool // those with warnings too
	scope   scope
}

func (s service) String() string {
	text := "service " + s.name
	if len(s.tags) > 0 {
		text += " with tag " + strings.Join(s.tags, ", ")
	}
	if s.port != "" {
		text += " by port " + s.port
	}
	return text + s.scope.String()
}

// read reads the instances into what is given.
func (s service) read(a *agent, options *api.QueryOptions, into any) (*api.QueryMeta, error) {
	options.Near = s.near
	if len(s.tags) > 0 {
		options = options.WithContext(withParameters(options.Context(), url.Values{"tag": s.tags}))
	}
	return a.client.Raw().Query("/v1/health/service/"+s.name, into, options)
}

// home is the datacenter of the agent that gave entries, "" if it is not known. When
// none was asked for, it is theirs.
func (s service) home(ctx context.Context, a *agent, entries []*serviceEntry) string {
	if s.scope.dc != "" && len(entries) > 0 {
		return a.datacenter(ctx)
	}
	for _, entry := range entries {
		if theirs := datacenterOf(entry); theirs != "" {
			return theirs
		}
	}
	return ""
}

// answer makes endpoints of the instances that are healthy enough, as seen from the
// datacenter home. They keep the agent's order when near asked for one.
func (s service) answer(entries []*serviceEntry, home, aclNote string) resolver.Answer {
	endpoints := make([]resolver.Endpoint, 0, min(len(entries), answer.MaxEndpoints)) // most are healthy, and it is kept
	var leftOut answer.LeftOut
	for _, entry := range entries {
		status := statusOf(entry)
		switch endpoint, ok := endpointOf(entry, status, s.port); {
		case status != api.HealthPassing && (status != api.HealthWarning || !s.warning):
			leftOut.Add(failing(entry, endpoint, status))
		case !ok:
			leftOut.Add(malformed(entry, s.port))
		default:
			endpoint.Distance = distance(home, datacenterOf(entry))
			endpoints = append(endpoints, endpoint)
		}
	}
	if s.near == "" {
		slices.SortFunc(endpoints, func(a, b resolver.Endpoint) int {
			return cmp.Or(cmp.Compare(a.Name, b.Name), answer.Compare(a, b))
		})
	}
	var none string
	if len(entries) == 0 {
		none = fmt.Sprintf("Consul has no instance of %s", s)
	}
	a := leftOut.Answer(endpoints, none, aclNote)
	if len(endpoints) == 0 && aclNote != "" {
		a.Hint = request{rule: serviceRule}.tokenHint()
	}
	return a
}

// serviceRule is the ACL rule that reading instances takes.
const serviceRule = "service:read and node:read"

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
