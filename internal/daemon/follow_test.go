package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/balance"
	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/route"
	"github.com/ambassadord/ambassadord/internal/route/routetest"
	"github.com/ambassadord/ambassadord/internal/settings"
	"github.com/ambassadord/ambassadord/internal/sources"
	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/static"
)

// following is a follower, and its log.
func following(t testing.TB) (*follower, *bytes.Buffer) {
	t.Helper()
	r := resolver.New(map[string]resolver.Source{resolver.SchemeStatic: static.Source{}}, resolver.Options{})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = r.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	var log bytes.Buffer
	p := &parts{
		log: slog.New(slog.NewJSONHandler(&log, nil)), modes: []config.Mode{config.Redirect}, sources: &sources.Sources{Resolver: r},
		settings: settings.NewCurrent(settings.New(config.Default(), nil, nil)),
	}
	p.routes = route.New(ctx, route.Config{
		Targets: r, Pools: balance.New(balance.Config{}), Settings: p.settings, Clients: &p.clients, Log: p.log, Containers: true,
	})
	return newFollower(p), &log
}

// show has f act on containers until it has read all of them.
func (f *follower) show(ctx context.Context, containers ...*dockerd.Container) {
	for snapshot := dockerd.NewSnapshot(containers...); !f.act(ctx, ctx, f.settings.Load(), snapshot); {
	}
}

// said are the errors of the lines about declarations, and empties the log.
func said(t *testing.T, log *bytes.Buffer) []string {
	t.Helper()
	var texts []string
	for text := range strings.Lines(log.String()) {
		var line struct{ Msg, Origin, Error, Client string }
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			t.Fatal(err)
		}
		if line.Msg == "declaration" {
			texts = append(texts, strings.TrimPrefix(line.Client+": "+line.Origin+": "+line.Error, ": "))
		}
	}
	log.Reset()
	return texts
}

// mistaken is a container with n labels that are none.
func mistaken(name string, n int) *dockerd.Container {
	labels := map[string]string{}
	for i := range n {
		labels[fmt.Sprintf("connect.x%d", i)] = "a:1"
	}
	return routetest.Labelled(name, labels)
}

// TestMistakesAreToldOnce, in a few lines, however many there are and however often the
// container changes.
func TestMistakesAreToldOnce(t *testing.T) {
	a, log := following(t)
	hostile := mistaken("hostile", 5_000)
	a.show(t.Context(), hostile)
	lines := said(t, log)
	if len(lines) != maxTold {
		t.Errorf("%d lines:\n%s\nwant %d", len(lines), strings.Join(lines, "\n"), maxTold)
	}
	if last := lines[len(lines)-1]; last != fmt.Sprintf("hostile: : %d more problems with its declarations", 5_000-maxTold+1) {
		t.Errorf("the last line says %q", last)
	}
	for range 3 {
		stopped, paused := *hostile, *hostile
		stopped.Running = false
		paused.Paused = true
		a.show(t.Context(), &paused, routetest.Labelled("honest", nil))
		a.show(t.Context(), &stopped)
		a.show(t.Context(), hostile)
	}
	if lines := said(t, log); len(lines) > 0 {
		t.Errorf("nothing has changed, and it is told of\n%s", strings.Join(lines, "\n"))
	}
	more := *hostile
	more.Labels = maps.Clone(hostile.Labels)
	more.Labels["connect."] = "a:1"
	a.show(t.Context(), &more)
	if lines := said(t, log); len(lines) != 1 || !strings.Contains(lines[0], "label connect.: ") {
		t.Errorf("one more mistake is told of as %q", lines)
	}
}

