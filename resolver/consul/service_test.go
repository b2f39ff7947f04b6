package consul

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/sourcetest"
)

func TestServiceInstances(t *testing.T) {
	agent := newFakeAgent(t, list(
		instance("c", "node.example.com", "", 80, 0, "passing"),
		instance("b", "", "2001:db8::1", 80, 7),
		instance("a", "10.0.0.1", "10.9.9.9", 80, 70000, "passing", "passing"),
		instance("d", "10.0.0.4", "", 80, 1, "passing", "warning"),
		instance("e", "10.0.0.5", "", 80, 1, "critical"),
		instance("f", "10.0.0.6", "", 0, 1, "passing"),
		instance("g", "no host name", "", 80, 1, "passing"),
		`null`, `{"Checks":[null]}`,
	))
	client := newTestClient(t, Config{Address: agent.address})
	w := sourcetest.Watch(t, client.Services(), serviceQuery("web", ""))
	got := w.Next(t)
	want := []resolver.Endpoint{
		{Addr: netip.MustParseAddrPort("10.0.0.1:80"), Name: "a", Weight: 65535},
		{Addr: netip.MustParseAddrPort("[2001:db8::1]:80"), Name: "b", Weight: 7},
		{Host: "node.example.com", Port: 80, Name: "c", Weight: 1},
	}
	if !slices.Equal(got.Endpoints, want) {
		t.Errorf("endpoints %+v\nwant %+v", got.Endpoints, want)
	}
	const malformed = "is registered without a usable address and port"
	checkLeftOut(t, got, "an instance "+malformed, "an instance "+malformed,
		`d (10.0.0.4:80) is warning by its node's check "c1"`, `e (10.0.0.5:80) is critical by its node's check "c0"`,
		"f "+malformed, "g "+malformed)
	w.Stop(t)
}

func TestServiceWithoutInstances(t *testing.T) {
	agent := newFakeAgent(t, `[]`)
	client := newTestClient(t, Config{Address: agent.address})
	w := sourcetest.Watch(t, client.Services(), serviceQuery("web", "dc=dc2&tag=blue"))
	if a := w.Next(t); len(a.Endpoints) != 0 || a.Note != "Consul has no instance of service web with tag blue in datacenter dc2" {
		t.Errorf("answer %+v", a)
	}
	agent.set(11, list(instance("a", "10.0.0.1", "", 80, 1, "critical")))
	a := w.Next(t)
	checkLeftOut(t, a, `a (10.0.0.1:80) is critical by its node's check "c0"`)
	if len(a.Endpoints) != 0 {
		t.Errorf("answer %+v", a)
	}
	w.Stop(t)
}

func TestServiceRequest(t *testing.T) {
	agent := newFakeAgent(t, list(instance("far", "10.0.0.2", "", 80, 1), instance("a", "10.0.0.1", "", 80, 1)))
	client := newTestClient(t, Config{Address: agent.address})
	w := sourcetest.Watch(t, client.Services(), serviceQuery("web", "dc=dc2&near=_agent&tag=a&tag=b"))
	if got := w.Next(t); got.Endpoints[0].Name != "far" {
		t.Errorf("endpoints %v: the agent's order was lost", got.Endpoints)
	}
	w.Stop(t)
	r := agent.asked()[0]
	values := r.URL.Query()
	if r.URL.Path != "/v1/health/service/web" || values.Get("dc") != "dc2" || values.Get("near") != "_agent" ||
		!slices.Equal(values["tag"], []string{"a", "b"}) || values.Get("wait") != "300000ms" || values.Has("index") {
		t.Errorf("request %s", r.URL)
	}
}

func TestServicePublishesOnlyChanges(t *testing.T) {
	a, b := instance("a", "10.0.0.1", "", 80, 1), instance("b", "10.0.0.2", "", 80, 1)
	x, y := instance("x", "10.0.0.3", "", 80, 1, "critical"), instance("y", "10.0.0.4", "", 80, 1, "critical")
	agent := newFakeAgent(t, list(a, b, x, y))
	client := newTestClient(t, Config{Address: agent.address})
	w := sourcetest.Watch(t, client.Services(), serviceQuery("web", "near=_agent"))
	w.Await(t, "10.0.0.1:80", "10.0.0.2:80")
	agent.set(11, list(y, b, x, a))
	eventually(t, "it waits on 11", func() bool { return strings.HasSuffix(agent.indexes(), "[11]") })
	agent.set(12, list(a, y, x))
	if got := w.Next(t); len(got.Endpoints) != 1 {
		t.Errorf("published %v: only the order was new", got.Endpoints)
	}
	w.Stop(t)
}

