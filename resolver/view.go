package resolver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/ambassadord/ambassadord/internal/hint"
)

// view is what the watches of a target say at one moment.
type view struct {
	options *Options
	parts   []part            // one for each choice
	chosen  int               // the part whose endpoints are used; -1 when none has any
	watched []<-chan struct{} // closed when an answer changes
	answers []answered        // in step with watched

	// find returns the watch of a query, nil if it has none; by is the one whose answer
	// has the query, if one has.
	find      func(q Query, by *watch) *watch
	unwatched bool // some query has none
}

// part is what the watches of one choice say.
type part struct {
	endpoints []Endpoint
	notes     []string
	hints     []string
	leftOut   []LeftOut
	errs      []error
	pending   []pending
}

// pending is a query that has not answered.
type pending struct {
	query   Query
	last    error           // how it failed last, if it did
	until   time.Time       // how long it is waited for when another choice could serve
	changed <-chan struct{} // closed when it answers
}

// endpoints are those of the chosen part.
func (v *view) endpoints() []Endpoint {
	if v.chosen < 0 {
		return nil
	}
	return v.parts[v.chosen].endpoints
}

// resolution is v, decided, as it is told.
func (v *view) resolution() *Resolution {
	r := &Resolution{Endpoints: v.endpoints(), watched: v.watched}
	for i := range v.parts {
		if p := &v.parts[i]; v.chosen >= 0 && i > v.chosen && len(p.endpoints) > 0 {
			r.Fallbacks = append(r.Fallbacks, p.endpoints)
		}
		for _, l := range v.parts[i].leftOut {
			if addr, err := netip.ParseAddrPort(l.Addr); l.Unhealthy && err == nil {
				r.Unhealthy = append(r.Unhealthy, addr)
			}
		}
	}
	if len(r.Endpoints) > 0 && v.settled() {
		r.answers = v.answers
	}
	return r
}

// settled reports whether every watch is well and has answered: what v says then holds
// until one of them says something else.
func (v *view) settled() bool {
	for i := range v.parts {
		if len(v.parts[i].pending) > 0 || len(v.parts[i].errs) > 0 {
			return false
		}
	}
	return true
}

// newView reads the watches of t as find gives them, all of them: what a chain may fall
// back to is to be warm.
func newView(t Target, now time.Time, options *Options, find func(Query, *watch) *watch) view {
	v := view{options: options, parts: make([]part, len(t.Choices)), chosen: -1, find: find}
	for i, c := range t.Choices {
		v.parts[i] = v.readChoice(c, now)
		if v.chosen < 0 && len(v.parts[i].endpoints) > 0 {
			v.chosen = i
		}
	}
	return v
}

// readChoice reads the watches of c. An endpoint that is only a name is looked up
// through the DNS watch of that name, and keeps its own priority and weight.
func (v *view) readChoice(c Choice, now time.Time) part {
	var p part
	before := len(v.watched)
	for i, q := range c.Queries {
		s, w := v.read(q, nil, now, &p)
		if !s.counts() {
			continue
		}
		if len(c.Queries) == 1 && c.weight(i) == 1 && !slices.ContainsFunc(s.answer.Endpoints, Endpoint.unresolved) {
			p.endpoints = slices.Clip(s.answer.Endpoints) // as they are: for thousands of targets a copy of each is much
			continue
		}
		if p.endpoints == nil {
			p.endpoints = make([]Endpoint, 0, len(s.answer.Endpoints)*len(c.Queries))
		}
		for _, e := range s.answer.Endpoints {
			e.Weight = times(e.Weight, c.weight(i))
			if !e.unresolved() {
				p.endpoints = append(p.endpoints, e)
				continue
			}
			if found, _ := v.read(lookupOf(e), w, now, &p); found.counts() {
				for _, f := range found.answer.Endpoints {
					e.Addr = f.Addr
					p.endpoints = append(p.endpoints, e)
				}
			}
		}
	}
	if len(v.watched)-before > 1 {
		p.endpoints = dedupe(p.endpoints)
	}
	return p
}

// unresolved reports whether e is only a name.
func (e Endpoint) unresolved() bool { return !e.Addr.IsValid() }

// times is a weight as often as a list says; there is none greater than 65535.
func times(weight, by uint16) uint16 {
	return uint16(min(uint32(weight)*uint32(by), math.MaxUint16))
}

// lookupOf is the query for the addresses of an endpoint that is only a name.
func lookupOf(e Endpoint) Query {
	return Query{Scheme: SchemeDNS, Host: strings.ToLower(e.Host), Port: e.Port}
}

