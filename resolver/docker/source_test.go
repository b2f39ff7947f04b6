package docker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
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
	"github.com/ambassadord/ambassadord/resolver/sourcetest"
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

// fail sets why the engine is away; nil for one that is back.
func (f *fakeContainers) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *fakeContainers) Changed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}

func (f *fakeContainers) Snapshot() *dockerd.Snapshot {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.current
}

func (f *fakeContainers) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

func (*fakeContainers) Endpoint() string { return "unix:///fake.sock" }

func TestConformance(t *testing.T) {
	f := newFakeContainers()
	serve := func(_ testing.TB, endpoints ...string) {
		containers := []*dockerd.Container{container("other", "bridge=172.17.0.9")}
		for i, e := range endpoints {
			addr := netip.MustParseAddrPort(e).Addr().String()
			containers = append(containers, labelled(container(fmt.Sprint("web-", i), "bridge="+addr), "app=web"))
		}
		f.set(containers...)
	}
	const one, two = "172.17.0.2:80", "172.17.0.3:80"
	serve(t, one)
	sourcetest.Run(t, sourcetest.Case{
		New:         func(testing.TB) (resolver.Source, func()) { return New(f, everywhere), nil },
		Query:       parseQuery(t, "?label=app=web&port=80"),
		Want:        []string{one},
		Change:      func(t testing.TB) { serve(t, two) },
		WantChanged: []string{two},
		Control: sourcetest.Control{
			Set: serve, Port: 80,
			Break: func(testing.TB) { f.fail(hint.Errorf("start it", "docker engine at unix:///fake.sock: gone")) },
			Mend:  func(testing.TB) { f.fail(nil) },
		},
	})
}

// An engine that is lost is told, and so is that it is back, with nothing else
// changed; meanwhile a new watch gets what was known.
func TestWatchTellsOfTheEnginesLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeContainers()
		f.set(container("web", "bridge=172.17.0.2"))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		watch := func() (published func() string) {
			var said []string
			go func() {
				_ = New(f, everywhere).Watch(ctx, parseQuery(t, "web:80"), func(a resolver.Answer) {
					said = append(said, fmt.Sprint(a.Endpoints, a.Err))
				})
			}()
			return func() string {
				synctest.Wait()
				defer func() { said = nil }()
				return strings.Join(said, ", ")
			}
		}
		const up, down = "[172.17.0.2:80] <nil>", "[] gone"
		published := watch()
		for i, step := range []struct {
			err  error
			want string
		}{{nil, up}, {errors.New("gone"), down}, {errors.New("still gone"), ""}, {nil, up}} {
			f.fail(step.err)
			if got := published(); got != step.want {
				t.Errorf("step %d: published %q; want %q", i, got, step.want)
			}
		}
		f.fail(errors.New("gone"))
		if got := watch()(); got != up+", "+down {
			t.Errorf("a new watch meanwhile published %q; want what is known and that it may be old", got)
		}
		cancel()
		synctest.Wait()
	})
}

func TestWatchPublishesChangesOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeContainers()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var answers []resolver.Answer
		ended := make(chan error, 1)
		go func() {
			ended <- New(f, everywhere).Watch(ctx, parseQuery(t, "web:80"), func(a resolver.Answer) { answers = append(answers, a) })
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
		if got := published(); len(got) != 1 || said(got[0]) != "1 left out: web is unhealthy" || got[0].Endpoints != nil {
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
				err := New(f, everywhere).Watch(t.Context(), parseQuery(t, "web:80"), func(a resolver.Answer) { t.Errorf("published %v", a) })
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

func TestEngineOnOurHost(t *testing.T) {
	s := New(newFakeContainers(), Options{})
	for endpoint, want := range map[string]bool{
		"unix:///var/run/docker.sock":       true,
		"tcp://127.0.0.1:2375":              true,
		"tcp://localhost:2375":              true,
		"tcp://[::ffff:127.0.0.1]:2375":     true,
		"tcp://192.0.2.1:2375":              false,
		"tcp://build.invalid:2375":          false,
		"tcp://ip6-localhost:2375":          inHosts(t, "ip6-localhost"),
		"tcp://[2001:db8::7]:2375":          false,
		"tcp://" + someAddress(t) + ":2375": true,
	} {
		if got := s.isHere(t.Context(), remoteHost(endpoint)); got != want {
			t.Errorf("%s: on our host %v; want %v", endpoint, got, want)
		}
	}
}

// inHosts reports whether /etc/hosts knows name.
func inHosts(t *testing.T, name string) bool {
	t.Helper()
	text, err := os.ReadFile("/etc/hosts")
	return err == nil && slices.Contains(strings.Fields(string(text)), name)
}

// someAddress is one of this host that is not a loopback, or 127.0.0.1 if there is
// none.
func someAddress(t *testing.T) string {
	t.Helper()
	ours, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range ours {
		if p := netip.MustParsePrefix(a.String()); p.Addr().Is4() && !p.Addr().IsLoopback() {
			return p.Addr().String()
		}
	}
	return "127.0.0.1"
}

// TestAdviceOnNamesOfContainers: what DNS does not give may be a container's name, or a service's.
func TestAdviceOnNamesOfContainers(t *testing.T) {
	f := newFakeContainers()
	s := New(f, Options{})
	redis := resolver.Query{Scheme: resolver.SchemeDNS, Host: "redis", Port: 6379}
	if got := s.Advice(redis); got != "" {
		t.Errorf("advice %q before there is a snapshot", got)
	}
	f.set(container("redis", "bridge=172.17.0.2"), with(container("shop-db-1", "bridge=172.17.0.3"), func(c *dockerd.Container) {
		c.Labels = map[string]string{"com.docker.compose.project": "shop", "com.docker.compose.service": "db"}
	}))
	for _, test := range []struct {
		query resolver.Query
		want  string
	}{
		{redis, "write docker://redis:6379"},
		{resolver.Query{Scheme: resolver.SchemeSRV, Host: "db"}, "write docker://db:PORT"},
		{resolver.Query{Scheme: resolver.SchemeDNS, Host: "other", Port: 80}, ""},
		{resolver.Query{Scheme: resolver.SchemeDNS, Host: "redis", Port: 80, Server: "127.0.0.1:53"}, ""},
	} {
		if got := s.Advice(test.query); (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
			t.Errorf("%s: advice %q; want %q", test.query, got, test.want)
		}
	}
}
