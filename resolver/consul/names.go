package consul

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/resolver"
)

// Names is a source of DNS names. It asks Consul's API for names of Consul's DNS
// form, and other for the rest:
//
//	[TAG.]NAME.service[.DC].DOMAIN      instances of a service, as consul-service://
//	_NAME._TAG.service[.DC].DOMAIN      the same (RFC 2782)
//	NAME.query[.DC].DOMAIN              a prepared query, as consul-query://
//
// In place of .DC, .NS.ns, .PARTITION.ap and .DC.dc may stand, in any number. As over
// DNS, instances with warnings are among the answer; a port that the target names
// is used in place of theirs.
func (c *Client) Names(other resolver.Source) resolver.Source { return nameSource{c, other} }

type nameSource struct {
	client *Client
	other  resolver.Source
}

// Check is the other source's for names that are not Consul's.
func (s nameSource) Check(q resolver.Query) error {
	translated, ok := s.translate(q)
	switch {
	case !ok:
		return s.other.Check(q)
	case q.Path != "" || q.Params != "":
		return hint.Errorf("write "+translated.String(), "a name takes neither a path nor parameters")
	}
	return s.sourceOf(translated).Check(translated)
}

// translate leaves alone what a DNS server of the target's own is to be asked for.
func (s nameSource) translate(q resolver.Query) (resolver.Query, bool) {
	if q.Server != "" {
		return resolver.Query{}, false
	}
	return s.client.translate(q.Host)
}

func (s nameSource) sourceOf(q resolver.Query) resolver.Source {
	if q.Scheme == SchemeQuery {
		return s.client.Queries()
	}
	return s.client.Services()
}

// Watch is that of the source that knows the name.
func (s nameSource) Watch(ctx context.Context, q resolver.Query, publish func(resolver.Answer)) error {
	translated, ok := s.translate(q)
	if !ok {
		return s.other.Watch(ctx, q, publish)
	}
	return s.sourceOf(translated).Watch(ctx, translated, func(a resolver.Answer) {
		if q.Port != 0 {
			a.Endpoints = atPort(a.Endpoints, q.Port)
			a.LeftOut = leftOutAtPort(a.LeftOut, q.Port)
		}
		publish(a)
	})
}

// Advice is what to do about a name of Consul's DNS form that DNS does not give, if nobody has
// configured an agent and one answers where agents usually are: to name it. It is "" otherwise. An agent
// is asked once in half a minute at most, and for half a second.
func (c *Client) Advice(ctx context.Context, q resolver.Query) string {
	if _, ok := (nameSource{client: c}).translate(q); !ok || c.Explicit() || !c.answers(ctx) {
		return ""
	}
	return fmt.Sprintf("an agent of Consul's answers at %[1]s: start the daemon with --consul-addr %[1]s, and such names are asked of it", c.Address())
}

// answers reports whether a configured agent answers, or did when one was last asked. Watches that want
// to know while one is asked wait for that.
func (c *Client) answers(ctx context.Context) bool {
	const holds, patience = 30 * time.Second, 500 * time.Millisecond
	c.asking.Lock()
	defer c.asking.Unlock()
	if !c.asked.IsZero() && time.Since(c.asked) < holds {
		return c.answered
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err := c.Leader(ctx)
	if errors.Is(ctx.Err(), context.Canceled) { // the watch has ended, which says nothing of the agent
		return false
	}
	c.asked, c.answered = time.Now(), err == nil
	return c.answered
}

func atPort(endpoints []resolver.Endpoint, port uint16) []resolver.Endpoint {
	moved := make([]resolver.Endpoint, 0, len(endpoints))
	for _, e := range endpoints {
		if e.Addr.IsValid() {
			e.Addr = netip.AddrPortFrom(e.Addr.Addr(), port)
		} else {
			e.Port = port
		}
		moved = append(moved, e)
	}
	return moved
}

func leftOutAtPort(leftOut []resolver.LeftOut, port uint16) []resolver.LeftOut {
	moved := slices.Clone(leftOut)
	for i := range moved {
		if host, _, err := net.SplitHostPort(moved[i].Addr); err == nil {
			moved[i].Addr = net.JoinHostPort(host, strconv.Itoa(int(port)))
		}
	}
	return moved
}

// translate makes a name of Consul's DNS form a query of this package.
func (c *Client) translate(name string) (resolver.Query, bool) {
	name, ok := strings.CutSuffix(strings.ToLower(strings.TrimSuffix(name, ".")), "."+c.config.Domain)
	if !ok {
		return resolver.Query{}, false
	}
	labels := strings.Split(name, ".")
	// The kind stands as far to the right as it can: a service may be called service.
	for i := len(labels) - 1; i > 0; i-- {
		kind := labels[i]
		if kind != "service" && kind != "query" {
			continue
		}
		if values, ok := scopeLabels(labels[i+1:]); ok {
			return queryFor(kind, labels[:i], values), true
		}
	}
	return resolver.Query{}, false
}

// scopeLabels reads what follows the kind.
func scopeLabels(labels []string) (url.Values, bool) {
	values := url.Values{}
	if len(labels) == 1 {
		values.Set("dc", labels[0])
		return values, true
	}
	params := map[string]string{"ns": "ns", "ap": "partition", "dc": "dc"}
	for ; len(labels) >= 2; labels = labels[2:] {
		param, ok := params[labels[1]]
		if !ok || values.Has(param) {
			return nil, false
		}
		values.Set(param, labels[0])
	}
	return values, len(labels) == 0
}

// queryFor makes the query for the labels that stand before the kind.
func queryFor(kind string, labels []string, values url.Values) resolver.Query {
	if kind == "query" { // its name may have dots
		return resolver.Query{Scheme: SchemeQuery, Host: strings.Join(labels, "."), Params: values.Encode()}
	}
	last := len(labels) - 1
	name, tag := labels[last], strings.Join(labels[:last], ".")
	if last == 1 && strings.HasPrefix(labels[0], "_") && strings.HasPrefix(labels[1], "_") {
		name, tag = labels[0][1:], labels[1][1:]
		if tag == "tcp" || tag == "udp" { // a protocol, which Consul does not tell apart
			tag = ""
		}
	}
	if tag != "" {
		values.Set("tag", tag)
	}
	values.Set("health", api.HealthWarning)
	return resolver.Query{Scheme: SchemeService, Host: name, Params: values.Encode()}
}
