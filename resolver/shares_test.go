package resolver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/resolver/internal/burstlog"
)

// many are so many targets of one item each.
func many(prefix string, n int) []Target {
	targets := make([]Target, n)
	for i := range targets {
		targets[i] = fake(fmt.Sprint(prefix, i))
	}
	return targets
}

func serves(source *fakeSource) *fakeSource {
	source.watch = func(ctx context.Context, _ Query, publish func(Answer)) error {
		return hold(ctx, publish, endpoint(firstAddr))
	}
	return source
}

// TestAClientsQueriesAreBounded: what it declares beyond its share fails with a reason,
// what others declare as well does not, and once it declares less all of it serves.
func TestAClientsQueriesAreBounded(t *testing.T) {
	source := serves(&fakeSource{})
	inBubbleWith(t, Options{Shares: Shares{Queries: 100}}, source, func(ctx context.Context, r *Resolver) {
		list := fake("x0")
		for i := range 30_000 { // one target may be a list, and each port a target
			list.Choices = append(list.Choices, fakeChoice(fmt.Sprint("list", i)))
		}
		greedy := Owned{Owner: "greedy", Targets: append(many("x", 300), list)}
		honest := Owned{Owner: "honest", Targets: append(many("y", 50), fake("x299"))}
		r.Keep([]Target{fake("operators", "x298")}, greedy, honest)
		synctest.Wait()
		if n := r.count.Load(); n != 100+51+2 {
			t.Errorf("%d watches; want 153", n)
		}
		_, err := resolved(ctx, r, fake("x200"))
		if want := "greedy asks for more than 100 different things"; err == nil || !strings.Contains(err.Error(), want) || hint.Of(err) == "" {
			t.Errorf("beyond its share: %v, hint %q; want %s", err, hint.Of(err), want)
		}
		for _, host := range []string{"x0", "x99", "y0", "y49", "x299", "x298", "operators"} {
			if _, err := resolved(ctx, r, fake(host)); err != nil {
				t.Errorf("%s: %v", host, err)
			}
		}
		r.Keep(nil, Owned{Owner: "greedy", Targets: many("x", 10)}, honest)
		synctest.Wait()
		if _, err := resolved(ctx, r, fake("x200")); err != nil { // somebody else's now
			t.Errorf("nobody's: %v", err)
		}
	})
}

// TestAllQueriesAreShared: who wants least has all, the others equally many.
func TestAllQueriesAreShared(t *testing.T) {
	source := serves(&fakeSource{})
	inBubbleWith(t, Options{Shares: Shares{Queries: 100, AllQueries: 200}}, source, func(ctx context.Context, r *Resolver) {
		r.Keep(nil, Owned{Owner: "a", Targets: many("a", 100)}, Owned{Owner: "b", Targets: many("b", 100)}, Owned{Owner: "c", Targets: many("c", 20)})
		synctest.Wait()
		if n := r.count.Load(); n != 200 {
			t.Errorf("%d watches; want 200", n)
		}
		for host, served := range map[string]bool{"a89": true, "b89": true, "c19": true, "a90": false, "b90": false} {
			if _, err := resolved(ctx, r, fake(host)); (err == nil) != served {
				t.Errorf("%s: %v; want it served: %t", host, err, served)
			}
		}
	})
}

// TestNamesInAnswersAreBounded: each is a watch of its own, and of who declared the target.
func TestNamesInAnswersAreBounded(t *testing.T) {
	names := serves(&fakeSource{})
	source := &fakeSource{watch: func(ctx context.Context, q Query, publish func(Answer)) error {
		var endpoints []Endpoint
		for i := range 200 {
			endpoints = append(endpoints, Endpoint{Host: fmt.Sprintf("%s-%d.test", q.Host, i), Port: 1})
		}
		return hold(ctx, publish, endpoints...)
	}}
	synctest.Test(t, func(t *testing.T) {
		r := New(map[string]Source{"fake": source, SchemeDNS: names}, Options{Shares: Shares{Queries: 250}})
		ctx, cancel := context.WithCancel(t.Context())
		defer synctest.Wait()
		defer cancel()
		go func() { _ = r.Run(ctx) }()
		r.Keep(nil, Owned{Owner: "a", Targets: many("a", 5)}, Owned{Owner: "b", Targets: many("b", 1)})
		synctest.Wait()
		for _, target := range append(many("a", 5), many("b", 1)...) {
			_, _ = resolved(ctx, r, target)
		}
		if n := r.count.Load(); n != 250+201 {
			t.Errorf("%d watches; want 250 for one and 201 for the other", n)
		}
		if got, err := resolved(ctx, r, fake("b0")); err != nil || len(got) == 0 {
			t.Errorf("%v, %v; want those of who has room", got, err)
		}
		time.Sleep(time.Hour) // what nobody asks for ends, and is no longer counted
		synctest.Wait()
		if a := r.shares.accounts["a"]; a.lookups != 0 {
			t.Errorf("%d lookups are counted that have ended", a.lookups)
		}
	})
}

