package identity

import (
	"context"
	"strings"
	"testing"

	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/resolver"
)

// byName is a source all of whose names mean something else to each client.
type byName struct{}

func (byName) Check(resolver.Query) error                                         { return nil }
func (byName) ByClient(resolver.Query) bool                                       { return true }
func (byName) Watch(context.Context, resolver.Query, func(resolver.Answer)) error { return nil }
func client(c *Client, port uint16) string                                        { b, _ := c.Bindings.Lookup(port); return first(b.Target) }
func first(t resolver.Target) string                                              { return t.Choices[0].Queries[0].Client }
func network(name string) dockerd.Network                                         { return dockerd.Network{Name: name, ID: name} }
func onNetworks(c *dockerd.Container, names ...string) *dockerd.Container {
	next := *c
	next.Networks = nil
	for _, name := range names {
		next.Networks = append(next.Networks, network(name))
	}
	return &next
}

// TestForWhom: a name means what it does in its client's own project and networks, which may
// change while its container does not.
func TestForWhom(t *testing.T) {
	parse := resolver.New(map[string]resolver.Source{"docker": byName{}, resolver.SchemeDNS: plain{}}, resolver.Options{}).Parse
	build := func(previous *Table, layers *binding.Layers, containers ...*dockerd.Container) *Table {
		return Build(dockerd.NewSnapshot(containers...), previous, "", layers, parse)
	}
	labels := func(project string) map[string]string {
		return map[string]string{"connect.1": "docker://redis:1", "connect.2": "a:1", "com.docker.compose.project": project}
	}
	want := func(table *Table, id, want string) {
		t.Helper()
		if got := client(table.Client(id), 1); got != want {
			t.Errorf("%s asks as %q, want %q", id, got, want)
		}
		if got := client(table.Client(id), 2); got != "" {
			t.Errorf("%s asks for a DNS name as %q", id, got)
		}
	}
	shop := onNetworks(running("shop", "shop", "10.0.0.2", labels("shop")), "shop_default", "bridge")
	joiner := running("joiner", "joiner", "10.0.0.3", labels("blog"))
	joiner.NetworkMode, joiner.Networks = "container:shop", nil
	first := build(nil, nil, shop, joiner)
	want(first, "shop", "network=shop_default&project=shop")
	want(first, "joiner", "network=shop_default&project=blog")

	again := build(first, nil, shop, joiner)
	if first.Client("shop") != again.Client("shop") || first.Client("joiner") != again.Client("joiner") {
		t.Error("nothing has changed, and the clients are others")
	}
	connected := build(again, nil, onNetworks(shop, "shop_default", "back"), joiner)
	want(connected, "shop", "network=back&network=shop_default&project=shop")
	want(connected, "joiner", "network=back&network=shop_default&project=blog")
	if connected.Owned("shop").Equal(again.Owned("shop")) {
		t.Error("the namespace of others who ask is equal")
	}

	alone := build(nil, nil, onNetworks(running("alone", "alone", "10.0.0.2", labels("")), "bridge"))
	want(alone, "alone", resolver.ForHost)

	// The operator has written it: of the container's project it says nothing.
	layers := &binding.Layers{Clients: []binding.Static{{Ports: map[uint16]binding.StaticPort{
		1: {Target: "docker://redis:1", Origin: "file"}, 2: {Target: "a:1", Origin: "file"},
	}}}}
	unlabelled := onNetworks(running("u", "u", "10.0.0.2", map[string]string{"com.docker.compose.project": "shop"}), "shop_default")
	want(build(nil, layers, unlabelled), "u", resolver.ForHost)
}

// TestMeaning: what means something else to each client is another upstream, of what means the
// same to all there is one.
func TestMeaning(t *testing.T) {
	parse := resolver.New(map[string]resolver.Source{"docker": byName{}, resolver.SchemeDNS: plain{}}, resolver.Options{}).Parse
	of := func(project string) (named, plain string) {
		labels := map[string]string{"connect.1": "docker://redis:1", "connect.2": "a:1", "com.docker.compose.project": project}
		c := Build(dockerd.NewSnapshot(running("c", "c", "10.0.0.2", labels)), nil, "", nil, parse).Client("c")
		one, _ := c.Bindings.Lookup(1)
		two, _ := c.Bindings.Lookup(2)
		if one.Text != "docker://redis:1" {
			t.Errorf("text %q", one.Text)
		}
		return one.Meaning(), two.Meaning()
	}
	shop, plainShop := of("shop")
	blog, plainBlog := of("blog")
	if shop == blog || !strings.Contains(shop, "project=shop") {
		t.Errorf("%q and %q; want two", shop, blog)
	}
	if plainShop != "a:1" || plainBlog != "a:1" {
		t.Errorf("%q and %q; want one", plainShop, plainBlog)
	}
}

// plain is a source whose names mean the same to all.
type plain struct{}

func (plain) Check(resolver.Query) error                                         { return nil }
func (plain) Watch(context.Context, resolver.Query, func(resolver.Answer)) error { return nil }
