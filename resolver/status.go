package resolver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// NoEndpointsError says that every source is well and none knows an endpoint.
type NoEndpointsError struct {
	Target Target
	// Notes are what the sources said about it, for people.
	Notes []string
	// LeftOut are the instances that are known and not offered.
	LeftOut []LeftOut
}

func (e *NoEndpointsError) Error() string {
	said := e.Notes
	if len(e.LeftOut) > 0 {
		said = append([]string{summary(e.LeftOut)}, said...)
	}
	if len(said) == 0 {
		return fmt.Sprintf("%s has no endpoints", e.Target)
	}
	return fmt.Sprintf("%s has no endpoints: %s", e.Target, strings.Join(said, "; "))
}

// maxNamed bounds how many left-out instances an error names: old stopped
// containers pile up by the hundred.
const maxNamed = 5

func summary(leftOut []LeftOut) string {
	var named []string
	for _, l := range leftOut[:min(maxNamed, len(leftOut))] {
		named = append(named, l.String())
	}
	text := fmt.Sprintf("%d left out: %s", len(leftOut), strings.Join(named, ", "))
	if more := len(leftOut) - len(named); more > 0 {
		text += fmt.Sprintf(", and %d more", more)
	}
	return text
}

func join(notes ...string) string {
	notes = slices.DeleteFunc(notes, func(s string) bool { return s == "" })
	return strings.Join(notes, "; ")
}

// Status is all that is known of a target at one moment, for people.
type Status struct {
	Target Target
	// Endpoints are those in use, sorted; none with Err.
	Endpoints []Endpoint
	// Choice is the index of the target's choice that they are of, -1 when none has
	// any.
	Choice int
	// Err is what Resolve returns.
	Err error
	// Queries tell what each query of each choice knows, in the target's order.
	Queries []QueryStatus
}

// QueryStatus is what is known of one query of a target.
type QueryStatus struct {
	Query Query
	// Choice is the index of the choice that it belongs to.
	Choice int
	// Endpoints are the source's, names looked up, sorted.
	Endpoints []Endpoint
	LeftOut   []LeftOut
	Notes     []string
	// Answered is when the source gave this answer; zero when there is none.
	Answered time.Time
	// Err is why the source, or the lookup of one of its names, fails; nil while all
	// is well. What Endpoints say is then from before that.
	Err error
	// Failing is since when the source itself fails; zero while it is well.
	Failing time.Time
	// Unwatched says that no watch of it runs, since no client has declared or dialled it.
	Unwatched bool
}

// Status reports on t once it has been resolved as Resolve would do it, and the
// choices that are not used have had Grace to answer too.
func (r *Resolver) Status(ctx context.Context, t Target) (Status, error) {
	if err := r.started(ctx); err != nil {
		return Status{}, err
	}
	v := r.settle(ctx, t)
	for until := time.Now().Add(r.options.Grace); time.Now().Before(until) && ctx.Err() == nil; v = r.settle(ctx, t) {
		waiting := v.changes()
		if len(waiting) == 0 {
			break
		}
		waitAny(ctx, waiting, until)
	}
	return r.status(t, &v, r.watch), nil
}

// StatusNow reports on t as far as it is known at this moment: it neither waits nor starts a
// watch. A query that nobody watches is said to be Unwatched, and has no answer.
func (r *Resolver) StatusNow(t Target) Status {
	v := newView(t, time.Now(), &r.options, r.watching)
	for i := range v.parts { // one that has failed and is to be asked again is still why nobody is known
		for _, q := range v.parts[i].pending {
			if q.last != nil {
				v.parts[i].errs = append(v.parts[i].errs, q.last)
			}
		}
	}
	return r.status(t, &v, r.watching)
}

// status is what v says of t, and the watches that find returns of its queries.
func (r *Resolver) status(t Target, v *view, find func(Query, *watch) *watch) Status {
	s := Status{Target: t, Choice: v.chosen, Endpoints: slices.Clone(v.endpoints())}
	slices.SortFunc(s.Endpoints, compare)
	if len(s.Endpoints) == 0 {
		s.Err = v.failure(t)
	}
	now := time.Now()
	for i, c := range t.Choices {
		for j, q := range c.Queries {
			w := find(q, nil)
			if w == nil {
				s.Queries = append(s.Queries, QueryStatus{Query: q, Choice: i, Unwatched: true})
				continue
			}
			p := (&view{options: &r.options, find: find}).readChoice(c.only(j), now)
			known := w.state.Load()
			one := QueryStatus{
				Query: q, Choice: i, Endpoints: slices.Clone(p.endpoints), LeftOut: p.leftOut, Notes: p.notes,
				Answered: known.answered, Err: errors.Join(p.errs...), Failing: known.failing,
			}
			if known.err != nil {
				one.Err = known.err
			}
			slices.SortFunc(one.Endpoints, compare)
			s.Queries = append(s.Queries, one)
		}
	}
	return s
}

// Watch calls report with the status of t, now and after every change of what it
// says, until ctx ends.
func (r *Resolver) Watch(ctx context.Context, t Target, report func(Status)) error {
	if err := r.started(ctx); err != nil {
		return err
	}
	var last *Status
	for {
		v := r.settle(ctx, t)
		if ctx.Err() != nil {
			return nil
		}
		s := r.status(t, &v, r.watch)
		if last == nil || !s.says(last) {
			report(s)
			last = &s
		}
		waitAny(ctx, v.watched, time.Time{})
	}
}

// says reports whether s tells the reader the same as o. Why a source fails is left
// out of it: such texts differ at each try in what nobody wants to know.
func (s *Status) says(o *Status) bool {
	return s.Choice == o.Choice && (s.Err == nil) == (o.Err == nil) && slices.Equal(s.Endpoints, o.Endpoints) &&
		slices.EqualFunc(s.Queries, o.Queries, func(a, b QueryStatus) bool {
			return (a.Err == nil) == (b.Err == nil) && slices.Equal(a.Endpoints, b.Endpoints) &&
				slices.Equal(a.LeftOut, b.LeftOut) && slices.Equal(a.Notes, b.Notes)
		})
}
