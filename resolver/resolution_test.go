package resolver

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ambassadord/ambassadord/resolver/internal/burstlog"
)

// resolved is the endpoints of t, for those who ask once.
func resolved(ctx context.Context, r *Resolver, t Target) ([]Endpoint, error) {
	resolution, err := r.Resolve(ctx, t, nil)
	if err != nil {
		return nil, err
	}
	return resolution.Endpoints, nil
}

// BenchmarkResolve is the resolver's part of one connection: a warm target of ten
// endpoints, asked from all processors at once.
func BenchmarkResolve(b *testing.B) {
	source := &fakeSource{watch: func(ctx context.Context, _ Query, publish func(Answer)) error {
		var endpoints []Endpoint
		for i := range 10 {
			e := endpoint(firstAddr)
			e.Name, e.Weight = "an instance", uint16(i)
			endpoints = append(endpoints, e)
		}
		return hold(ctx, publish, endpoints...)
	}}
	r := New(map[string]Source{"fake": source}, Options{})
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = r.Run(ctx) }()
	defer func() { cancel(); <-done }()
	for name, target := range map[string]Target{"one": fake("a"), "chain": chain("a", "b")} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				var last *Resolution
				for pb.Next() {
					var err error
					if last, err = r.Resolve(ctx, target, last); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}

func TestAResolutionIsTheSameUntilSomethingChanges(t *testing.T) {
	chained(t, Options{IdleAfter: time.Minute}, func(ctx context.Context, r *Resolver, source *scripted) {
		source.set("first", serving(firstAddr))
		source.set("second", serving(secondAddr))
		target := chain("first", "second")
		r.Keep([]Target{target})
		synctest.Wait() // both have answered
		first, err := r.Resolve(ctx, target, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Keep(nil)
		for range 10 { // for longer than an unused watch lives
			time.Sleep(20 * time.Second)
			if again, err := r.Resolve(ctx, target, first); err != nil || again != first {
				t.Fatalf("resolved again: %p, %v; want the same %p while nothing has changed", again, err, first)
			}
		}
		changed := make(chan struct{})
		go func() { defer close(changed); first.Changed(ctx) }()
		synctest.Wait()
		source.set("first", serving(secondAddr))
		<-changed
		next, err := r.Resolve(ctx, target, first)
		if err != nil || next == first || len(next.Endpoints) != 1 || next.Endpoints[0].String() != secondAddr {
			t.Fatalf("after a change: %+v, %v; want the new endpoint alone", next, err)
		}
		if first.Endpoints[0].String() != firstAddr {
			t.Errorf("the earlier resolution says %v now; want it unchanged", first.Endpoints)
		}
		source.set("second", errors.New("down")) // the chain's other choice: no endpoint changes
		synctest.Wait()
		if last, err := r.Resolve(ctx, target, next); err != nil || len(last.Endpoints) != 1 || last.Endpoints[0].String() != secondAddr {
			t.Errorf("after the fallback fails: %+v, %v; want what there was", last, err)
		}
	})
}

func TestAFailedResolutionTellsOfTheFirstEndpoint(t *testing.T) {
	chained(t, Options{}, func(ctx context.Context, r *Resolver, source *scripted) {
		source.set("first", Answer{})
		none, err := r.Resolve(ctx, fake("first"), nil)
		if err == nil || none == nil {
			t.Fatalf("resolved %+v, %v; want an error, and what tells of a change", none, err)
		}
		begin := time.Now()
		time.AfterFunc(time.Second, func() { source.set("first", serving(firstAddr)) })
		none.Changed(ctx)
		got, err := r.Resolve(ctx, fake("first"), none)
		if err != nil || len(got.Endpoints) != 1 || time.Since(begin) != time.Second {
			t.Errorf("resolved %+v, %v after %s; want the endpoint at once", got, err, time.Since(begin))
		}
	})
}

// TestWhatIsKnownIsSaidAtOnce: Known is Resolve as long as that finds somebody without a
// wait, also while a source fails.
func TestWhatIsKnownIsSaidAtOnce(t *testing.T) {
	chained(t, Options{}, func(ctx context.Context, r *Resolver, source *scripted) {
		target := chain("first", "second")
		unknown := func(when string) {
			t.Helper()
			if got, known := r.Known(target, nil); known || got != nil {
				t.Errorf("%s: %+v is known", when, got)
			}
		}
		unknown("before anybody asked")
		if watched := r.watching(Query{Scheme: "fake", Host: "first"}, nil); watched != nil {
			t.Error("a watch was started")
		}
		r.Keep([]Target{target})
		synctest.Wait()
		unknown("before any source answered")
		source.set("first", serving(firstAddr))
		source.set("second", serving(secondAddr))
		synctest.Wait()
		first, known := r.Known(target, nil)
		again, err := r.Resolve(ctx, target, first)
		if !known || err != nil || again != first || first.Endpoints[0].String() != firstAddr {
			t.Fatalf("known: %+v, %t; resolved: %+v, %v", first, known, again, err)
		}
		if kept, known := r.Known(target, first); !known || kept != first {
			t.Errorf("known again: %p, %t; want %p", kept, known, first)
		}
		if n := testing.AllocsPerRun(100, func() { r.Known(target, first) }); n != 0 {
			t.Errorf("%v allocations; want none", n)
		}
		source.set("second", errors.New("down"))
		synctest.Wait()
		next, known := r.Known(target, first)
		if !known || next == first || len(next.Endpoints) != 1 || next.Endpoints[0] != first.Endpoints[0] {
			t.Errorf("while a source fails: %+v, %t", next, known)
		}
		source.set("first", Answer{})
		source.set("second", Answer{})
		time.Sleep(time.Minute)
		unknown("when nobody is left")
	})
}

// A target of one query has its answer as it is, for there may be thousands; what is told of it
// to people is sorted, and must be another.
func TestStatusLeavesTheAnswerAlone(t *testing.T) {
	r := &Resolver{log: burstlog.New(slog.New(slog.DiscardHandler))}
	q := Query{Scheme: SchemeStatic, Host: "x"}
	w := newWatch(q, &r.options, r.log)
	given := []Endpoint{{Addr: netip.MustParseAddrPort("10.0.0.2:1"), Weight: 1}, {Addr: netip.MustParseAddrPort("10.0.0.1:1"), Weight: 1}}
	w.publish(Answer{Endpoints: given})
	r.watches.Store(q, w)
	target := Target{Choices: []Choice{{Queries: []Query{q}}}}
	now := time.Now()
	v := newView(target, now, &r.options, r.watching)
	if final, _, _ := v.decide(now, new(time.Time), 0); !final || &v.endpoints()[0] != &given[0] {
		t.Error("an answer was copied")
	}
	status := r.status(target, &v, r.watch)
	if got := status.Queries[0].Endpoints; got[0] != given[1] || given[0].Addr.String() != "10.0.0.2:1" {
		t.Errorf("told %v of %v", got, given)
	}
}
