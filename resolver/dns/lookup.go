package dns

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/internal/answer"
)

// holds clamps how long an answer holds.
func (c *Client) holds(ttl time.Duration) time.Duration {
	return max(c.config.MinTTL, min(ttl, c.config.MaxTTL))
}

// absence is an answer without endpoints that holds for ttl.
func (c *Client) absence(ttl time.Duration, format string, args ...any) lookup {
	return lookup{
		answer: resolver.Answer{Note: fmt.Sprintf(format, args...)},
		holds:  max(c.config.MinTTL, min(ttl, c.config.MaxNegativeTTL)),
	}
}

// noSuchName is the absence of host altogether, not just of some records.
func (c *Client) noSuchName(ttl time.Duration, host string) lookup {
	l := c.absence(ttl, "the name %s does not exist", host)
	l.noSuchName = true
	return l
}

// called names end for people: as host, or as what host is an alias of.
func called(host, asked, end string) string {
	if end == "" || end == mdns.CanonicalName(asked) {
		return host
	}
	return fmt.Sprintf("%s, of which %s is an alias,", strings.TrimSuffix(end, "."), host)
}

// lookupHost finds every address of q: in the hosts file unless q names its
// server, else in DNS.
func (c *Client) lookupHost(ctx context.Context, q resolver.Query) (lookup, error) {
	if q.Server == "" {
		hosts, _, err := c.hosts.load()
		if err != nil {
			return lookup{}, fmt.Errorf("looking into the hosts file: %w", err)
		}
		switch addrs, known := hosts.find(q.Host); {
		case len(addrs) > 0:
			return lookup{answer: hostEndpoints(addrs, q.Host, q.Port, ""), holds: c.config.MaxTTL}, nil
		case known:
			return c.absence(longest, "%s gives %s no address that can be dialled", c.config.HostsFile, q.Host), nil
		}
	}
	return c.search(ctx, q, func(up nameServers, name string) (lookup, bool, error) {
		return c.lookupAddresses(ctx, up, name, q.Host, q.Port)
	})
}

func hostEndpoints(addrs []netip.Addr, host string, port uint16, note string) resolver.Answer {
	addrs = slices.SortedFunc(slices.Values(addrs), netip.Addr.Compare)
	addrs = slices.Compact(addrs)
	endpoints := make([]resolver.Endpoint, len(addrs))
	for i, addr := range addrs {
		endpoints[i] = resolver.Endpoint{Addr: netip.AddrPortFrom(addr, port), Name: host, Weight: 1}
	}
	return answer.New(endpoints, note)
}

// search tries look with each name that resolv.conf's search list makes of q's host,
// until one is found. A name that no server wants to answer for does not end the
// search, but when nothing is found it is what is reported.
func (c *Client) search(ctx context.Context, q resolver.Query, look func(nameServers, string) (found lookup, ok bool, err error)) (lookup, error) {
	up, err := c.upstream(ctx, q.Server)
	if err != nil {
		return lookup{}, err
	}
	var (
		absent  lookup
		refusal error
	)
	for _, name := range up.names(q.Host) {
		found, ok, err := look(up, name)
		var failure *askError
		switch {
		case errors.As(err, &failure) && failure.refused:
			refusal = err
		case err != nil:
			return lookup{}, err
		case ok:
			return found, nil
		case absent.holds == 0:
			absent = found
		default:
			absent.holds = min(absent.holds, found.holds)
			if !found.noSuchName { // a name that exists says more than one that does not
				absent.answer = found.answer
			}
		}
	}
	if refusal != nil {
		return lookup{}, refusal
	}
	return absent, nil
}

// reply is one family's half of a host lookup.
type reply struct {
	question dnsQuestion
	msg      *mdns.Msg
	host     hostAnswer
	err      error
}

// lookupAddresses asks for name's A and AAAA records at the same time. If one
// family has records, whatever becomes of the other is no more than a note.
func (c *Client) lookupAddresses(ctx context.Context, up nameServers, name, host string, port uint16) (lookup, bool, error) {
	var (
		addrs            []netip.Addr
		shortest, absent = longest, longest
		odd, end         string
		failed           error
		gone             bool
	)
	for _, r := range c.askBoth(ctx, up, name) {
		switch {
		case failed == nil && r.err != nil:
			failed = r.err
		case r.err != nil:
		case len(r.host.addrs) > 0:
			addrs = append(addrs, r.host.addrs...)
			shortest = min(shortest, r.host.ttl)
		default:
			absent = min(absent, r.host.ttl)
			odd, end = cmp.Or(odd, r.host.note), cmp.Or(end, r.host.end)
			gone = gone || r.msg.Rcode == mdns.RcodeNameError // for every type (RFC 2308, section 2.1)
		}
	}
	switch {
	case len(addrs) > 0:
		var note string
		if failed != nil {
			note = "incomplete: " + failed.Error()
		}
		return lookup{answer: hostEndpoints(addrs, host, port, note), holds: c.holds(shortest)}, true, nil
	case gone:
		return c.noSuchName(absent, called(host, name, end)), false, nil
	case failed != nil:
		return lookup{}, false, failed
	case odd != "":
		return c.absence(absent, "%s", odd), false, nil
	}
	return c.absence(absent, "the name %s has no A or AAAA records", called(host, name, end)), false, nil
}

