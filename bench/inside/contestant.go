package main

import (
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// The names of the contestants.
const (
	direct    = "direct"
	redirect  = "redirect"
	listen    = "listen"
	host      = "host"
	published = "published"
	dnat      = "published, DNAT"
)

// hostAddr is what containers dial in mode host, as docs/modes.md says.
const hostAddr = "169.254.77.1"

// insideContestant is one way from the client to the backend.
type insideContestant struct {
	name, is string
	mode     string // of ambassadord, where that is the way
	alone    bool   // its daemon puts rules on everybody's way, and so is up in its turns only
	outside  bool   // the client is not on Docker's bridge but on a cable to the host
	docker   bool   // docker-proxy may be on the way
	address  func(a *arena, port int) string
}

func contestants() []insideContestant {
	local := func(_ *arena, port int) string { return at("127.0.0.1", port) }
	ofPublished := func(a *arena, port int) string { return a.published[port].String() }
	return []insideContestant{
		{name: direct, is: "container to container, on one network", address: func(a *arena, port int) string {
			return netip.AddrPortFrom(a.backendAddr, uint16(port)).String()
		}},
		{name: listen, is: "ambassadord run --mode listen", mode: listen, address: local},
		{name: redirect, is: "ambassadord run --mode redirect", mode: redirect, address: local},
		{name: host, is: "ambassadord run --mode host", mode: host, alone: true, address: func(_ *arena, port int) string {
			return at(hostAddr, port)
		}},
		{name: published, is: "a port that Docker publishes, as a container reaches it: through the network's gateway", docker: true, address: ofPublished},
		{name: dnat, is: "the same port as another machine reaches it: through Docker's DNAT rule in the kernel; the client has a cable to the host for that, since Docker exempts its own bridges from the rule", docker: true, outside: true, address: ofPublished},
	}
}

// word is the name as a part of others.
func (c insideContestant) word() string { return strings.ReplaceAll(c.name, ", ", "-") }

func at(address string, port int) string { return net.JoinHostPort(address, strconv.Itoa(port)) }
