package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"

	mdns "github.com/miekg/dns"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/resolver"
)

// maxGivenServers is how many addresses of a server given by name are asked.
const maxGivenServers = 8

// nameServers is whom a lookup asks, and how.
type nameServers struct {
	resolvConf // its servers are at least one, its timeout is set
	// given is the server that the target names; empty for the system's.
	given string
}

// system is the upstream of targets that name no server.
func (c *Client) system() (nameServers, error) {
	conf, _, err := c.resolvConf.load()
	if err != nil {
		return nameServers{}, fmt.Errorf("finding the DNS servers: %w", err)
	}
	up := nameServers{resolvConf: *conf}
	if up.timeout == 0 {
		up.timeout = c.config.Timeout
	}
	if len(c.config.Servers) > 0 {
		up.servers = make([]string, len(c.config.Servers))
		for i, s := range c.config.Servers {
			if _, _, err := net.SplitHostPort(s); err != nil {
				s = net.JoinHostPort(strings.Trim(s, "[]"), "53")
			}
			up.servers[i] = s
		}
	}
	if len(up.servers) == 0 { // resolv.conf(5): the default is the local machine
		up.servers = []string{"127.0.0.1:53"}
	}
	return up, nil
}

// upstream returns whom to ask for a target: the server that it names, HOST:PORT,
// and no other, for the name as it is written; else the system's, from another one
// on each time if resolv.conf says rotate.
func (c *Client) upstream(ctx context.Context, server string) (nameServers, error) {
	up, err := c.system()
	if err != nil {
		return nameServers{}, err
	}
	if server == "" {
		if up.rotate {
			first := int(c.lookups.Add(1)-1) % len(up.servers)
			up.servers = slices.Concat(up.servers[first:], up.servers[:first])
		}
		return up, nil
	}
	up.given, up.search = server, nil
	host, _, err := net.SplitHostPort(server)
	if err != nil {
		return nameServers{}, err // Check saw to it
	}
	if _, err := netip.ParseAddr(host); err == nil {
		up.servers = []string{server}
		return up, nil
	}
	up.servers, err = c.addressesOf(ctx, server)
	return up, err
}

// addressesOf looks up a server given by name, among the system's servers. The
// answer is kept as long as it holds: it would be asked for with every question
// to the server.
func (c *Client) addressesOf(ctx context.Context, server string) ([]string, error) {
	if servers, ok := c.named.get(server); ok {
		return servers, nil
	}
	q, err := resolver.ParseHostPort(server)
	if err != nil {
		return nil, err // Check saw to it
	}
	const fix = "name the DNS server by its IP address, or correct its name"
	found, err := c.lookupHost(ctx, q)
	switch {
	case err != nil:
		return nil, fmt.Errorf("finding the DNS server %s: %w", server, err)
	case len(found.answer.Endpoints) == 0:
		return nil, hint.Errorf(fix, "finding the DNS server %s: %s", server, found.answer.Note)
	}
	var servers []string
	for _, e := range found.answer.Endpoints[:min(maxGivenServers, len(found.answer.Endpoints))] {
		servers = append(servers, e.Addr.String())
	}
	c.named.put(server, servers, found.holds)
	return servers, nil
}

// ask puts q to up's servers and returns the first answer: records, or that there
// are none. An alias whose end the answer leaves out is followed by asking on; a
// server that the target names may know the alias alone, so the system's are asked
// for its end when that one does not answer.
func (c *Client) ask(ctx context.Context, up nameServers, q dnsQuestion) (*mdns.Msg, error) {
	msg, err := c.exchanger.askServers(ctx, up, q)
	asked := q
	for range maxChain {
		if err != nil {
			return nil, err
		}
		end := looseEnd(msg, q)
		if end == "" || end == asked.name {
			break
		}
		asked.name = end
		var next *mdns.Msg
		next, err = c.exchanger.askServers(ctx, up, asked)
		var failure *askError
		if up.given != "" && errors.As(err, &failure) {
			if up, err = c.system(); err != nil {
				return nil, err
			}
			next, err = c.exchanger.askServers(ctx, up, asked)
		}
		if err == nil {
			next.Answer = append(aliasRecords(msg), next.Answer...)
			msg = next
		}
	}
	return msg, err
}

// ServerStatus says whether one DNS server answers.
type ServerStatus struct {
	// Server is its HOST:PORT.
	Server string
	// Err is nil when it answered anything, if only that it refuses.
	Err error
}

// Probe asks every server once for the name servers of the root, all at the same
// time, and returns what became of each, in resolv.conf's order. The error is
// that of reading resolv.conf.
func (c *Client) Probe(ctx context.Context) ([]ServerStatus, error) {
	up, err := c.system()
	if err != nil {
		return nil, err
	}
	statuses := make([]ServerStatus, len(up.servers))
	var asking sync.WaitGroup
	for i, server := range up.servers {
		asking.Go(func() {
			_, err := c.exchanger.try(ctx, attempt{server: server, timeout: up.timeout, edns: true}, dnsQuestion{name: ".", qtype: mdns.TypeNS})
			statuses[i] = ServerStatus{Server: server, Err: err}
		})
	}
	asking.Wait()
	return statuses, nil
}
