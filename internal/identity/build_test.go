package identity

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/resolver"
)

// counting counts what is parsed.
func counting(parsed *[]string) func(string) (resolver.Target, error) {
	return func(text string) (resolver.Target, error) {
		*parsed = append(*parsed, text)
		return resolver.Parse(text)
	}
}

// with is a container of 172.17.0.ADDR that declares ports ports with one target.
func with(id string, addr, ports int, target string) *dockerd.Container {
	c := running(id, id, fmt.Sprintf("172.17.0.%d", addr), map[string]string{})
	for i := range ports {
		c.Labels[fmt.Sprintf("connect.%d", i+1)] = target
	}
	return c
}

// TestUnchangedIsTheSamePointer: a follower of the tables sees at once what has changed.
func TestUnchangedIsTheSamePointer(t *testing.T) {
	a, b := with("a", 2, 2, "a:1"), with("b", 3, 2, "b:1")
	first := build(nil, a, b)
	healthy := *b
	healthy.Health = "healthy"
	second := build(first, a, &healthy)
	if first.Client("a") != second.Client("a") || first.Owned("a") != second.Owned("a") {
		t.Error("a has not changed, and is another client")
	}
	if first.Client("b") == second.Client("b") || first.Owned("b") == second.Owned("b") {
		t.Error("b has changed, and is the same client")
	}
	if !first.Client("b").Bindings.Same(second.Client("b").Bindings) {
		t.Error("what b declares has not changed, and was read again")
	}
	stopped := *a
	stopped.Running = false
	third := build(build(second, &stopped, &healthy), a, &healthy)
	if !first.Client("a").Bindings.Same(third.Client("a").Bindings) {
		t.Error("a was started again as it was, and was read again")
	}
}

// TestAnnouncedIsNotReadTwice, unless it turns out to have declared more.
func TestAnnouncedIsNotReadTwice(t *testing.T) {
	for _, test := range []struct {
		env  []string
		want []string
	}{
		{nil, []string{"a:1"}},
		{[]string{"CONNECT_2=b:2"}, []string{"a:1", "a:1", "b:2"}},
	} {
		var parsed []string
		announced := &dockerd.Container{ID: "c1", Name: "web", Labels: map[string]string{"connect.1": "a:1"}, Announced: true}
		table := Build(dockerd.NewSnapshot(announced), nil, "", nil, counting(&parsed))
		inspected := running("c1", "web", "172.17.0.2", map[string]string{"connect.1": "a:1"})
		inspected.Env = test.env
		Build(dockerd.NewSnapshot(inspected), table, "", nil, counting(&parsed))
		if !slices.Equal(parsed, test.want) {
			t.Errorf("with %v in its environment, %v was parsed; want %v", test.env, parsed, test.want)
		}
	}
}

// TestSlowContainerDelaysItself: those that declare little are read first, and when the time
// is over the others wait.
func TestSlowContainerDelaysItself(t *testing.T) {
	slow := with("a", 2, 50, "slow:1")
	honest := with("b", 3, 1, "honest:1")
	second := with("c", 4, 60, "slow:1")
	snapshot := dockerd.NewSnapshot(slow, honest, second)
	var parsed []string
	table, complete := Follow(t.Context(), 0, snapshot, nil, "", nil, counting(&parsed))
	if complete || table.Client("b") == nil || table.Client("a") != nil || table.Client("c") != nil {
		t.Errorf("complete %t, clients %v; want the honest one alone at first", complete, table.Clients())
	}
	if table, complete = Follow(t.Context(), 0, snapshot, table, "", nil, counting(&parsed)); complete || table.Client("a") == nil || table.Client("c") != nil {
		t.Errorf("complete %t, clients %v; want the smaller of the slow ones next", complete, table.Clients())
	}
	if table, complete = Follow(t.Context(), 0, snapshot, table, "", nil, counting(&parsed)); !complete || table.Owned("c") == nil {
		t.Errorf("complete %t, clients %v; want all of them", complete, table.Clients())
	}
	if len(parsed) != 111 {
		t.Errorf("%d targets were parsed; want each of 111 once", len(parsed))
	}
}

// TestPutOffContainerStaysAsItWas until it is read.
func TestPutOffContainerStaysAsItWas(t *testing.T) {
	before := with("a", 2, 2, "before:1")
	first := build(nil, before)
	after := with("a", 2, 3, "after:1")
	snapshot := dockerd.NewSnapshot(after, with("b", 3, 1, "b:1"))
	second, complete := Follow(t.Context(), 0, snapshot, first, "self", nil, resolver.Parse)
	if b, ok := second.Client("a").Bindings.Lookup(1); complete || !ok || b.Text != "before:1" {
		t.Errorf("complete %t, port 1 of a is %v; want what it was", complete, b)
	}
	third, complete := Follow(t.Context(), 0, snapshot, second, "self", nil, resolver.Parse)
	if b, _ := third.Client("a").Bindings.Lookup(1); !complete || b.Text != "after:1" {
		t.Errorf("complete %t, port 1 of a is %v; want what it has become", complete, b)
	}
	if second.Owned("a").Equal(third.Owned("a")) {
		t.Error("the namespace is taken for unchanged")
	}
}

