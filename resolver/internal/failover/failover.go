// Package failover asks the servers of one registry for an answer that each of them can
// give. The next server is asked as soon as one has failed, and also when one is slow: a
// server that is frozen refuses nothing, and a connection is waiting for the answer.
package failover

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"
	"time"
)

// slowest is how long a server may take before another one is asked beside it.
const slowest = time.Second

// Slow is how long one of n servers may take before the next one is asked beside it, so that
// each has a share of the time that all of them have.
func Slow(all time.Duration, n int) time.Duration {
	return min(slowest, all/time.Duration(n+1))
}

// Answer is what a server answered.
type Answer[S, A any] struct {
	From  S
	Value A
	// Slow are the servers that were asked before From and had not answered by then.
	Slow []S
}

// Failure is why a server gave no answer.
type Failure[S any] struct {
	Of  S
	Err error
}

// Asking is how servers are asked.
type Asking[S, A any] struct {
	// Ask asks one of them, and fails when its context has ended.
	Ask func(context.Context, S) (A, error)
	// Another reports whether another server might answer where one has failed with this
	// error. Nil means always.
	Another func(error) bool
	// Discard is given the answer of a server that came second. Nil does nothing.
	Discard func(A)
	// Slow is how long a server may take before the next one is asked beside it.
	Slow time.Duration
}

// First asks servers in their order and returns the first answer, or else the failures, in
// the order of the servers: of all of them, or the one after which asking another is of no
// use. It returns when every question has ended.
func (q Asking[S, A]) First(ctx context.Context, servers []S) (*Answer[S, A], []Failure[S]) {
	ctx, cancel := context.WithCancel(ctx)
	type outcome struct {
		i     int
		value A
		err   error
	}
	outcomes := make(chan outcome, len(servers))
	asked, running := 0, 0
	next := time.NewTimer(0)
	defer next.Stop()
	defer func() { // the others' questions
		cancel()
		for ; running > 0; running-- {
			if o := <-outcomes; o.err == nil && q.Discard != nil {
				q.Discard(o.value)
			}
		}
	}()
	errs := make([]error, len(servers))
	failures := func() (all []Failure[S]) {
		if asked == 0 { // ctx has ended before
			return []Failure[S]{{servers[0], context.Cause(ctx)}}
		}
		for i, err := range errs[:asked] {
			all = append(all, Failure[S]{servers[i], err})
		}
		return all
	}
	for running > 0 || asked < len(servers) && ctx.Err() == nil {
		select {
		case <-next.C:
			if asked == len(servers) || ctx.Err() != nil {
				continue
			}
			i := asked
			asked++
			running++
			go func() {
				o := outcome{i: i}
				defer func() {
					if p := recover(); p != nil { // a hostile answer must not end the daemon
						o.err = fmt.Errorf("reading the answer panicked: %v\n%s", p, debug.Stack())
					}
					outcomes <- o
				}()
				o.value, o.err = q.Ask(ctx, servers[i])
			}()
			next.Reset(q.Slow)
		case o := <-outcomes:
			running--
			if o.err == nil {
				answer := &Answer[S, A]{From: servers[o.i], Value: o.value}
				for i := range o.i {
					if errs[i] == nil {
						answer.Slow = append(answer.Slow, servers[i])
					}
				}
				return answer, nil
			}
			errs[o.i] = o.err
			if q.Another != nil && !q.Another(o.err) {
				return nil, []Failure[S]{{servers[o.i], o.err}}
			}
			if o.i == asked-1 { // the latest: nothing else is waited for before the next
				next.Reset(0)
			}
		}
	}
	return nil, failures()
}

// Order is which of several servers is asked first. It changes when that one fails, so that
// the next question does not find out anew. Its zero value begins with the first.
type Order[S comparable] struct{ demoted []S }

// Sort returns servers with those that have failed last, the latest at the end.
func (o Order[S]) Sort(servers []S) []S {
	return slices.SortedStableFunc(slices.Values(servers), func(a, b S) int {
		return slices.Index(o.demoted, a) - slices.Index(o.demoted, b)
	})
}

// Demote returns the order in which s comes last.
func (o Order[S]) Demote(s S) Order[S] {
	demoted := slices.DeleteFunc(slices.Clone(o.demoted), func(d S) bool { return d == s })
	return Order[S]{append(demoted, s)}
}
