package resolver

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/ambassadord/ambassadord/internal/hint"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeSource is told by the test what to say to each query.
type fakeSource struct {
	mu      sync.Mutex
	watches map[Query]int                                                  // Watch calls so far
	watch   func(ctx context.Context, q Query, publish func(Answer)) error // what each call does
}

func (s *fakeSource) Check(q Query) error {
	if q.Host == "bad" {
		return hint.Errorf("name another", "host %q is bad", q.Host)
	}
	return nil
}

func (s *fakeSource) Watch(ctx context.Context, q Query, publish func(Answer)) error {
	s.mu.Lock()
	if s.watches == nil {
		s.watches = map[Query]int{}
	}
	s.watches[q]++
	s.mu.Unlock()
	return s.watch(ctx, q, publish)
}

func (s *fakeSource) calls(q Query) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.watches[q]
}

func endpoint(text string) Endpoint { return Endpoint{Addr: netip.MustParseAddrPort(text)} }

func fakeQuery(host string) Query { return Query{Scheme: "fake", Host: host} }

// fake is a target of one choice, a list of hosts.
func fake(hosts ...string) Target { return Target{Choices: []Choice{fakeChoice(hosts...)}} }

func fakeChoice(hosts ...string) Choice {
	var c Choice
	for _, h := range hosts {
		c.Queries = append(c.Queries, fakeQuery(h))
	}
	return c
}

// chain is a target with a choice for each host.
func chain(hosts ...string) Target {
	var t Target
	for _, h := range hosts {
		t.Choices = append(t.Choices, fakeChoice(h))
	}
	return t
}

// hold publishes endpoints and waits for ctx.
func hold(ctx context.Context, publish func(Answer), endpoints ...Endpoint) error {
	publish(Answer{Endpoints: endpoints})
	<-ctx.Done()
	return nil
}

// inBubble runs test with a running Resolver over source (for the schemes "fake"
// and "dns"), in fake time.
func inBubble(t *testing.T, source Source, test func(ctx context.Context, r *Resolver)) {
	t.Helper()
	inBubbleWith(t, Options{}, source, test)
}

func inBubbleWith(t *testing.T, options Options, source Source, test func(ctx context.Context, r *Resolver)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := New(map[string]Source{"fake": source, SchemeDNS: source}, options)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = r.Run(ctx) }()
		test(ctx, r)
		cancel()
		<-done
	})
}

func TestOneWatchForAllWhoAsk(t *testing.T) {
	source := &fakeSource{watch: func(ctx context.Context, _ Query, publish func(Answer)) error {
		time.Sleep(time.Second) // so that all of them wait for the same first answer
		return hold(ctx, publish, endpoint("10.0.0.1:80"))
	}}
	inBubble(t, source, func(ctx context.Context, r *Resolver) {
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				if got, err := resolved(ctx, r, fake("a")); err != nil || len(got) != 1 {
					t.Errorf("Resolve = %v, %v; want one endpoint", got, err)
				}
			})
		}
		wg.Wait()
		if n := source.calls(fakeQuery("a")); n != 1 {
			t.Errorf("the source was watched %d times for 100 connections; want once", n)
		}
	})
}

// onceAnswered is a source that has answered once, and fails since.
func onceAnswered() *fakeSource {
	source := &fakeSource{}
	source.watch = func(_ context.Context, q Query, publish func(Answer)) error {
		if source.calls(q) == 1 {
			publish(Answer{Endpoints: []Endpoint{endpoint("10.0.0.1:80")}})
		}
		return errors.New("registry is down")
	}
	return source
}

func TestLastAnswerOutlivesItsSource(t *testing.T) {
	source := onceAnswered()
	inBubble(t, source, func(ctx context.Context, r *Resolver) {
		for range 3 {
			got, err := resolved(ctx, r, fake("a"))
			if err != nil || len(got) != 1 {
				t.Fatalf("Resolve during an outage = %v, %v; want the last answer", got, err)
			}
			time.Sleep(9 * time.Minute) // not idle for long enough to be given up
		}
	})
}

