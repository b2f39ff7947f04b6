package resolver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ambassadord/ambassadord/resolver/internal/burstlog"
)

// TestMaxStale: outages that end before the limit, and one that does not.
func TestMaxStale(t *testing.T) {
	for name, failure := range map[string]any{
		"Watch ends":           errors.New("registry is down"),
		"Watch says so":        Answer{Err: errors.New("registry is down")},
		"and it was no change": nil,
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			options := Options{MaxStale: time.Hour, IdleAfter: 24 * time.Hour, Log: slog.New(slog.NewTextHandler(&log, nil))}
			chained(t, options, func(ctx context.Context, r *Resolver, source *scripted) {
				source.set("a", serving(firstAddr))
				resolve := func(want string) {
					t.Helper()
					got, err := resolved(ctx, r, fake("a"))
					if text := fmt.Sprint(got, err); !strings.Contains(text, want) {
						t.Errorf("%s; want %s", text, want)
					}
				}
				resolve(firstAddr)
				time.Sleep(2 * time.Hour) // an answer that is old because nothing changes is not stale
				resolve(firstAddr)
				if failure == nil {
					return
				}
				for range 2 { // a recovery starts it anew
					source.set("a", failure)
					time.Sleep(time.Hour - time.Minute)
					resolve(firstAddr)
					source.set("a", serving(firstAddr))
					time.Sleep(time.Minute) // more than a backoff
					resolve(firstAddr)
				}
				source.set("a", failure)
				time.Sleep(time.Hour + time.Second)
				resolve("registry is down")
				source.set("a", serving(firstAddr))
				time.Sleep(time.Minute)
				resolve(firstAddr)
			})
			if failure == nil {
				return
			}
			for _, want := range []string{
				`msg="source failed; the last answer stays" target=fake://a error="registry is down" endpoints=1 last_answer_age=`,
				`msg="the last answer is too old and no longer counts" target=fake://a failing_for=1h0m0s max_stale=1h0m0s`,
				`msg="source is well again" target=fake://a after=`,
			} {
				if !strings.Contains(log.String(), want) {
					t.Errorf("the log lacks %s:\n%s", want, log.String())
				}
			}
			if n := strings.Count(log.String(), "level=WARN"); n != 4 {
				t.Errorf("%d warnings; want one for each of 3 outages, and one for the limit:\n%s", n, log.String())
			}
		})
	}
}

// A source that says itself that it fails is not asked again, and an error of its
// own making stays the answer for as long as it says nothing else.
func TestStandingFailure(t *testing.T) {
	chained(t, Options{}, func(ctx context.Context, r *Resolver, source *scripted) {
		source.set("a", Answer{Err: errors.New("line 3, column 5")})
		for range 3 {
			begin := time.Now()
			if _, err := resolved(ctx, r, fake("a")); err == nil || !strings.Contains(err.Error(), "line 3, column 5") || time.Since(begin) != 0 {
				t.Errorf("Resolve = %v after %s; want the source's failure at once", err, time.Since(begin))
			}
			time.Sleep(time.Minute)
		}
		source.set("a", serving(firstAddr))
		synctest.Wait()
		if got, err := resolved(ctx, r, fake("a")); err != nil || len(got) != 1 {
			t.Errorf("Resolve = %v, %v; want the endpoint", got, err)
		}
		if n := source.calls(fakeQuery("a")); n != 1 {
			t.Errorf("watched %d times; want once", n)
		}
	})
}

// A burst of changes is one to those who wait; what they find is the last of them.
func TestBurstWakesOnce(t *testing.T) {
	burst := make(chan struct{})
	source := &fakeSource{watch: func(ctx context.Context, _ Query, publish func(Answer)) error {
		publish(serving("10.0.0.1:1"))
		<-burst
		for port := 2; port <= 1000; port++ {
			publish(serving(fmt.Sprintf("10.0.0.1:%d", port)))
		}
		<-ctx.Done()
		return nil
	}}
	synctest.Test(t, func(t *testing.T) {
		burst = make(chan struct{})
		r := New(map[string]Source{"fake": source}, Options{})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = r.Run(ctx) })
		began := time.Now()
		var seen []string
		wg.Go(func() {
			_ = r.Watch(ctx, fake("a"), func(s Status) {
				seen = append(seen, fmt.Sprint(s.Endpoints, " after ", time.Since(began)))
			})
		})
		synctest.Wait()
		time.Sleep(5 * time.Millisecond) // within the first answer's own pause
		close(burst)
		synctest.Wait()
		if got, err := resolved(ctx, r, fake("a")); err != nil || got[0].Addr.Port() != 1000 {
			t.Errorf("within the burst a connection gets %v, %v; want the last answer", got, err)
		}
		time.Sleep(time.Second)
		cancel()
		wg.Wait()
		if want := "[10.0.0.1:1] after 0s, [10.0.0.1:1000] after 10ms"; strings.Join(seen, ", ") != want {
			t.Errorf("told of %q; want %s", seen, want)
		}
	})
}