// TestTheEndIsObeyedBetweenContainers.
func TestTheEndIsObeyedBetweenContainers(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	reads := 0
	parse := func(text string) (resolver.Target, error) {
		reads++
		cancel()
		return resolver.Parse(text)
	}
	var containers []*dockerd.Container
	for i := range 100 {
		containers = append(containers, with(fmt.Sprint("c", i), i+2, 1, "a:1"))
	}
	if _, complete := Follow(ctx, time.Hour, dockerd.NewSnapshot(containers...), nil, "", nil, parse); complete || reads != 1 {
		t.Errorf("%d containers were read after the end", reads-1)
	}
}

func TestTheOneThatComesFirstHasThePort(t *testing.T) {
	owner := running("c9", "app", "172.17.0.2", map[string]string{"connect.1": "owner:1", "connect.2": "same:2"})
	join := func(id, name string, started int64, labels map[string]string) *dockerd.Container {
		return &dockerd.Container{ID: id, Name: name, Running: true, NetworkMode: "container:c9", Labels: labels, StartedAt: time.Unix(started, 0)}
	}
	late := join("c1", "late", 20, map[string]string{"connect.1": "late:1", "connect.2": "same:2", "connect.3": "late:3", "connect.4": "x:4", "connect.4.wait": "1s"})
	early := join("c2", "early", 10, map[string]string{"connect.3": "early:3", "connect.4": "x:4"})
	n := build(nil, late, early, owner).Owned("c9")
	var order []string
	for _, c := range n.Clients {
		order = append(order, c.Container.Name)
	}
	if !slices.Equal(order, []string{"app", "early", "late"}) {
		t.Errorf("the order is %v; want the owner first, and then those who joined as they were started", order)
	}
	for port, want := range map[uint16]string{1: "app", 2: "app", 3: "early", 4: "early"} {
		if c, _, _ := n.Lookup(port); c.Container.Name != want {
			t.Errorf("port %d is %s's; want %s's", port, c.Container.Name, want)
		}
	}
	want := []string{
		"label connect.1: passed over: port 1 is declared by container app, which owns this network namespace, with the target owner:1",
		"label connect.3: passed over: port 3 is declared by container early, which joined this network namespace before it, with the target early:3",
		"label connect.4: passed over: port 4 is declared by container early, which joined this network namespace before it, with the same target and other options",
	}
	var got []string
	for _, o := range n.Overruled {
		got = append(got, o.Problem.Error())
		if o.Client.Container.Name != "late" || hint.Of(o.Problem) == "" {
			t.Errorf("%q is %s's, with the hint %q", o.Problem, o.Client.Container.Name, hint.Of(o.Problem))
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("overruled %q\nwant %q", got, want)
	}
}

func TestWhatIsOverruledIsBounded(t *testing.T) {
	owner := with("c1", 2, 100, "a:1")
	joined := with("c2", 3, 100, "b:1")
	joined.NetworkMode = "container:c1"
	n := build(nil, owner, joined).Owned("c1")
	if len(n.Overruled) != maxOverruled+1 {
		t.Fatalf("%d problems; want %d", len(n.Overruled), maxOverruled+1)
	}
	if last := n.Overruled[maxOverruled].Problem.Error(); last != fmt.Sprintf("container: %d more of its ports are declared by others of its network namespace", 100-maxOverruled) {
		t.Errorf("the last says %q", last)
	}
}

// TestEventCostsWhatHasChanged: on a host of many containers with many ports an event of one
// costs no more than that one and a look at each other container.
func TestEventCostsWhatHasChanged(t *testing.T) {
	containers := []*dockerd.Container{with("changing", 2, 1, "a:1")}
	for i := range 200 {
		containers = append(containers, with(fmt.Sprintf("c%03d", i), 3, 500, "a:1"))
	}
	table := build(nil, containers...)
	allocations := testing.AllocsPerRun(5, func() {
		changed := *containers[0]
		containers[0] = &changed
		table = build(table, containers...)
	})
	if most := 50.0 * float64(len(containers)); allocations > most {
		t.Errorf("an event of one container of %d, with 500 ports each, takes %.0f allocations; want at most %.0f", len(containers), allocations, most)
	}
}
