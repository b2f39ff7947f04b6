package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/static"
)

// following is an agent that follows what it is shown, and its log.
func following(t testing.TB) (*agent, *bytes.Buffer) {
	t.Helper()
	r := resolver.New(map[string]resolver.Source{resolver.SchemeStatic: static.Source{}}, resolver.Options{})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = r.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	var log bytes.Buffer
	a := &agent{resolver: r, modes: []config.Mode{config.Redirect}, log: slog.New(slog.NewJSONHandler(&log, nil))}
	a.tune(newTuning(config.Default(), nil))
	return a, &log
}

// show has a act on containers until it has read all of them.
func (a *agent) show(ctx context.Context, containers ...*dockerd.Container) {
	for snapshot := dockerd.NewSnapshot(containers...); !a.act(ctx, ctx, a.tuned(), snapshot); {
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
	return labelled(name, labels)
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
		a.show(t.Context(), &paused, labelled("honest", nil))
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
	owner := labelled("owner", map[string]string{"connect.6379": "10.0.0.1:6379"})
	joined := labelled("joined", map[string]string{"connect.6379": "10.0.0.2:6379"})
	joined.NetworkMode = "container:" + owner.ID
	same := labelled("same", map[string]string{"connect.6379": "10.0.0.1:6379"})
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
	route, err := a.routeFor(a.table.load().Owned(owner.ID), way{})
	if err == nil {
		t.Errorf("a port that nobody declares is routed: %+v", route)
	}
	client, b, _ := a.table.load().Owned(owner.ID).Lookup(6379)
	if clientOf(client).Name != "owner" || b.Text != "10.0.0.1:6379" {
		t.Errorf("connections are %s's, to %s; want the owner's, whose declaration serves them", clientOf(client).Name, b.Text)
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
			others = append(others, labelled(fmt.Sprint("honest", i), map[string]string{"connect.80": "10.0.0.1:80"}))
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

// TestDeclaredIsWhatAllHaveBound, after any changes.
func TestDeclaredIsWhatAllHaveBound(t *testing.T) {
	a, _ := following(t)
	random := rand.New(rand.NewPCG(1, 2))
	containers := map[string]*dockerd.Container{}
	var d declared
	var table *identity.Table
	for step := range 300 {
		name := fmt.Sprint("c", random.IntN(6))
		if random.IntN(3) == 0 {
			delete(containers, name)
		} else {
			labels := map[string]string{}
			for range random.IntN(4) {
				labels[fmt.Sprint("connect.", random.IntN(5)+1)] = fmt.Sprintf("10.0.0.%d:80", random.IntN(4))
			}
			labels["connect.9"] = "a mistake"
			containers[name] = labelled(name, labels)
		}
		before := d.byOwner()
		table = identity.Build(dockerd.NewSnapshot(slices.Collect(maps.Values(containers))...), table, "", nil, a.resolver.Parse)
		changed := d.follow(table)

		want, upstreams := map[string]int{}, map[upstreamKey]int{}
		for _, c := range table.Clients() {
			for _, b := range c.Bindings.All() {
				upstreams[upstreamKey{b.Text, b.Options}]++
				if b.Problem == nil {
					want[b.Text]++
				}
			}
		}
		if got := d.meanings; !maps.Equal(got, want) || !maps.Equal(d.upstreams, upstreams) || len(d.clients) != len(table.Clients()) {
			t.Fatalf("step %d: %v, %v, %d clients\nwant %v, %v, %d", step, d.meanings, d.upstreams, len(d.clients), want, upstreams, len(table.Clients()))
		}
		if after := d.byOwner(); !changed && !slices.EqualFunc(before, after, sameOwned) {
			t.Fatalf("step %d: %v became %v, unnoticed", step, before, after)
		}
		if d.follow(table) {
			t.Fatalf("step %d: the same table has changed something", step)
		}
	}
}

// sameOwned reports whether a and b are the same targets of one client, in any order.
func sameOwned(a, b resolver.Owned) bool {
	texts := func(o resolver.Owned) []string {
		var out []string
		for _, t := range o.Targets {
			out = append(out, t.String())
		}
		slices.Sort(out)
		return out
	}
	return a.Owner == b.Owner && slices.Equal(texts(a), texts(b))
}

// TestEarlyPortsAreSharedFairly: who declares many takes the places of nobody.
func TestEarlyPortsAreSharedFairly(t *testing.T) {
	a, _ := following(t)
	resting := func(name string, first, ports int, started time.Time) *dockerd.Container {
		labels := map[string]string{}
		for i := range ports {
			labels[fmt.Sprint("connect.", first+i)] = "10.0.0.1:80"
		}
		c := labelled(name, labels)
		c.Running, c.StartedAt = false, started
		return c
	}
	ended := time.Unix(1, 0)
	table := a.tableOf(nil, resting("a-hostile", 1, 1000, time.Time{}), resting("b-hostile", 2001, 1000, ended),
		resting("honest", 40001, 2, ended), resting("new", 50001, 2, time.Time{}))
	ports := startersPorts(table.Starters(func(string) bool { return true }))
	has := func(number uint16) bool {
		return slices.ContainsFunc(ports, func(p netrules.Port) bool { return p.Number == number })
	}
	if len(ports) != maxEarly || !has(40001) || !has(40002) || !has(50001) || !has(50002) || !has(1) || !has(2001) {
		t.Errorf("%d ports: %v; want %d, and all of those who declare few", len(ports), portsOf(ports), maxEarly)
	}
	nc := &newcomer{ports: ports, more: make(chan struct{}, 1)}
	nc.widen([]netrules.Port{{Number: 60001}})
	for first := 3001; first < 6001; first += 100 {
		var more []netrules.Port
		for i := range 100 {
			more = append(more, netrules.Port{Number: uint16(first + i)})
		}
		nc.widen(more)
	}
	if declared := nc.declared(); len(declared) != 2*maxEarly || declared[maxEarly].Number != 60001 {
		t.Errorf("it was widened to %d ports; want %d", len(declared), 2*maxEarly)
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
				containers[i] = labelled(fmt.Sprint("c", i), labels)
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
				containers[i] = labelled(fmt.Sprint("c", i), labels)
			}
			a.show(b.Context(), containers...)
			for n := 0; b.Loop(); n++ {
				containers[0] = labelled("c0", map[string]string{"connect.1": fmt.Sprintf("10.9.9.%d:80", n%250)})
				a.show(b.Context(), containers...)
			}
		})
	}
}
