package identity

import (
	"net/netip"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/resolver"
)

// running is a container on a bridge with that address.
func running(id, name, addr string, labels map[string]string) *dockerd.Container {
	return &dockerd.Container{
		ID: id, Name: name, Running: true, NetworkMode: "default", Labels: labels,
		Networks: []dockerd.Network{{Name: "bridge", IPv4: netip.MustParseAddr(addr)}},
	}
}

func build(previous *Table, containers ...*dockerd.Container) *Table {
	return Build(dockerd.NewSnapshot(containers...), previous, "self", nil, resolver.Parse)
}

func TestLookup(t *testing.T) {
	stopped := running("c3", "gone", "172.17.0.4", map[string]string{"connect.1": "x:1"})
	stopped.Running = false
	table := build(nil,
		running("c1", "web", "172.17.0.2", map[string]string{"connect.6379": "redis:6379"}),
		running("c2", "other", "172.17.0.3", nil),
		stopped,
		running("self", "ambassadord", "172.17.0.9", map[string]string{"connect.1": "x:1"}),
	)
	n := table.At(netip.MustParseAddr("::ffff:172.17.0.2"))
	if n == nil || n != table.Owned("c1") {
		t.Fatalf("At the address of web (as IPv4 in IPv6) = %v; want its namespace", n)
	}
	if c, b, ok := n.Lookup(6379); !ok || c.Container.Name != "web" || b.Text != "redis:6379" {
		t.Errorf("port 6379 = %v, %v, %t; want web's binding", c, b, ok)
	}
	if c, _, ok := n.Lookup(80); ok || c.Container.Name != "web" {
		t.Errorf("an undeclared port = %v, %t; want web and no binding", c, ok)
	}
	for _, addr := range []string{"172.17.0.4", "172.17.0.9", "172.17.0.77"} {
		if n := table.At(netip.MustParseAddr(addr)); n != nil {
			t.Errorf("At(%s) = %s; want nobody: stopped, ourselves, or never seen", addr, n.Owner.Name)
		}
	}
}

func TestSharedNamespace(t *testing.T) {
	owner := running("c1", "app", "172.17.0.2", map[string]string{"connect.1": "owner:1"})
	sidecar := &dockerd.Container{ID: "c2", Name: "sidecar", Running: true, NetworkMode: "container:c1",
		Labels: map[string]string{"connect.1": "sidecar:1", "connect.2": "sidecar:2"}}
	orphan := &dockerd.Container{ID: "c3", Name: "orphan", Running: true, NetworkMode: "container:nobody",
		Labels: map[string]string{"connect.3": "x:3"}}
	table := build(nil, owner, sidecar, orphan)
	n := table.Owned("c1")
	if n == nil || len(table.Namespaces()) != 1 {
		t.Fatalf("namespaces %v; want the owner's alone", table.Namespaces())
	}
	for port, want := range map[uint16]string{1: "owner:1", 2: "sidecar:2"} {
		if _, b, ok := n.Lookup(port); !ok || b.Text != want {
			t.Errorf("port %d = %v; want %s", port, b.Text, want)
		}
	}
	if c, _, _ := n.Lookup(2); c.Container.Name != "sidecar" {
		t.Errorf("port 2 belongs to %s; want the sidecar that declared it", c.Container.Name)
	}
	if got := n.Bindings(); len(got) != 2 || got[0].Port != 1 || got[1].Port != 2 {
		t.Errorf("bindings %v; want the ports 1 and 2", got)
	}
}

