package resolver

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"
)

// scripted is a source whose answer to each host the test changes: an Answer, or
// an error with which Watch ends. A host that it has nothing of hangs.
type scripted struct {
	fakeSource

	mu      sync.Mutex
	says    map[string]any
	changed chan struct{}
}

func (s *scripted) set(host string, says any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.says[host] = says
	close(s.changed)
	s.changed = make(chan struct{})
}

// chained runs test in a bubble, with a Resolver over a source that knows nothing.
func chained(t *testing.T, options Options, test func(ctx context.Context, r *Resolver, source *scripted)) {
	t.Helper()
	source := &scripted{says: map[string]any{}}
	source.watch = source.follow
	inBubbleWith(t, options, source, func(ctx context.Context, r *Resolver) {
		source.changed = make(chan struct{}) // it belongs to the bubble
		test(ctx, r, source)
	})
}

func (s *scripted) follow(ctx context.Context, q Query, publish func(Answer)) error {
	var last *Answer
	for {
		s.mu.Lock()
		says, changed := s.says[q.Host], s.changed
		s.mu.Unlock()
		switch says := says.(type) {
		case error:
			return says
		case Answer:
			if last == nil || !sameAnswer(*last, says) {
				publish(says)
				last = &says
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

func sameAnswer(a, b Answer) bool {
	return len(a.Endpoints) == len(b.Endpoints) && (len(a.Endpoints) == 0 || a.Endpoints[0] == b.Endpoints[0]) && errors.Is(a.Err, b.Err)
}

func serving(addr string) Answer { return Answer{Endpoints: []Endpoint{endpoint(addr)}} }

const (
	firstAddr  = "10.0.0.1:80"
	secondAddr = "10.0.0.2:80"
)

// TestChain resolves "first | second" while the two are in one state after the
// other, each connection a second after the one before.
func TestChain(t *testing.T) {
	down := errors.New("registry is down")
	type step struct {
		first, second any // nil: as before; a state that was never given is a source that hangs
		want          string
		took          time.Duration
	}
	for name, steps := range map[string][]step{
		"the first has endpoints": {{serving(firstAddr), serving(secondAddr), firstAddr, 0}},
		"the first is empty, and comes back": {
			{Answer{}, serving(secondAddr), secondAddr, 0},
			{serving(firstAddr), nil, firstAddr, 0},
			{Answer{}, nil, secondAddr, 0},
		},
		"the first has failed with nothing known": {{down, serving(secondAddr), secondAddr, 0}},
		"the first's last answer outlives its source": {
			{serving(firstAddr), serving(secondAddr), firstAddr, 0},
			{Answer{Err: down}, nil, firstAddr, 0},
		},
		"the first fails with nothing known, and comes back": {
			{Answer{Err: down}, serving(secondAddr), secondAddr, 0},
			{serving(firstAddr), nil, firstAddr, 0},
		},
		"the first has not answered: it is waited for once": {
			{nil, serving(secondAddr), secondAddr, 5 * time.Second},
			{nil, nil, secondAddr, 0},
			{serving(firstAddr), nil, firstAddr, 0},
		},
		"nobody serves": {{Answer{}, Answer{}, "no endpoints", 0}},
		"one fails and the other is empty": {
			{down, Answer{}, "registry is down", 0},
		},
		"both hang": {{nil, nil, "no answer for fake://second within 5s", 5 * time.Second}},
	} {
		t.Run(name, func(t *testing.T) {
			chained(t, Options{}, func(ctx context.Context, r *Resolver, source *scripted) {
				for i, s := range steps {
					if s.first != nil {
						source.set("first", s.first)
					}
					if s.second != nil {
						source.set("second", s.second)
					}
					time.Sleep(500 * time.Millisecond)
					begin := time.Now()
					got, err := resolved(ctx, r, chain("first", "second"))
					took := time.Since(begin)
					switch {
					case err != nil && !strings.Contains(err.Error(), s.want), err == nil && (len(got) != 1 || got[0].String() != s.want):
						t.Errorf("step %d: %v, %v; want %s", i, got, err, s.want)
					case took != s.took:
						t.Errorf("step %d: took %s; want %s", i, took, s.took)
					}
				}
			})
		})
	}
}

// A connection makes a failed source be asked again and gives it a grace; one that
// hangs costs that once, and is returned to as soon as it answers.
func TestChainAsksAFailedChoiceAgain(t *testing.T) {
	chained(t, Options{BackoffMin: time.Hour, BackoffMax: time.Hour}, func(ctx context.Context, r *Resolver, source *scripted) {
		source.set("first", errors.New("registry is down"))
		source.set("second", serving(secondAddr))
		for _, step := range []struct {
			first any
			after time.Duration
			want  string
			took  time.Duration
		}{
			{nil, 0, secondAddr, 0},
			{struct{}{}, 2 * time.Second, secondAddr, 100 * time.Millisecond}, // asked again, and now it hangs
			{nil, time.Second, secondAddr, 0},
			{serving(firstAddr), time.Second, firstAddr, 0},
		} {
			if step.first != nil {
				source.set("first", step.first)
			}
			time.Sleep(step.after)
			begin := time.Now()
			got, err := resolved(ctx, r, chain("first", "second"))
			if took := time.Since(begin); err != nil || len(got) != 1 || got[0].String() != step.want || took != step.took {
				t.Errorf("%v, %v after %s; want %s after %s", got, err, took, step.want, step.took)
			}
		}
	})
}

func TestChainKeepsAllChoicesWarm(t *testing.T) {
	chained(t, Options{}, func(ctx context.Context, r *Resolver, source *scripted) {
		source.set("first", serving(firstAddr))
		source.set("second", serving(secondAddr))
		for range 5 {
			if _, err := resolved(ctx, r, chain("first", "second")); err != nil {
				t.Fatal(err)
			}
			time.Sleep(9 * time.Minute) // not idle for long enough to be given up
		}
		source.set("first", Answer{})
		time.Sleep(time.Second)
		if got, err := resolved(ctx, r, chain("first", "second")); err != nil || got[0].String() != secondAddr {
			t.Errorf("Resolve = %v, %v; want the second's endpoint", got, err)
		}
		for _, host := range []string{"first", "second"} {
			if n := source.calls(fakeQuery(host)); n != 1 {
				t.Errorf("%s was watched %d times; want once, all the while", host, n)
			}
		}
	})
}