// Thousands of watches that start at once ask some questions at a time; one that a
// connection waits for does not queue, and those that hang make room.
func TestFirstQuestionsAreSpread(t *testing.T) {
	const watches, atOnce = 1000, 10
	var mu sync.Mutex
	open, most := 0, 0
	ask := func(d int) {
		mu.Lock()
		defer mu.Unlock()
		open += d
		most = max(most, open)
	}
	source := &fakeSource{watch: func(ctx context.Context, q Query, publish func(Answer)) error {
		if q.Host == "hung" {
			<-ctx.Done()
			return nil
		}
		ask(1)
		time.Sleep(10 * time.Millisecond)
		ask(-1)
		return hold(ctx, publish, endpoint(firstAddr))
	}}
	inBubbleWith(t, Options{Asking: atOnce}, source, func(ctx context.Context, r *Resolver) {
		var targets []Target
		for i := range watches {
			targets = append(targets, fake(fmt.Sprint("host", i)))
		}
		begin := time.Now()
		r.Keep(targets)
		time.Sleep(15 * time.Millisecond)
		if _, err := resolved(ctx, r, fake("urgent")); err != nil || time.Since(begin) != 25*time.Millisecond {
			t.Errorf("a connection's own question: %v after %s; want an answer after 10ms of its own", err, time.Since(begin))
		}
		time.Sleep(2 * time.Second)
		for _, target := range targets {
			begin := time.Now()
			if _, err := resolved(ctx, r, target); err != nil || time.Since(begin) != 0 {
				t.Fatalf("%s: %v after %s; want it warm", target, err, time.Since(begin))
			}
		}
		if most != atOnce+1 {
			t.Errorf("%d questions were open at once; want %d and the urgent one", most, atOnce)
		}
	})
}

func TestHungQuestionsMakeRoom(t *testing.T) {
	source := &fakeSource{watch: func(ctx context.Context, q Query, publish func(Answer)) error {
		if strings.HasPrefix(q.Host, "hung") {
			<-ctx.Done()
			return nil
		}
		return hold(ctx, publish, endpoint(firstAddr))
	}}
	inBubbleWith(t, Options{Asking: 2}, source, func(ctx context.Context, r *Resolver) {
		r.Keep([]Target{fake("hung1", "hung2")})
		synctest.Wait()
		r.Keep([]Target{fake("hung1", "hung2", "well")})
		time.Sleep(time.Second + time.Millisecond)
		if n := source.calls(fakeQuery("well")); n != 1 {
			t.Errorf("behind two hung questions another was asked %d times after a second; want once", n)
		}
	})
}

// A failed target that a connection waits for is asked at once, though others that
// hang have taken every turn.
func TestUrgentRetryDoesNotQueue(t *testing.T) {
	source := &fakeSource{}
	source.watch = func(ctx context.Context, q Query, publish func(Answer)) error {
		switch {
		case strings.HasPrefix(q.Host, "hung"):
			<-ctx.Done()
			return nil
		case source.calls(q) == 1:
			return errors.New("refused")
		}
		return hold(ctx, publish, endpoint(firstAddr))
	}
	inBubbleWith(t, Options{Asking: 1, BackoffMin: time.Hour, BackoffMax: time.Hour}, source, func(ctx context.Context, r *Resolver) {
		if _, err := resolved(ctx, r, fake("a")); err == nil {
			t.Fatal("the first attempt did not fail")
		}
		time.Sleep(2 * time.Second)
		r.Keep([]Target{fake("hung1")})
		synctest.Wait()
		begin := time.Now()
		if got, err := resolved(ctx, r, fake("a")); err != nil || len(got) != 1 || time.Since(begin) != 0 {
			t.Errorf("Resolve = %v, %v after %s; want the endpoint at once", got, err, time.Since(begin))
		}
	})
}