// Those who do not run declare nothing that holds, but are known to the namespace that they
// are going to join.
func TestComing(t *testing.T) {
	declaring := func(id, mode string) *dockerd.Container {
		return &dockerd.Container{ID: id, Name: id, NetworkMode: mode, Labels: map[string]string{"connect.1": id + ":1", "connect.2": id + ":2"}}
	}
	owner := running("c1", "app", "172.17.0.2", map[string]string{"connect.1": "owner:1"})
	first, second := declaring("c2", "container:app"), declaring("c3", "container:c2")
	quiet := &dockerd.Container{ID: "c4", NetworkMode: "container:c1"}
	before := build(nil, owner, first, second, quiet, declaring("c5", "container:nobody"), declaring("c6", "container:self"),
		running("self", "ambassadord", "172.17.0.9", nil))
	n := before.Owned("c1")
	if len(n.Coming) != 2 || n.Coming[0].Container != first || n.Coming[1].Container != second {
		t.Fatalf("coming are %v; want the joiner and its joiner", n.Coming)
	}
	if len(n.ComingFor(1)) != 0 || len(n.ComingFor(2)) != 2 || len(n.ComingFor(3)) != 0 {
		t.Errorf("port 1 is of %v, 2 of %v, 3 of %v; want what nobody who runs declares", n.ComingFor(1), n.ComingFor(2), n.ComingFor(3))
	}
	if _, b, ok := n.Lookup(2); ok || len(n.Bindings()) != 1 || len(n.Overruled) != 0 {
		t.Errorf("what holds is %v and %v, overruled %v; want nothing of those who do not run", b, n.Bindings(), n.Overruled)
	}
	if again := build(before, owner, first, second, quiet); again.Owned("c1") != n {
		t.Error("a namespace in which nothing has changed is another one")
	}
	if starters := before.Starters(func(string) bool { return true }); len(starters) != 0 {
		t.Errorf("%v get no namespace of their own", starters)
	}
	started := *first
	started.Running = true
	after := build(before, owner, &started, second).Owned("c1")
	if _, b, ok := after.Lookup(2); !ok || b.Text != "c2:2" || len(after.ComingFor(2)) != 0 || n.Equal(after) {
		t.Errorf("port 2 is %v and awaited by %v; want that of the one that runs", b, after.ComingFor(2))
	}
}

// A container that has joined a namespace stays in it when its owner has ended, or got another.
func TestLeftBehind(t *testing.T) {
	owner := running("c1", "app", "172.17.0.2", map[string]string{"connect.1": "owner:1"})
	owner.Netns = 10
	joiner := func(id string, netns uint64, age time.Duration) *dockerd.Container {
		return &dockerd.Container{ID: id, Name: id, Running: true, NetworkMode: "container:c1", Netns: netns,
			StartedAt: time.Unix(1000, 0).Add(-age), Labels: map[string]string{"connect.2": id + ":2"}}
	}
	here, older, old, unseen := joiner("c2", 10, 0), joiner("c3", 9, time.Minute), joiner("c4", 9, 0), joiner("c5", 0, 0)
	table := build(nil, owner, here, old, older, unseen)
	if n := table.Owned("c1"); len(n.Clients) != 3 || n.LeftBehind() {
		t.Errorf("with the owner are %v; want those that are in its namespace, or may be", n.Clients)
	}
	n := table.Owned("c3")
	if n == nil || !n.LeftBehind() || len(n.Clients) != 2 || n.Clients[1].Container != old {
		t.Fatalf("the old namespace is %+v; want the two that are in it", n)
	}
	if _, b, _ := n.Lookup(2); b.Text != "c3:2" || len(n.Overruled) != 1 {
		t.Errorf("port 2 is %v; want that of the first to have joined", b)
	}
	if _, b, ok := n.Lookup(1); ok {
		t.Errorf("port 1 is %v; the owner's declarations are not theirs", b)
	}
	gone := build(table, here)
	if n := gone.Owned("c2"); n == nil || !n.LeftBehind() {
		t.Error("who is left alone in a namespace is nobody")
	}
}

func TestAddressThatTwoClaimIsNobodys(t *testing.T) {
	table := build(nil,
		running("c1", "a", "172.17.0.2", map[string]string{"connect.1": "a:1"}),
		running("c2", "b", "172.17.0.2", map[string]string{"connect.1": "b:1"}),
	)
	if n := table.At(netip.MustParseAddr("172.17.0.2")); n != nil {
		t.Errorf("an address that two containers claim belongs to %s; want nobody", n.Owner.Name)
	}
}