// TestOverruledDeclarationIsToldOnce.
func TestOverruledDeclarationIsToldOnce(t *testing.T) {
	a, log := following(t)
	owner := routetest.Labelled("owner", map[string]string{"connect.6379": "10.0.0.1:6379"})
	joined := routetest.Labelled("joined", map[string]string{"connect.6379": "10.0.0.2:6379"})
	joined.NetworkMode = "container:" + owner.ID
	same := routetest.Labelled("same", map[string]string{"connect.6379": "10.0.0.1:6379"})
	same.NetworkMode = "container:" + owner.ID
	a.show(t.Context(), owner, joined, same)
	want := []string{"joined: label connect.6379: passed over: port 6379 is declared by container owner, " +
		"which owns this network namespace, with the target 10.0.0.1:6379"}
	if lines := said(t, log); !slices.Equal(lines, want) {
		t.Errorf("it says %q; want %q", lines, want)
	}
	healthy := *owner
	healthy.Health = "healthy"
	a.show(t.Context(), &healthy, joined, same)
	if lines := said(t, log); len(lines) > 0 {
		t.Errorf("nothing has changed, and it says %q", lines)
	}
	got, err := a.routes.For(a.clients.Load().Owned(owner.ID), route.Flow{})
	if err == nil {
		t.Errorf("a port that nobody declares is routed: %+v", got)
	}
	client, b, _ := a.clients.Load().Owned(owner.ID).Lookup(6379)
	if route.ClientOf(client).Name != "owner" || b.Text != "10.0.0.1:6379" {
		t.Errorf("connections are %s's, to %s; want the owner's, whose declaration serves them", route.ClientOf(client).Name, b.Text)
	}
}

// TestHostileContainerCostsTheFollowerLittle: over its whole life, with other containers
// coming and going all the while.
func TestHostileContainerCostsTheFollowerLittle(t *testing.T) {
	life := func(hostile ...*dockerd.Container) time.Duration {
		a, _ := following(t)
		var others []*dockerd.Container
		began := time.Now()
		for i := range 100 {
			others = append(others, routetest.Labelled(fmt.Sprint("honest", i), map[string]string{"connect.80": "10.0.0.1:80"}))
			shown := slices.Clone(others)
			for _, h := range hostile {
				c := *h
				c.Paused = i%2 == 0
				shown = append(shown, &c)
			}
			a.show(t.Context(), shown...)
		}
		return time.Since(began)
	}
	alone := life()
	for name, hostile := range map[string]*dockerd.Container{"10,000 mistaken labels": mistaken("hostile", 10_000)} {
		if beside := life(hostile); beside > alone+2*time.Second { // of the clock: others use the processor too
			t.Errorf("beside one with %s 100 events take %s, without it %s", name, beside, alone)
		}
	}
}

// BenchmarkEvent is what an event of one container costs on a host with many.
func BenchmarkEvent(b *testing.B) {
	for _, size := range []struct{ containers, ports int }{{10, 10}, {2_000, 10}, {200, 1_000}} {
		b.Run(fmt.Sprintf("%dx%d", size.containers, size.ports), func(b *testing.B) {
			a, _ := following(b)
			containers := make([]*dockerd.Container, size.containers)
			for i := range containers {
				labels := map[string]string{}
				for j := range size.ports {
					labels[fmt.Sprint("connect.", j+1)] = "10.0.0.1:80"
				}
				containers[i] = routetest.Labelled(fmt.Sprint("c", i), labels)
			}
			a.show(b.Context(), containers...)
			for b.Loop() {
				changed := *containers[0]
				containers[0] = &changed
				a.show(b.Context(), containers...)
			}
		})
	}
}

// BenchmarkRecreated is what it costs that one container of many is there anew and declares
// something else: who asks for what is counted anew then.
func BenchmarkRecreated(b *testing.B) {
	for _, size := range []struct{ containers, ports int }{{10, 10}, {2_000, 10}, {200, 1_000}} {
		b.Run(fmt.Sprintf("%dx%d", size.containers, size.ports), func(b *testing.B) {
			a, _ := following(b)
			containers := make([]*dockerd.Container, size.containers)
			for i := range containers {
				labels := map[string]string{}
				for j := range size.ports {
					labels[fmt.Sprint("connect.", j+1)] = fmt.Sprintf("10.%d.%d.%d:%d", i/250, i%250, j%250, 80+j/250)
				}
				containers[i] = routetest.Labelled(fmt.Sprint("c", i), labels)
			}
			a.show(b.Context(), containers...)
			for n := 0; b.Loop(); n++ {
				containers[0] = routetest.Labelled("c0", map[string]string{"connect.1": fmt.Sprintf("10.9.9.%d:80", n%250)})
				a.show(b.Context(), containers...)
			}
		})
	}
}
