package docker

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/resolver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeContainers is a Watcher whose snapshots the test sets.
type fakeContainers struct {
	mu      sync.Mutex
	current *dockerd.Snapshot
	changed chan struct{}
	err     error
}

func newFakeContainers() *fakeContainers { return &fakeContainers{changed: make(chan struct{})} }

func (f *fakeContainers) set(containers ...*dockerd.Container) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.current = dockerd.NewSnapshot(containers...)
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *fakeContainers) Wait(ctx context.Context, after *dockerd.Snapshot) (*dockerd.Snapshot, error) {
	for {
		f.mu.Lock()
		current, changed := f.current, f.changed
		f.mu.Unlock()
		if current != nil && current != after {
			return current, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (f *fakeContainers) Err() error     { return f.err }
func (*fakeContainers) Endpoint() string { return "unix:///fake.sock" }

func TestWatchPublishesChangesOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeContainers()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var answers []resolver.Answer
		ended := make(chan error, 1)
		go func() {
			ended <- New(f, Options{}).Watch(ctx, parseQuery(t, "web:80"), func(a resolver.Answer) { answers = append(answers, a) })
		}()
		// published waits until Watch waits again, and takes what it published.
		published := func() []resolver.Answer {
			synctest.Wait()
			defer func() { answers = nil }()
			return answers
		}
		if got := published(); got != nil {
			t.Fatalf("published %v before any snapshot", got)
		}
		f.set()
		if got := published(); len(got) != 1 || got[0].Note == "" || got[0].Endpoints != nil {
			t.Fatalf("published %v, want one empty answer with a note", got)
		}
		f.set(container("web", "bridge=172.17.0.2"))
		if got := published(); len(got) != 1 || !slices.Equal(texts(got[0]), []string{"172.17.0.2:80 web"}) {
			t.Fatalf("published %v, want web", got)
		}
		f.set(container("web", "bridge=172.17.0.2"), container("other", "bridge=172.17.0.3"))
		if got := published(); got != nil {
			t.Fatalf("published %v, want nothing: web did not change", got)
		}
		time.Sleep(time.Hour) // of the bubble's clock: the first-snapshot timeout is over
		f.set(with(container("web", "bridge=172.17.0.2"), func(c *dockerd.Container) { c.Health = "unhealthy" }))
		if got := published(); len(got) != 1 || got[0].Note != "1 left out: web is unhealthy" || got[0].Endpoints != nil {
			t.Fatalf("published %v, want none and why", got)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Watch: %v, want nil once its context has ended", err)
		}
	})
}

func TestWatchFailsWithoutFirstSnapshot(t *testing.T) {
	away := hint.Errorf("start it", "docker engine at unix:///fake.sock: gone")
	for _, tt := range []struct {
		name, hint string
		err        error
	}{
		{name: "engine away", err: away, hint: "start it"},
		{name: "engine hangs", hint: "is the engine running? Try: docker -H unix:///fake.sock ps"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFakeContainers()
				f.err = tt.err
				began := time.Now()
				err := New(f, Options{}).Watch(t.Context(), parseQuery(t, "web:80"), func(a resolver.Answer) { t.Errorf("published %v", a) })
				if took := time.Since(began); took != firstTimeout {
					t.Errorf("failed after %v, want %v", took, firstTimeout)
				}
				if err == nil || !strings.Contains(err.Error(), "unix:///fake.sock") || hint.Of(err) != tt.hint {
					t.Errorf("Watch: %v (%s), want the endpoint and hint %q", err, hint.Of(err), tt.hint)
				}
				if tt.err != nil && !errors.Is(err, tt.err) {
					t.Errorf("Watch: %v, want it to wrap %v", err, tt.err)
				}
			})
		})
	}
}

func TestWatchEndsBeforeFirstSnapshot(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := New(newFakeContainers(), Options{}).Watch(ctx, parseQuery(t, "web:80"), func(resolver.Answer) {}); err != nil {
		t.Errorf("Watch: %v, want nil", err)
	}
}

func TestWatchRefusesWhatCheckRefuses(t *testing.T) {
	if err := New(newFakeContainers(), Options{}).Watch(t.Context(), parseQuery(t, "web"), func(resolver.Answer) {}); err == nil {
		t.Error("Watch: nil, want an error")
	}
}