// read returns what q's watch knows, and notes in p what it does not.
func (v *view) read(q Query, by *watch, now time.Time, p *part) (*state, *watch) {
	w := v.find(q, by)
	if w == nil {
		v.unwatched = true
		return new(state), nil
	}
	w.used.Store(now.UnixNano())
	s, replaced := w.state.Watch()
	v.watched = append(v.watched, replaced)
	v.answers = append(v.answers, answered{w, s})
	if s.counts() {
		p.leftOut = append(p.leftOut, s.answer.LeftOut...)
		if s.answer.Note != "" {
			p.notes = append(p.notes, s.answer.Note)
		}
		if s.answer.Hint != "" {
			p.hints = append(p.hints, s.answer.Hint)
		}
		return s, w
	}
	if s.err != nil && (s.standing || now.Sub(s.failed) < v.options.NegativeFor) {
		p.errs = append(p.errs, s.err)
		return s, w
	}
	until, asked := w.created.Add(v.options.Timeout), w.askedAt()
	if s.err != nil { // ask again now rather than at the end of a long backoff
		if !asked.After(s.failed) { // it is pausing
			w.askNow()
			asked = now
		}
		until = asked.Add(v.options.Grace)
	} else if asked.IsZero() {
		w.askNow()
	}
	p.pending = append(p.pending, pending{query: q, last: s.err, until: until, changed: replaced})
	return s, w
}

// decide sets the choice to be used and says whether that is final. If not, it is
// worth waiting for one of changed, until the time given; the zero time is no
// limit. grace is when the wait for the rest of a list ends; it is set when that
// wait begins.
//
// An earlier choice is passed over when it has no endpoints and its sources are
// well or have failed. One that has never answered is waited for, for Timeout
// since its watch began; one that is being asked again, for Grace since it is.
func (v *view) decide(now time.Time, grace *time.Time, forGrace time.Duration) (final bool, until time.Time, changed []<-chan struct{}) {
	for i := range v.parts {
		p := &v.parts[i]
		if len(p.pending) == 0 && len(p.endpoints) == 0 {
			continue
		}
		if len(p.endpoints) > 0 {
			v.chosen = i
			if len(p.pending) == 0 {
				return true, until, nil
			}
			if grace.IsZero() {
				*grace = now.Add(forGrace)
			}
			until = *grace
		} else if v.chosen > i { // a later one could serve
			for _, q := range p.pending {
				if q.until.After(until) {
					until = q.until
				}
			}
		}
		if !until.IsZero() && !now.Before(until) {
			if len(p.endpoints) > 0 {
				return true, until, nil
			}
			until = time.Time{}
			continue // overdue: as if it had failed
		}
		return false, until, v.changes()
	}
	return true, until, nil
}

// changes are what to wait for: any pending query may decide.
func (v *view) changes() []<-chan struct{} {
	var changed []<-chan struct{}
	for _, p := range v.parts {
		for _, q := range p.pending {
			changed = append(changed, q.changed)
		}
	}
	return changed
}

// waitAny blocks until one of changed is closed or until is over, the zero time
// being no limit; it returns false if ctx ended first.
func waitAny(ctx context.Context, changed []<-chan struct{}, until time.Time) bool {
	var over <-chan time.Time
	if !until.IsZero() {
		timer := time.NewTimer(time.Until(until))
		defer timer.Stop()
		over = timer.C
	}
	if len(changed) == 1 { // nearly always
		select {
		case <-changed[0]:
			return true
		case <-over:
			return true
		case <-ctx.Done():
			return false
		}
	}
	cases := []reflect.SelectCase{
		{Dir: reflect.SelectRecv, Chan: reflect.ValueOf(ctx.Done())},
		{Dir: reflect.SelectRecv, Chan: reflect.ValueOf(over)},
	}
	for _, c := range changed {
		cases = append(cases, reflect.SelectCase{Dir: reflect.SelectRecv, Chan: reflect.ValueOf(c)})
	}
	chosen, _, _ := reflect.Select(cases)
	return chosen > 0
}

// giveUp makes the queries that are still pending count as failed after timeout.
func (v *view) giveUp(timeout time.Duration) {
	for i := range v.parts {
		p := &v.parts[i]
		for _, q := range p.pending {
			err := fmt.Errorf("no answer for %s within %s", q.query, timeout)
			if q.last != nil {
				err = fmt.Errorf("%w; before that: %w", err, q.last)
			}
			p.errs = append(p.errs, err)
		}
	}
}

// failure is why v has no endpoints.
func (v *view) failure(t Target) error {
	var errs []error
	none := &NoEndpointsError{Target: t}
	var hints []string
	for _, p := range v.parts {
		errs, hints = append(errs, p.errs...), append(hints, p.hints...)
		none.Notes = append(none.Notes, p.notes...)
		none.LeftOut = append(none.LeftOut, p.leftOut...)
	}
	if len(errs) > 0 {
		return fmt.Errorf("resolve %s: %w", t, errors.Join(errs...))
	}
	return hint.Wrap(none, strings.Join(hints, "; "))
}

// compare orders endpoints for people.
func compare(a, b Endpoint) int {
	return cmp.Or(cmp.Compare(a.Priority, b.Priority), a.Addr.Compare(b.Addr), cmp.Compare(a.Name, b.Name))
}

// dedupe keeps the first of endpoints with one address: lists overlap.
func dedupe(endpoints []Endpoint) []Endpoint {
	seen := make(map[netip.AddrPort]struct{}, len(endpoints))
	return slices.DeleteFunc(endpoints, func(e Endpoint) bool {
		_, twice := seen[e.Addr]
		seen[e.Addr] = struct{}{}
		return twice
	})
}