func TestServiceCheck(t *testing.T) {
	source := New(Config{}).Services()
	if err := source.Check(serviceQuery("web", "tag=a&tag=b&dc=dc2&near=_agent")); err != nil {
		t.Error(err)
	}
	for what, c := range map[string]struct {
		query     resolver.Query
		err, hint string
	}{
		"misspelt":      {serviceQuery("web", "tags=a"), `unknown parameter "tags"`, "did you mean tag=?"},
		"unknown":       {serviceQuery("web", "color=red"), `unknown parameter "color"`, "the parameters are tag, port, dc, near"},
		"empty":         {serviceQuery("web", "tag="), "tag is empty", "leave it out"},
		"two dcs":       {serviceQuery("web", "dc=a&dc=b"), "dc is given 2 times", "leave one"},
		"no name":       {serviceQuery("", ""), "no service", "consul-service://NAME"},
		"a port":        {resolver.Query{Host: "web", Port: 80}, "with a port", "leave out :80"},
		"a path":        {resolver.Query{Host: "web", Path: "x"}, `path, "x"`, "consul-service://NAME"},
		"a path inside": {serviceQuery("../agent", ""), "not a service's name", "consul-service://NAME"},
	} {
		err := source.Check(c.query)
		if err == nil || !strings.Contains(err.Error(), c.err) || !strings.Contains(hint.Of(err), c.hint) {
			t.Errorf("%s: error %v, hint %q; want %q, %q", what, err, hint.Of(err), c.err, c.hint)
		}
	}
}

func TestServiceWarnings(t *testing.T) {
	agent := newFakeAgent(t, list(
		`{"Node":{},"Service":{"ID":"a","Address":"10.0.0.1","Port":80,"Weights":{"Passing":9,"Warning":2}},"Checks":[{"Status":"warning"}]}`,
		instance("b", "10.0.0.2", "", 80, 5, "passing"),
		instance("c", "10.0.0.3", "", 80, 5, "warning", "critical"),
		`{"Node":{},"Service":{"ID":"d","Address":"10.0.0.4","Port":80},"Checks":[{"CheckID":"_node_maintenance","Status":"critical"}]}`,
	))
	client := newTestClient(t, Config{Address: agent.address})
	w := sourcetest.Watch(t, client.Services(), serviceQuery("web", "health=warning&ns=team&partition=p1&consistency=stale"))
	got := w.Next(t)
	want := []resolver.Endpoint{
		{Addr: netip.MustParseAddrPort("10.0.0.1:80"), Name: "a", Weight: 2},
		{Addr: netip.MustParseAddrPort("10.0.0.2:80"), Name: "b", Weight: 5},
	}
	if !slices.Equal(got.Endpoints, want) {
		t.Errorf("answer %+v\nwant %+v", got, want)
	}
	checkLeftOut(t, got, `c (10.0.0.3:80) is critical by its node's check "c1"`, "d (10.0.0.4:80) is on a node in maintenance")
	if l := got.LeftOut; len(l) != 2 || !l[0].Unhealthy || l[1].Unhealthy {
		t.Errorf("left out %+v; want the first alone to be unhealthy", l)
	}
	w.Stop(t)
	values := agent.asked()[0].URL.Query()
	if values.Get("ns") != "team" || values.Get("partition") != "p1" || !values.Has("stale") || values.Has("consistent") {
		t.Errorf("request %s", agent.asked()[0].URL)
	}
	for params, fix := range map[string]string{
		"health=critical": "passing, warning", "health=pasing": "did you mean health=passing?",
		"consistency=stales": "did you mean consistency=stale?", "consistency=x": "default, stale, consistent",
	} {
		if err := client.Services().Check(serviceQuery("web", params)); !strings.Contains(hint.Of(err), fix) {
			t.Errorf("%s: %v, hint %q", params, err, hint.Of(err))
		}
	}
}
