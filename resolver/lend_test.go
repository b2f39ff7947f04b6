package resolver

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// TestAnotherOwnersReadingIsNoWait: a watch of two waits for neither's reading as long as
// the other may read, nor for its turns.
func TestAnotherOwnersReadingIsNoWait(t *testing.T) {
	allowances := map[string]*Allowance{}
	source := &fakeSource{watch: func(ctx context.Context, q Query, publish func(Answer)) error {
		allowances[q.Host] = AllowanceOf(ctx)
		return hold(ctx, publish)
	}}
	inBubbleWith(t, Options{Asking: 1, Shares: Shares{PerSecond: 50 << 10}}, source, func(ctx context.Context, r *Resolver) {
		r.Keep(nil, Owned{"a", []Target{fake("shared"), fake("own")}}, Owned{"b", []Target{fake("shared")}})
		synctest.Wait()
		if err := allowances["own"].Spend(ctx, 50<<10); err != nil { // a's, all of it
			t.Fatal(err)
		}
		for range 100 { // and for the next minute
			go func() { _ = allowances["own"].Spend(ctx, 50<<10) }()
		}
		for range readsAtOnce {
			if _, err := allowances["own"].Turn(ctx); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		began := time.Now()
		if err := allowances["shared"].Spend(ctx, 10<<10); err != nil || time.Since(began) > 0 {
			t.Errorf("what b may read waited %s for what a has read: %v", time.Since(began), err)
		}
		short, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		for range readsAtOnce {
			if _, err := allowances["shared"].Turn(short); err != nil {
				t.Fatalf("b's turns wait for a's: %v", err)
			}
		}
		if _, err := allowances["shared"].Turn(short); err == nil {
			t.Error("both have all their turns, and there is one more")
		}
	})
}

// TestANameInAnothersAnswer is looked up for whoever's answer it is in, whatever a client
// has done with its own share that declares it or was refused it.
func TestANameInAnothersAnswer(t *testing.T) {
	var names map[string]*Allowance
	lookups := &fakeSource{watch: func(ctx context.Context, q Query, publish func(Answer)) error {
		names[q.Host] = AllowanceOf(ctx)
		return hold(ctx, publish, endpoint(firstAddr))
	}}
	source := &fakeSource{watch: func(ctx context.Context, q Query, publish func(Answer)) error {
		return hold(ctx, publish, Endpoint{Host: "name." + q.Host, Port: 1})
	}}
	name := func(host string) Target {
		return Target{Choices: []Choice{{Queries: []Query{{Scheme: SchemeDNS, Host: "name." + host, Port: 1}}}}}
	}
	for what, test := range map[string]struct {
		keep  func(r *Resolver)
		owned bool // whether the name is counted for somebody
	}{
		"declared by a client, in the operator's answer": {keep: func(r *Resolver) {
			r.Keep([]Target{fake("x")}, Owned{"a", []Target{name("x")}})
		}},
		"of which the client has too many": {keep: func(r *Resolver) {
			r.Keep([]Target{fake("x")}, Owned{"a", append(many("a", 90), name("x"))}, Owned{"b", many("b", 90)})
		}},
		"declared by a client, in another's answer": {owned: true, keep: func(r *Resolver) {
			r.Keep(nil, Owned{"a", []Target{name("x")}}, Owned{"b", []Target{fake("x")}})
		}},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				names = map[string]*Allowance{}
				r := New(map[string]Source{"fake": source, SchemeDNS: lookups}, Options{Shares: Shares{Queries: 100, AllQueries: 120}})
				ctx, cancel := context.WithCancel(t.Context())
				defer synctest.Wait()
				defer cancel()
				go func() { _ = r.Run(ctx) }()
				for round := range 2 { // and if it is declared anew
					test.keep(r)
					synctest.Wait()
					if _, err := resolved(ctx, r, fake("x")); err != nil {
						t.Fatalf("round %d: %v", round, err)
					}
					owners := names["name.x"].all()
					if !test.owned && len(owners) > 0 {
						t.Errorf("round %d: counted for %s, and the operator needs it", round, owners[0].owner)
					}
					if test.owned && (len(owners) != 2 || fmt.Sprint(owners[0].owner, owners[1].owner) != "ab") {
						t.Errorf("round %d: counted for %d; want both", round, len(owners))
					}
				}
			})
		})
	}
}