// TestComingsAndGoings: a client that declares something else again and again leaves a
// bounded number of watches behind, and no account.
func TestComingsAndGoings(t *testing.T) {
	source := serves(&fakeSource{})
	inBubble(t, source, func(_ context.Context, r *Resolver) {
		for i := range 50 {
			r.Keep(nil, Owned{Owner: fmt.Sprint("c", i), Targets: many(fmt.Sprint("x", i, "-"), 1000)})
			synctest.Wait()
		}
		if n := r.count.Load(); n > 2*1000+unownedWatches {
			t.Errorf("%d watches", n)
		}
		r.Keep(nil)
		time.Sleep(time.Hour)
		r.Keep(nil)
		synctest.Wait()
		if n, m := r.count.Load(), len(r.shares.accounts); n != 0 || m != 0 || r.shares.bytes != 0 || r.shares.holders != 0 {
			t.Errorf("%d watches, %d accounts, %d bytes of %d are left", n, m, r.shares.bytes, r.shares.holders)
		}
	})
}

// long is an answer of about so many bytes.
func long(bytes int) Answer { return Answer{Note: strings.Repeat("x", bytes)} }

// TestAnswersThatAreKeptAreBounded by their sizes, for each client and for all.
func TestAnswersThatAreKeptAreBounded(t *testing.T) {
	source := &fakeSource{watch: func(ctx context.Context, _ Query, publish func(Answer)) error {
		publish(long(1000))
		<-ctx.Done()
		return nil
	}}
	failed := func(ctx context.Context, r *Resolver, prefix string, n int) (failed int, last error) {
		for _, target := range many(prefix, n) {
			if _, err := r.Resolve(ctx, target, nil); err != nil && strings.Contains(err.Error(), "answers of registries") {
				failed, last = failed+1, err
			}
		}
		return failed, last
	}
	options := Options{Shares: Shares{Bytes: 10_000, AllBytes: 20_000}}
	inBubbleWith(t, options, source, func(ctx context.Context, r *Resolver) {
		a, b, c := Owned{"a", many("a", 30)}, Owned{"b", many("b", 30)}, Owned{"c", many("c", 3)}
		r.Keep(many("o", 30), a)
		synctest.Wait()
		if n, err := failed(ctx, r, "a", 30); n != 20 || hint.Of(err) == "" {
			t.Errorf("%d of a's fail, %v; want 20", n, err)
		}
		if n, err := failed(ctx, r, "o", 30); n != 0 {
			t.Errorf("%d of the operator's fail: %v", n, err)
		}
		r.Keep(nil, a, b, c) // the first half is used up: the second is shared by three
		synctest.Wait()
		if n, _ := failed(ctx, r, "c", 3); n != 0 {
			t.Errorf("%d of a client's that has little fail", n)
		}
		synctest.Wait()
		if got := r.shares.bytes; got > 20_000 {
			t.Errorf("%d bytes for all", got)
		}
		r.Keep(nil)
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := r.shares.bytes; got != 0 {
			t.Errorf("%d bytes are counted that are gone", got)
		}
	})
}