// askBoth returns when both families have answered or failed, IPv4 first, so that an outage
// has the same error each time, and is logged once. Once one has records the other gets one more
// try's time: a server that is deaf to AAAA must not hold up a connection for as long as all
// retries take.
func (c *Client) askBoth(ctx context.Context, up nameServers, name string) [2]reply {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	replies := make(chan reply, 2)
	for _, qtype := range []uint16{mdns.TypeA, mdns.TypeAAAA} {
		go c.askFamily(ctx, up, dnsQuestion{name, qtype}, replies)
	}
	first := (<-replies).parsed()
	if len(first.host.addrs) > 0 {
		timer := time.AfterFunc(up.timeout, cancel)
		defer timer.Stop()
	}
	second := (<-replies).parsed()
	if errors.Is(second.err, context.Canceled) {
		second.err = &askError{question: second.question, failures: []string{"no server answered in time"}}
	}
	if first.question.qtype != mdns.TypeA {
		first, second = second, first
	}
	return [2]reply{first, second}
}

// askFamily sends the reply to q. A panic over a hostile answer becomes a failure:
// the caller of Watch, who does the same, cannot see it in this goroutine.
func (c *Client) askFamily(ctx context.Context, up nameServers, q dnsQuestion, replies chan<- reply) {
	r := reply{question: q}
	defer func() {
		if p := recover(); p != nil {
			r.err = fmt.Errorf("asking for %s panicked: %v\n%s", q, p, debug.Stack())
		}
		replies <- r
	}()
	r.msg, r.err = c.ask(ctx, up, q)
}

// parsed reads the addresses of r.
func (r reply) parsed() reply {
	if r.err == nil {
		r.host = parseHost(r.msg, r.question)
	}
	return r
}

// lookupService finds the SRV records of q.
func (c *Client) lookupService(ctx context.Context, q resolver.Query) (lookup, error) {
	return c.search(ctx, q, func(up nameServers, name string) (lookup, bool, error) {
		msg, err := c.ask(ctx, up, dnsQuestion{name, mdns.TypeSRV})
		if err != nil {
			return lookup{}, false, err
		}
		found := parseService(msg, name)
		host := called(q.Host, name, found.end)
		switch {
		case len(found.endpoints) > 0:
			if up.given != "" {
				c.lookupTargets(ctx, up, &found)
			}
			return lookup{answer: found.answer(), holds: c.holds(found.ttl)}, true, nil
		case found.records > 0: // the name is the right one, it just has nothing to offer
			none := c.absence(found.ttl, "")
			none.answer = found.answer()
			return none, true, nil
		case msg.Rcode == mdns.RcodeNameError:
			return c.noSuchName(found.ttl, host).asService(q), false, nil
		case found.odd != "":
			return c.absence(found.ttl, "%s", found.odd), false, nil
		}
		return c.absence(found.ttl, "the name %s has no SRV records", host).asService(q), false, nil
	})
}

// asService adds to an absence what to write if the name was meant for a host's.
func (l lookup) asService(q resolver.Query) lookup {
	if !strings.HasPrefix(q.Host, "_") && !strings.Contains(q.Host, ".service.") { // RFC 2782's form, and Consul's
		l.answer.Hint = fmt.Sprintf("a name without a port stands for its SRV records; for its addresses write %s:PORT", q.Host)
	}
	return l
}

// lookupTargets asks the server that the target names for the SRV targets that came
// without an address: the system's servers may not know them. What it does not know
// in the time of two tries stays a name, and so is left to the system's.
func (c *Client) lookupTargets(ctx context.Context, up nameServers, found *serviceAnswer) {
	ctx, cancel := context.WithTimeout(ctx, 2*up.timeout)
	defer cancel()
	known := map[string]lookup{}
	var endpoints []resolver.Endpoint
	for _, e := range found.endpoints {
		if len(endpoints) >= maxExpanded {
			break
		}
		target, done := known[e.Host]
		if !done && !e.Addr.IsValid() && ctx.Err() == nil {
			target, _, _ = c.lookupAddresses(ctx, up, e.Host, e.Host, e.Port) // a failure leaves it empty
			known[e.Host] = target
		}
		addresses := target.answer.Endpoints
		if e.Addr.IsValid() || len(addresses) == 0 {
			endpoints = append(endpoints, e)
			continue
		}
		found.ttl = min(found.ttl, target.holds)
		port := e.Port
		e.Host, e.Port = "", 0
		for _, address := range addresses {
			e.Addr = netip.AddrPortFrom(address.Addr.Addr(), port)
			endpoints = append(endpoints, e)
		}
	}
	found.endpoints = endpoints
}
