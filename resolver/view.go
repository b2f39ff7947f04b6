package resolver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"
)

// view is what the watches of a target say at one moment.
type view struct {
	endpoints []Endpoint
	notes     []string
	errs      []error
	pending   []<-chan struct{} // closed when a query that has not answered does
	watched   []<-chan struct{} // closed when any query's answer changes
	waitsFor  []waited          // the pending queries
}

// waited is a query that is pending, and how it failed last, if it did.
type waited struct {
	query Query
	last  error
}

// view reads the watches of t. An endpoint that is only a name is looked up
// through the DNS watch of that name, and keeps its own priority and weight.
func (r *Resolver) view(t Target) view {
	var v view
	now := time.Now()
	for _, q := range t.Queries {
		for _, e := range r.read(q, now, &v) {
			if e.Addr.IsValid() {
				v.endpoints = append(v.endpoints, e)
				continue
			}
			name := Query{Scheme: SchemeDNS, Host: strings.ToLower(e.Host), Port: e.Port}
			for _, found := range r.read(name, now, &v) {
				e.Addr = found.Addr
				v.endpoints = append(v.endpoints, e)
			}
		}
	}
	if len(v.watched) > 1 {
		v.endpoints = dedupe(v.endpoints)
	}
	return v
}

// read returns what q's watch knows, and notes in v what it does not.
func (r *Resolver) read(q Query, now time.Time, v *view) []Endpoint {
	w := r.watch(q)
	w.used.Store(now.UnixNano())
	s := w.state.Load()
	v.watched = append(v.watched, s.replaced)
	if s.answer != nil && (s.err == nil || len(s.answer.Endpoints) > 0) {
		if s.answer.Note != "" {
			v.notes = append(v.notes, s.answer.Note)
		}
		return s.answer.Endpoints
	}
	if s.err != nil {
		if now.Sub(s.since) < r.options.NegativeFor {
			v.errs = append(v.errs, s.err)
			return nil
		}
		select { // ask again now rather than at the end of a long backoff
		case w.retry <- struct{}{}:
		default:
		}
	}
	v.pending = append(v.pending, s.replaced)
	v.waitsFor = append(v.waitsFor, waited{query: q, last: s.err})
	return nil
}

// wait blocks until one of changed is closed; it returns false if grace fired or
// ctx ended first.
func (v view) wait(ctx context.Context, changed []<-chan struct{}, grace <-chan time.Time) bool {
	if len(changed) == 1 { // nearly always
		select {
		case <-changed[0]:
			return true
		case <-grace:
		case <-ctx.Done():
		}
		return false
	}
	cases := []reflect.SelectCase{
		{Dir: reflect.SelectRecv, Chan: reflect.ValueOf(ctx.Done())},
		{Dir: reflect.SelectRecv, Chan: reflect.ValueOf(grace)},
	}
	for _, c := range changed {
		cases = append(cases, reflect.SelectCase{Dir: reflect.SelectRecv, Chan: reflect.ValueOf(c)})
	}
	chosen, _, _ := reflect.Select(cases)
	return chosen > 1
}

// overdue is why v's pending queries count as failed after timeout.
func (v view) overdue(timeout time.Duration) error {
	var errs []error
	for _, p := range v.waitsFor {
		err := fmt.Errorf("no answer for %s within %s", p.query, timeout)
		if p.last != nil {
			err = fmt.Errorf("%w; before that: %w", err, p.last)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// failure is why v has no endpoints.
func (v view) failure(t Target) error {
	if len(v.errs) > 0 {
		return fmt.Errorf("resolve %s: %w", t, errors.Join(v.errs...))
	}
	return &NoEndpointsError{Target: t, Notes: v.notes}
}

// order puts endpoints in try-order.
func order(endpoints []Endpoint) {
	rand.Shuffle(len(endpoints), func(i, j int) {
		endpoints[i], endpoints[j] = endpoints[j], endpoints[i]
	})
	slices.SortStableFunc(endpoints, func(a, b Endpoint) int { return cmp.Compare(a.Priority, b.Priority) })
}

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