// TestASharedWatchIsNobodysToTakeAway: it is counted for whoever has room.
func TestASharedWatchIsNobodysToTakeAway(t *testing.T) {
	source := &fakeSource{watch: func(ctx context.Context, q Query, publish func(Answer)) error {
		if q.Host == "shared" {
			time.Sleep(time.Millisecond)
		}
		publish(long(1000))
		<-ctx.Done()
		return nil
	}}
	inBubbleWith(t, Options{Shares: Shares{Bytes: 5_000}}, source, func(ctx context.Context, r *Resolver) {
		r.Keep(nil, Owned{"a", append(many("a", 30), fake("shared"))}, Owned{"b", []Target{fake("shared")}})
		time.Sleep(time.Second)
		if _, err := r.Resolve(ctx, fake("shared"), nil); err == nil || strings.Contains(err.Error(), "answers of registries") {
			t.Errorf("for one of two who declare it: %v; want what the source said", err)
		}
	})
}

// TestReadingIsCounted until the body is closed, objects as more than their text, and not
// faster than it may be.
func TestReadingIsCounted(t *testing.T) {
	var seen *Allowance
	source := &fakeSource{watch: func(ctx context.Context, _ Query, publish func(Answer)) error {
		seen = AllowanceOf(ctx)
		return hold(ctx, publish)
	}}
	options := Options{Shares: Shares{Bytes: 100 << 10, PerSecond: 50 << 10, Servers: 2, Waiting: 1}}
	inBubbleWith(t, options, source, func(ctx context.Context, r *Resolver) {
		body := func(text string) io.ReadCloser { return io.NopCloser(strings.NewReader(text)) }
		r.Keep([]Target{fake("operators")})
		synctest.Wait()
		if got, err := io.ReadAll(seen.Read(ctx, body(strings.Repeat("x", 1<<20)), 0)); err != nil || len(got) != 1<<20 || seen.Limited() {
			t.Errorf("the operator's: %d bytes, %v", len(got), err)
		}
		r.Keep(nil, Owned{"a", many("a", 1)})
		synctest.Wait()
		began := time.Now()
		first := seen.Read(ctx, body(strings.Repeat("x", 90<<10)), 0)
		if got, err := io.ReadAll(first); err != nil || len(got) != 90<<10 {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if took := time.Since(began); took < 790*time.Millisecond || took > 810*time.Millisecond {
			t.Errorf("90 KiB took %s at 50 a second after as many at once; want 800ms", took)
		}
		beside := seen.Read(ctx, body(strings.Repeat("x", 20<<10)), 0)
		_, err := io.ReadAll(beside)
		beside.Close()
		if err == nil || !strings.Contains(err.Error(), "more than 100 KiB") || hint.Of(err) == "" {
			t.Errorf("beside it: %v", err)
		}
		if err := first.Close(); err != nil {
			t.Error(err)
		}
		objects := seen.Read(ctx, body(strings.Repeat("{},", 1000)), 200)
		if _, err := io.ReadAll(objects); err == nil {
			t.Error("a thousand objects in 3000 bytes are read")
		}
		objects.Close()
		short, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		defer cancel()
		if err := seen.Spend(short, 1<<20); err == nil || errors.Is(err, context.DeadlineExceeded) || hint.Of(err) == "" {
			t.Errorf("what cannot be read in time: %v; want a reason at once", err)
		}
		wait, ok := seen.Wait()
		if _, second := seen.Wait(); !ok || second {
			t.Errorf("two connections of one may wait: %t, %t", ok, second)
		}
		wait()
		if _, ok := seen.Wait(); !ok {
			t.Error("none may wait after the first is closed")
		}
		leave, err := seen.Server("one")
		if err != nil {
			t.Fatal(err)
		}
		for _, address := range []string{"one", "two"} {
			if _, err := seen.Server(address); err != nil {
				t.Error(err)
			}
		}
		if _, err := seen.Server("three"); err == nil || hint.Of(err) == "" {
			t.Errorf("a third server of two: %v", err)
		}
		leave()
		leave()
		if _, err := seen.Server("three"); err == nil {
			t.Error("one that is asked twice is left once")
		}
		if n := r.shares.accounts["a"].bytes; n > 1<<10 {
			t.Errorf("%d bytes are counted after all is closed", n)
		}
	})
}

// TestAnothersFailureIsNotHidden: of an outage of one client's thousand targets ten lines
// are seen, and one of each other client's.
func TestAnothersFailureIsNotHidden(t *testing.T) {
	var log bytes.Buffer
	source := &fakeSource{watch: func(context.Context, Query, func(Answer)) error { return errors.New("refused") }}
	options := Options{Asking: 2000, Log: slog.New(slog.NewTextHandler(&log, nil))}
	inBubbleWith(t, options, source, func(_ context.Context, r *Resolver) {
		r.Keep(nil, Owned{"noisy", many("n", 1000)})
		synctest.Wait()
		r.Keep(nil, Owned{"noisy", many("n", 1000)}, Owned{"quiet", many("q", 20)})
		synctest.Wait()
		text := log.String()
		if n, m := strings.Count(text, "client=noisy"), strings.Count(text, "client=quiet"); n != burstlog.Lines || m != 1 {
			t.Errorf("%d lines of the noisy one and %d of the other; want %d and 1:\n%s", n, m, burstlog.Lines, text)
		}
	})
}

func TestFairLevel(t *testing.T) {
	for _, tt := range []struct {
		counts []int
		total  int
		want   int
	}{{[]int{10, 100, 100}, 110, 50}, {[]int{100}, 50, 50}, {[]int{50, 50}, 99, 49}} {
		if got := fairLevel(tt.counts, tt.total); got != tt.want {
			t.Errorf("fairLevel(%v, %d) = %d; want %d", tt.counts, tt.total, got, tt.want)
		}
	}
	if got := fairLevel([]int{10, 20}, 30); got < 20 {
		t.Errorf("all fit, but each may have %d", got)
	}
}

// TestAnUnchangedClientIsNotLookedThroughAgain: what many declare costs nothing when one of
// them comes or goes.
func TestAnUnchangedClientIsNotLookedThroughAgain(t *testing.T) {
	s := newShares(Shares{})
	a, b := Owned{"a", many("a", 5)}, Owned{"b", many("b", 5)}
	s.assign(nil, []Owned{a, b})
	known := s.lists["a"]
	s.assign(nil, []Owned{a})
	if s.lists["a"] != known || s.lists["b"] != nil {
		t.Errorf("the list of a was made anew, or that of b is still there: %v", s.lists)
	}
	a.Targets = many("a", 4)
	s.assign(nil, []Owned{a})
	if l := s.lists["a"]; l == known || l.count != 4 {
		t.Errorf("the list of a is of what it was before: %+v", l)
	}
}

// TestWatchesEndWithTheirLastClient: a line about a target names who asks for it, and of one that nobody
// declares any more there is none; it is watched for Options.IdleAfter,
// and a tenth of that more at most.
func TestWatchesEndWithTheirLastClient(t *testing.T) {
	var mu sync.Mutex // what wakes by the clock is not ordered after the test, as the race detector has it
	var log strings.Builder
	failures := 0
	source := &fakeSource{watch: func(context.Context, Query, func(Answer)) error {
		failures++
		return fmt.Errorf("failure %d", failures) // another one each time, so that each is told
	}}
	options := Options{IdleAfter: 10 * time.Minute, BackoffMax: time.Second, Log: slog.New(slog.NewTextHandler(writerFunc(func(b []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return log.Write(b)
	}), nil))}
	inBubbleWith(t, options, source, func(_ context.Context, r *Resolver) {
		said := func(while time.Duration) string {
			synctest.Wait()
			mu.Lock()
			log.Reset()
			mu.Unlock()
			time.Sleep(while)
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			return log.String()
		}
		web, api := Owned{Owner: "web", Targets: []Target{fake("redis")}}, Owned{Owner: "api", Targets: []Target{fake("redis")}}
		r.Keep(nil, web, api)
		if text := said(time.Minute); !strings.Contains(text, "client=web more_clients=1 error=") {
			t.Errorf("with two clients it says\n%.300s", text)
		}
		r.Keep(nil, api)
		if text := said(time.Minute); !strings.Contains(text, "client=api error=") || strings.Contains(text, "client=web") {
			t.Errorf("with one client left it says\n%.300s", text)
		}
		r.Keep(nil)
		if text := said(11 * time.Minute); strings.Contains(text, "target=") {
			t.Errorf("without a client it says\n%.300s", text)
		}
		if n := r.count.Load(); n != 0 {
			t.Errorf("%d watches 11 min after the last client left", n)
		}
	})
}

// writerFunc is a function as a Writer.
type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }
