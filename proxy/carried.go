package proxy

import (
	"net/netip"
	"time"
)

// Carried is a connection as it is now.
type Carried struct {
	Route    *Route         // which is not to be changed
	Source   netip.AddrPort // the client's address
	Endpoint Endpoint
	Attempts int // endpoints dialled
	Accepted time.Time
	Held     time.Duration // from accept until the endpoint had answered
	Up, Down int64         // bytes so far, from client to endpoint and back
}

// carriedAtOnce is how many connections a loop looks at in one go: it carries the others
// meanwhile, and that takes microseconds.
const carriedAtOnce = 256

// Carried returns the connections in loops whose both ends are up, in no order. One that comes or goes
// meanwhile may be among them or not. It holds nothing that the connections need: each loop looks
// at its own, a few at a time, between the events that it serves.
func (s *Server) Carried() []Carried {
	s.init()
	var all []Carried
	for _, l := range s.loops {
		for at, more := 0, true; more; at += carriedAtOnce {
			more = false
			l.call(func() { all, more = l.carried(all, at) })
		}
	}
	return all
}

// carried adds those in the slots from at on, and reports whether there are more slots.
func (l *loop) carried(to []Carried, at int) (all []Carried, more bool) {
	if at == 0 && to == nil {
		to = make([]Carried, 0, len(l.relays))
	}
	end := min(at+carriedAtOnce, len(l.relays))
	for _, r := range l.relays[min(at, end):end] {
		if r == nil || r.state != relaying || r.route == nil {
			continue
		}
		so := r.passed()
		to = append(to, Carried{
			Route: r.route, Source: r.source, Endpoint: r.verdict.Endpoint(), Attempts: int(r.attempts),
			Accepted: l.began.Add(time.Duration(r.accepted)), Held: time.Duration(r.held), Up: so.up, Down: so.down,
		})
	}
	return to, end < len(l.relays)
}
