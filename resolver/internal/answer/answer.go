// Package answer holds what all sources do with an answer on its way out: bound
// it, and publish it only when it says something new.
package answer

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/ambassadord/ambassadord/resolver"
)

// MaxEndpoints is the most endpoints of one answer. A registry that names more
// is wrong or hostile; either way the daemon's memory and its status page stay
// bounded.
const MaxEndpoints = 1000

// New makes an answer of at most MaxEndpoints endpoints; what it leaves out is
// said in the note. Empty notes are skipped, the others joined.
func New(endpoints []resolver.Endpoint, notes ...string) resolver.Answer {
	if n := len(endpoints); n > MaxEndpoints {
		endpoints = endpoints[:MaxEndpoints:MaxEndpoints]
		notes = append(slices.Clip(notes), fmt.Sprintf("only the first %d of %d endpoints are used", MaxEndpoints, n))
	}
	for i := range endpoints { // an answer is kept; its words are for people
		if e := &endpoints[i]; len(e.Name) > maxWord || len(e.Health) > maxWord {
			e.Name, e.Health = strings.Clone(Shorten(e.Name, maxWord)), strings.Clone(Shorten(e.Health, maxWord))
		}
	}
	notes = slices.DeleteFunc(slices.Clone(notes), func(s string) bool { return s == "" })
	return resolver.Answer{Endpoints: endpoints, Note: strings.Join(notes, "; ")}
}

// OnChange returns a publish that passes on the first answer, even an empty one,
// and after it only what says something else: other endpoints, in whatever order,
// other left-out instances, another note or hint. A failure is passed on, and what
// follows it.
func OnChange(publish func(resolver.Answer)) func(resolver.Answer) {
	var (
		last      resolver.Answer // as it was published: no copy, for thousands of watches have one
		published bool
	)
	return func(a resolver.Answer) {
		if published && a.Err == nil && a.Note == last.Note && a.Hint == last.Hint && same(a.Endpoints, last.Endpoints) && slices.Equal(a.LeftOut, last.LeftOut) {
			return
		}
		last = resolver.Answer{Endpoints: a.Endpoints, LeftOut: a.LeftOut, Note: a.Note, Hint: a.Hint}
		published = a.Err == nil
		publish(a)
	}
}

// same reports whether a and b are the same endpoints, in whatever order.
func same(a, b []resolver.Endpoint) bool {
	if slices.Equal(a, b) { // nearly always, where they are the same
		return true
	}
	return len(a) == len(b) && slices.Equal(slices.SortedFunc(slices.Values(a), Compare), slices.SortedFunc(slices.Values(b), Compare))
}

// Compare is a total order of endpoints: by priority, then address, name,
// weight, health, distance and holder.
func Compare(a, b resolver.Endpoint) int {
	return cmp.Or(
		cmp.Compare(a.Priority, b.Priority),
		a.Addr.Compare(b.Addr),
		cmp.Compare(a.Host, b.Host),
		cmp.Compare(a.Port, b.Port),
		cmp.Compare(a.Name, b.Name),
		cmp.Compare(a.Weight, b.Weight),
		cmp.Compare(a.Health, b.Health),
		cmp.Compare(a.Distance, b.Distance),
		cmp.Compare(a.Holder, b.Holder),
	)
}
