package main

import (
	"fmt"
	"net"
	"net/netip"
)

// backendSet is where a contestant listens and the backends behind it. Every contestant has
// backends of its own, so that the ports one leaves in TIME_WAIT are not missing for
// the next.
type backendSet struct {
	Listen, Backend ends
}

// ends are the ports, on 127.0.0.1, of the backend's roles.
type ends struct{ Echo, Sink, Source, HTTP netip.AddrPort }

func (e ends) all() []netip.AddrPort { return []netip.AddrPort{e.Echo, e.Sink, e.Source, e.HTTP} }

func (w backendSet) pairs() (pairs []backendPair) {
	backends := w.Backend.all()
	for i, l := range w.Listen.all() {
		pairs = append(pairs, backendPair{l.String(), backends[i].String()})
	}
	return pairs
}

// ports hands out free ports below those of outgoing connections.
type ports struct{ next uint16 }

func (p *ports) take() (netip.AddrPort, error) {
	for p.next = max(p.next, 2000); p.next < 10000; {
		addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), p.next)
		p.next++
		l, err := net.Listen("tcp", addr.String()) //nolint:noctx // answers at once
		if err == nil {
			return addr, l.Close()
		}
	}
	return netip.AddrPort{}, fmt.Errorf("no free port from 2000 to 9999")
}

func (p *ports) ends() (e ends, err error) {
	for _, end := range []*netip.AddrPort{&e.Echo, &e.Sink, &e.Source, &e.HTTP} {
		if *end, err = p.take(); err != nil {
			return e, err
		}
	}
	return e, nil
}

func (p *ports) way(direct bool) (w backendSet, err error) {
	if w.Backend, err = p.ends(); err != nil || direct {
		w.Listen = w.Backend
		return w, err
	}
	w.Listen, err = p.ends()
	return w, err
}