func TestEmptyAnswerIsAnAnswer(t *testing.T) {
	source := &fakeSource{watch: func(ctx context.Context, _ Query, publish func(Answer)) error {
		publish(Answer{Note: "nobody is registered"})
		<-ctx.Done()
		return nil
	}}
	inBubble(t, source, func(ctx context.Context, r *Resolver) {
		begin := time.Now()
		_, err := resolved(ctx, r, fake("a"))
		var none *NoEndpointsError
		if !errors.As(err, &none) || !strings.Contains(err.Error(), "nobody is registered") {
			t.Errorf("Resolve = %v; want a NoEndpointsError with the source's note", err)
		}
		if d := time.Since(begin); d != 0 {
			t.Errorf("an empty answer took %s; want none", d)
		}
	})
}

func TestHungSourceCostsOnlyItsOwnTimeout(t *testing.T) {
	source := &fakeSource{watch: func(ctx context.Context, q Query, publish func(Answer)) error {
		if q.Host == "hung" {
			<-ctx.Done()
			return nil
		}
		return hold(ctx, publish, endpoint("10.0.0.1:80"))
	}}
	inBubble(t, source, func(ctx context.Context, r *Resolver) {
		begin := time.Now()
		_, err := resolved(ctx, r, fake("hung"))
		if d := time.Since(begin); err == nil || d != 5*time.Second || !strings.Contains(err.Error(), "no answer for fake://hung within 5s") {
			t.Errorf("a hung source: %v after %s; want it named after 5s", err, d)
		}
		begin = time.Now()
		if _, err := resolved(ctx, r, fake("well")); err != nil || time.Since(begin) != 0 {
			t.Errorf("beside it: %v after %s; want an answer at once", err, time.Since(begin))
		}
		list := fake("hung", "well")
		begin = time.Now()
		got, err := resolved(ctx, r, list)
		if d := time.Since(begin); err != nil || len(got) != 1 || d != 100*time.Millisecond {
			t.Errorf("a list of both = %v, %v after %s; want the well one's after the grace of 100ms", got, err, d)
		}
	})
}

func TestFailureIsRememberedBrieflyAndThenAskedAgain(t *testing.T) {
	source := &fakeSource{}
	var well atomic.Int64 // the attempt that is answered
	well.Store(math.MaxInt64)
	source.watch = func(ctx context.Context, q Query, publish func(Answer)) error {
		if n := source.calls(q); int64(n) < well.Load() {
			return fmt.Errorf("refused, attempt %d", n)
		}
		return hold(ctx, publish, endpoint("10.0.0.1:80"))
	}
	inBubble(t, source, func(ctx context.Context, r *Resolver) {
		if _, err := resolved(ctx, r, fake("a")); err == nil || !strings.Contains(err.Error(), "refused, attempt 1") {
			t.Fatalf("Resolve = %v; want the source's failure", err)
		}
		time.Sleep(10 * time.Second) // backing off: 250 ms, 500 ms, … less jitter
		before := source.calls(fakeQuery("a"))
		if before < 6 || before > 13 {
			t.Fatalf("%d attempts in 10 s; want a doubling backoff's 6 to 13", before)
		}
		// The pause is two seconds long by now; a connection does not wait for its end.
		well.Store(int64(before) + 5)
		begin := time.Now()
		for time.Since(begin) < 30*time.Second {
			if _, err := resolved(ctx, r, fake("a")); err == nil {
				break
			}
			time.Sleep(1100 * time.Millisecond)
		}
		if d := time.Since(begin); d > 6*time.Second {
			t.Errorf("recovered after %s; want a connection to make the source be asked anew each second", d)
		}
	})
}

func TestPanickingSourceIsAFailure(t *testing.T) {
	source := &fakeSource{watch: func(context.Context, Query, func(Answer)) error { panic("hostile answer") }}
	inBubble(t, source, func(ctx context.Context, r *Resolver) {
		if _, err := resolved(ctx, r, fake("a")); err == nil || !strings.Contains(err.Error(), "hostile answer") {
			t.Errorf("Resolve = %v; want the panic as an error", err)
		}
	})
}