func TestReusedAddressIsTheNewOwners(t *testing.T) {
	first := build(nil, running("c1", "a", "172.17.0.2", map[string]string{"connect.1": "a:1"}))
	second := build(first, running("c2", "b", "172.17.0.2", map[string]string{"connect.1": "b:1"}))
	if _, b, _ := second.At(netip.MustParseAddr("172.17.0.2")).Lookup(1); b.Text != "b:1" {
		t.Errorf("the reused address leads to %q; want the new container's b:1", b.Text)
	}
	if second.Client("c1") != nil {
		t.Error("the old container is still there")
	}
}

func TestBindingsAreReadOncePerContainer(t *testing.T) {
	reads := 0
	parse := func(text string) (resolver.Target, error) { reads++; return resolver.Parse(text) }
	var table *Table
	for range 3 {
		c := running("c1", "a", "172.17.0.2", map[string]string{"connect.1": "a:1"})
		table = Build(dockerd.NewSnapshot(c), table, "", nil, parse)
	}
	if reads != 1 {
		t.Errorf("the declarations were read %d times; want once", reads)
	}
}

// TestBindingsAreReadAgain under another configuration, which may go by the name.
func TestBindingsAreReadAgain(t *testing.T) {
	layersOf := func(target string) *binding.Layers {
		return &binding.Layers{Clients: []binding.Static{{
			Container: "web", Ports: map[uint16]binding.StaticPort{80: {Target: target, Origin: "file"}},
		}}}
	}
	first := layersOf("a:1")
	c := running("c1", "web", "172.17.0.2", nil)
	snapshot := dockerd.NewSnapshot(c)
	before := Build(snapshot, nil, "", first, resolver.Parse)
	same := Build(snapshot, before, "", first, resolver.Parse)
	other := Build(snapshot, before, "", layersOf("b:1"), resolver.Parse)
	none := Build(snapshot, before, "", nil, resolver.Parse)
	renamed := *c
	renamed.Name = "shop"
	moved := Build(dockerd.NewSnapshot(&renamed), before, "", first, resolver.Parse)
	for _, test := range []struct {
		name  string
		table *Table
		want  string
		equal bool
	}{{"the same", same, "a:1", true}, {"another target", other, "b:1", false}, {"no more", none, "", false}, {"renamed", moved, "", false}} {
		n := test.table.Owned("c1")
		if _, b, _ := n.Lookup(80); b.Text != test.want {
			t.Errorf("%s: port 80 leads to %q; want %q", test.name, b.Text, test.want)
		}
		if n.Equal(before.Owned("c1")) != test.equal {
			t.Errorf("%s: equal is %t; want %t", test.name, !test.equal, test.equal)
		}
	}
}

func TestHostNetworkHasNoAddressOfItsOwn(t *testing.T) {
	c := running("c1", "host", "192.0.2.1", map[string]string{"connect.1": "a:1"})
	c.NetworkMode = "host"
	if n := build(nil, c).At(netip.MustParseAddr("192.0.2.1")); n != nil {
		t.Errorf("the host's address belongs to %s; want nobody", n.Owner.Name)
	}
}

func TestUnchangedNamespaceIsEqual(t *testing.T) {
	owner := running("c1", "app", "172.17.0.2", nil)
	sidecar := &dockerd.Container{ID: "c2", Name: "sidecar", Running: true, NetworkMode: "container:c1"}
	first := build(nil, owner, sidecar)
	again := build(first, owner, sidecar, running("c3", "other", "172.17.0.3", nil))
	if !first.Owned("c1").Equal(again.Owned("c1")) {
		t.Error("the namespace differs although only another container came")
	}
	if first.Owned("c1").Equal(build(first, owner).Owned("c1")) {
		t.Error("the namespace is equal although the sidecar left")
	}
	changed := *owner
	changed.Paused = true
	if first.Owned("c1").Equal(build(first, &changed, sidecar).Owned("c1")) {
		t.Error("the namespace is equal although its owner changed")
	}
}
