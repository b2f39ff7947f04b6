package dns

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
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

// lookupHost finds every address of host: in the hosts file, else in DNS.
func (c *Client) lookupHost(ctx context.Context, host string, port uint16) (lookup, error) {
	hosts, err := c.hosts.load()
	if err != nil {
		return lookup{}, err
	}
	if addrs := hosts.find(host); len(addrs) > 0 {
		return lookup{answer: hostEndpoints(addrs, host, port, ""), holds: c.config.HostsInterval}, nil
	}
	return c.search(host, func(conf *mdns.ClientConfig, name string) (lookup, bool, error) {
		return c.lookupAddresses(ctx, conf, name, host, port)
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

// search tries look with each name that resolv.conf's search list makes of host,
// until one is found. A name that no server wants to answer for does not end the
// search, but when nothing is found it is what is reported.
func (c *Client) search(host string, look func(*mdns.ClientConfig, string) (found lookup, ok bool, err error)) (lookup, error) {
	conf, err := c.resolvConf.load()
	if err != nil {
		return lookup{}, err
	}
	var (
		absent  lookup
		refusal error
	)
	for _, name := range conf.NameList(host) {
		if _, ok := mdns.IsDomainName(name); !ok { // too long with this suffix
			continue
		}
		found, ok, err := look(conf, name)
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
	question question
	msg      *mdns.Msg
	host     hostAnswer
	err      error
}

// lookupAddresses asks for name's A and AAAA records at the same time. If one
// family has records, whatever becomes of the other is no more than a note.
func (c *Client) lookupAddresses(ctx context.Context, conf *mdns.ClientConfig, name, host string, port uint16) (lookup, bool, error) {
	var (
		addrs            []netip.Addr
		shortest, absent = longest, longest
		odd              string
		failed           error
		gone             bool
	)
	for _, r := range c.askBoth(ctx, conf, name) {
		switch {
		case r.err != nil:
			failed = r.err
		case len(r.host.addrs) > 0:
			addrs = append(addrs, r.host.addrs...)
			shortest = min(shortest, r.host.ttl)
		default:
			absent = min(absent, r.host.ttl)
			odd = cmp.Or(odd, r.host.note)
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
		return c.noSuchName(absent, host), false, nil
	case failed != nil:
		return lookup{}, false, failed
	case odd != "":
		return c.absence(absent, "%s", odd), false, nil
	}
	return c.absence(absent, "the name %s has no A or AAAA records", host), false, nil
}

// askBoth returns when both families have answered or failed. Once one has
// records the other gets one more try's time: a server that is deaf to AAAA must
// not hold up a connection for as long as all retries take.
func (c *Client) askBoth(ctx context.Context, conf *mdns.ClientConfig, name string) [2]reply {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	replies := make(chan reply, 2)
	for _, qtype := range []uint16{mdns.TypeA, mdns.TypeAAAA} {
		go c.askFamily(ctx, conf, question{name, qtype}, replies)
	}
	first := (<-replies).parsed()
	if len(first.host.addrs) > 0 {
		timer := time.AfterFunc(c.config.Timeout, cancel)
		defer timer.Stop()
	}
	second := (<-replies).parsed()
	if errors.Is(second.err, context.Canceled) {
		second.err = &askError{question: second.question, failures: []string{"no server answered in time"}}
	}
	return [2]reply{first, second}
}

func (c *Client) askFamily(ctx context.Context, conf *mdns.ClientConfig, q question, replies chan<- reply) {
	msg, err := c.ask(ctx, conf, q)
	replies <- reply{question: q, msg: msg, err: err}
}

// parsed reads the addresses of r. It runs in the goroutine of Watch, whose caller
// turns a panic into a failure of this source alone.
func (r reply) parsed() reply {
	if r.err == nil {
		r.host = parseHost(r.msg, r.question)
	}
	return r
}

// lookupService finds the SRV records of host.
func (c *Client) lookupService(ctx context.Context, host string) (lookup, error) {
	return c.search(host, func(conf *mdns.ClientConfig, name string) (lookup, bool, error) {
		q := question{name, mdns.TypeSRV}
		msg, err := c.ask(ctx, conf, q)
		if err != nil {
			return lookup{}, false, err
		}
		found := parseService(msg, name)
		switch {
		case len(found.endpoints) > 0:
			return lookup{answer: answer.New(found.endpoints, found.note()), holds: c.holds(found.ttl)}, true, nil
		case found.records > 0: // the name is the right one, it just has nothing to offer
			return c.absence(found.ttl, "%s", found.note()), true, nil
		case msg.Rcode == mdns.RcodeNameError:
			return c.noSuchName(found.ttl, host), false, nil
		case found.note() != "":
			return c.absence(found.ttl, "%s", found.note()), false, nil
		}
		return c.absence(found.ttl, "the name %s has no SRV records", host), false, nil
	})
}