func TestNamesAreLookedUpThroughDNS(t *testing.T) {
	source := &fakeSource{watch: func(ctx context.Context, q Query, publish func(Answer)) error {
		if q.Scheme == SchemeDNS {
			return hold(ctx, publish, endpoint("10.0.0.1:6380"), endpoint("10.0.0.2:6380"))
		}
		return hold(ctx, publish, Endpoint{Host: "Redis.example", Port: 6380, Priority: 3, Weight: 7, Name: "redis-a"}, endpoint("10.0.0.1:6380"))
	}}
	inBubble(t, source, func(ctx context.Context, r *Resolver) {
		got, err := resolved(ctx, r, fake("a"))
		if err != nil || len(got) != 2 {
			t.Fatalf("Resolve = %v, %v; want the name's two addresses, each once", got, err)
		}
		for _, e := range got {
			if e.Name != "redis-a" || e.Priority != 3 || e.Weight != 7 {
				t.Errorf("endpoint %+v; want the registry's name, priority and weight kept", e)
			}
		}
		if n := source.calls(Query{Scheme: SchemeDNS, Host: "redis.example", Port: 6380}); n != 1 {
			t.Errorf("the name was watched %d times; want once", n)
		}
	})
}

func TestIdleWatchStopsAndKeptOneStays(t *testing.T) {
	source := &fakeSource{watch: func(ctx context.Context, _ Query, publish func(Answer)) error {
		return hold(ctx, publish, endpoint("10.0.0.1:80"))
	}}
	inBubble(t, source, func(ctx context.Context, r *Resolver) {
		r.Keep([]Target{fake("kept")})
		synctest.Wait()
		if n := source.calls(fakeQuery("kept")); n != 1 {
			t.Fatalf("a declared target was watched %d times before the first connection; want once", n)
		}
		for _, host := range []string{"kept", "idle"} {
			if _, err := resolved(ctx, r, fake(host)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Hour)
		for host, want := range map[string]int{"kept": 1, "idle": 2} {
			if _, err := resolved(ctx, r, fake(host)); err != nil {
				t.Fatal(err)
			}
			if n := source.calls(fakeQuery(host)); n != want {
				t.Errorf("%s was watched %d times; want %d", host, n, want)
			}
		}
		r.Keep(nil)
		time.Sleep(time.Hour)
		if _, err := resolved(ctx, r, fake("kept")); err != nil {
			t.Fatal(err)
		}
		if n := source.calls(fakeQuery("kept")); n != 2 {
			t.Errorf("a target that is no longer declared was watched %d times; want its watch to have stopped and one more", n)
		}
	})
}

func TestWatchReportsEachChangeOnce(t *testing.T) {
	step := make(chan Answer)
	source := &fakeSource{watch: func(ctx context.Context, _ Query, publish func(Answer)) error {
		for {
			select {
			case a := <-step:
				publish(a)
			case <-ctx.Done():
				return nil
			}
		}
	}}
	synctest.Test(t, func(t *testing.T) {
		step = make(chan Answer)
		r := New(map[string]Source{"fake": source}, Options{})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = r.Run(ctx) })
		var seen []string
		wg.Go(func() {
			_ = r.Watch(ctx, fake("a"), func(s Status) {
				seen = append(seen, fmt.Sprint(s.Endpoints, s.Err != nil))
			})
		})
		one := Answer{Endpoints: []Endpoint{endpoint("10.0.0.1:80")}}
		two := Answer{Endpoints: []Endpoint{endpoint("10.0.0.2:80"), endpoint("10.0.0.1:80")}}
		for _, a := range []Answer{one, one, two, {}, {}, one} {
			step <- a
			time.Sleep(time.Second) // each change is a burst of its own
		}
		cancel()
		wg.Wait()
		want := []string{"[10.0.0.1:80] false", "[10.0.0.1:80 10.0.0.2:80] false", "[] true", "[10.0.0.1:80] false"}
		if !slices.Equal(seen, want) {
			t.Errorf("reported %q; want %q", seen, want)
		}
	})
}

func TestParseAsksTheSource(t *testing.T) {
	r := New(map[string]Source{"fake": &fakeSource{}, "consul": &fakeSource{}}, Options{})
	if _, err := r.Parse("fake://good"); err != nil {
		t.Errorf("Parse of a good target: %v", err)
	}
	for text, want := range map[string]string{
		"fake://bad":     "name another",
		"faek://good":    "did you mean fake://?",
		"zookeeper:///x": "the schemes are [consul fake]",
	} {
		if _, err := r.Parse(text); hint.Of(err) != want {
			t.Errorf("Parse(%q) = %v with hint %q; want the hint %q", text, err, hint.Of(err), want)
		}
	}
}