// Everything at once, for the race detector: answers, failures, outdated ones,
// connections, and watches that stop.
func TestAllAtOnce(t *testing.T) {
	source := &fakeSource{watch: func(ctx context.Context, q Query, publish func(Answer)) error {
		for i := 0; ctx.Err() == nil && i < 50; i++ {
			publish(serving(fmt.Sprintf("10.0.0.1:%d", i+1)))
			if i%5 == 4 {
				publish(Answer{Err: errors.New("standing")})
			}
			time.Sleep(time.Millisecond)
		}
		return errors.New("over")
	}}
	r := New(map[string]Source{"fake": source}, Options{
		MaxStale: time.Millisecond, Debounce: 3 * time.Millisecond, IdleAfter: 20 * time.Millisecond,
		BackoffMin: time.Millisecond, BackoffMax: 4 * time.Millisecond, NegativeFor: time.Millisecond, Asking: 2,
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	long := time.After(500 * time.Millisecond)
	var wg sync.WaitGroup
	wg.Go(func() { _ = r.Run(ctx) })
	wg.Go(func() { _ = r.Watch(ctx, chain("a", "b"), func(Status) {}) })
	served := make(chan struct{})
	serve := sync.OnceFunc(func() { close(served) })
	for i := range 4 {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				got, err := resolved(ctx, r, chain(fmt.Sprint("host", n%7), "b"))
				if err == nil && len(got) != 1 {
					t.Errorf("Resolve = %v without an error", got)
				}
				if i == 0 && err == nil {
					serve()
				}
				if n%100 == 0 {
					r.Keep([]Target{fake("a"), fake(fmt.Sprint("host", n%3))})
				}
			}
		})
	}
	<-long // enough for all of it to meet
	select {
	case <-served:
	case <-ctx.Done():
		t.Error("nothing was ever resolved")
	}
	cancel()
	wg.Wait()
}

func TestLeftOutIsBounded(t *testing.T) {
	chained(t, Options{}, func(ctx context.Context, r *Resolver, source *scripted) {
		source.set("a", Answer{LeftOut: make([]LeftOut, 1000), Note: "x"})
		_, err := resolved(ctx, r, fake("a"))
		var none *NoEndpointsError
		if !errors.As(err, &none) || len(none.LeftOut) != MaxLeftOut || none.Notes[0] != "x; 900 more are left out" {
			t.Errorf("Resolve = %v; want %d left out and a note of the rest", err, MaxLeftOut)
		}
	})
}

// An outage under many watches is told of in a few lines, and so is its end; how many
// more there were is told a second later, or when the Resolver ends.
func TestOutageOfManyIsFewLines(t *testing.T) {
	const watches = 2000
	var log bytes.Buffer
	options := Options{Log: slog.New(slog.NewTextHandler(&log, nil)), Asking: watches}
	chained(t, options, func(_ context.Context, r *Resolver, source *scripted) {
		var hosts []string
		for i := range watches {
			hosts = append(hosts, fmt.Sprint("host", i))
			source.says[hosts[i]] = Answer{Err: fmt.Errorf("asking for host%d: refused", i)} // each in other words
		}
		step := func() {
			synctest.Wait()
			options.Log.Info("step")
		}
		r.Keep([]Target{fake(hosts...)})
		step()
		time.Sleep(burstlog.Time)
		step()
		time.Sleep(time.Hour)
		step()
		source.mu.Lock()
		for _, host := range hosts {
			source.says[host] = serving(firstAddr)
		}
		source.mu.Unlock()
		source.set(hosts[0], serving(firstAddr)) // wakes all
		step()
	})
	steps := strings.Split(log.String(), "msg=step\n")
	for i, want := range []struct {
		lines int
		line  string
	}{
		{burstlog.Lines, `level=WARN msg="source failed" target=fake://host`},
		{1, fmt.Sprintf(`level=WARN msg="source failed, for more targets" scheme=fake more=%d`, watches-burstlog.Lines)},
		{},
		{burstlog.Lines, `level=INFO msg="source is well again" target=fake://host`},
		{1, fmt.Sprintf(`level=INFO msg="source is well again, for more targets" scheme=fake more=%d`, watches-burstlog.Lines)}, // as the Resolver ended
	} {
		if n := strings.Count(steps[i], "\n"); n != want.lines || n > 0 && strings.Count(steps[i], want.line) != n {
			t.Errorf("step %d: %d lines, want %d with %s:\n%.2000s", i, n, want.lines, want.line, steps[i])
		}
	}
}
