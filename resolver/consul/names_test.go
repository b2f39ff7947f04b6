package consul

import (
	"context"
	"strings"
	"testing"

	"github.com/ambassadord/ambassadord/internal/servertest"
	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/sourcetest"
)

func TestTranslate(t *testing.T) {
	client := newTestClient(t, Config{Domain: "Consul."})
	for name, want := range map[string]string{
		"redis.service.consul":                      "consul-service://redis?health=warning",
		"Redis.Service.CONSUL.":                     "consul-service://redis?health=warning",
		"primary.redis.service.consul":              "consul-service://redis?health=warning&tag=primary",
		"v1.2.redis.service.dc2.consul":             "consul-service://redis?dc=dc2&health=warning&tag=v1.2",
		"_redis._primary.service.consul":            "consul-service://redis?health=warning&tag=primary",
		"_redis._tcp.service.dc2.consul":            "consul-service://redis?dc=dc2&health=warning",
		"redis.service.team.ns.p1.ap.dc2.dc.consul": "consul-service://redis?dc=dc2&health=warning&ns=team&partition=p1",
		"service.service.consul":                    "consul-service://service?health=warning",
		"redis.service.service.consul":              "consul-service://service?health=warning&tag=redis",
		"nearest.query.consul":                      "consul-query://nearest",
		"geo.db.query.dc2.consul":                   "consul-query://geo.db?dc=dc2",
		"redis.service":                             "",
		"redis.service.consul.example.com":          "",
		"consul":                                    "",
		"service.consul":                            "",
		"web1.node.consul":                          "",
		"redis.service.x.y.consul":                  "",
		"redis.service.a.ns.b.ns.consul":            "",
		"redis.serviceconsul":                       "",
	} {
		q, ok := client.translate(name)
		if ok != (want != "") || ok && q.String() != want {
			t.Errorf("%s: %s, %v; want %q", name, q, ok, want)
		}
	}
}

// otherSource is a DNS of one address.
type otherSource struct{}

func (otherSource) Check(resolver.Query) error { return nil }

func (otherSource) Watch(ctx context.Context, _ resolver.Query, publish func(resolver.Answer)) error {
	publish(resolver.Answer{Endpoints: []resolver.Endpoint{{Host: "by-dns", Port: 1}}})
	<-ctx.Done()
	return nil
}

func TestNames(t *testing.T) {
	agent := newFakeAgent(t, list(
		instance("a", "10.0.0.1", "", 31000, 1, "passing"),
		instance("b", "b.test", "", 31000, 1, "warning"),
		instance("c", "2001:db8::3", "", 31000, 1, "critical"),
		instance("d", "", "", 31000, 1, "passing"),
	))
	client := newTestClient(t, Config{Address: agent.address})
	names := client.Names(otherSource{})
	for _, tt := range []struct {
		query   resolver.Query
		want    []string
		leftOut string // the address of the instance that is critical
	}{
		{resolver.Query{Scheme: resolver.SchemeSRV, Host: "web.service.consul"}, []string{"10.0.0.1:31000", "b.test:31000"}, "[2001:db8::3]:31000"},
		{resolver.Query{Scheme: resolver.SchemeDNS, Host: "web.service.consul", Port: 80}, []string{"10.0.0.1:80", "b.test:80"}, "[2001:db8::3]:80"},
		{resolver.Query{Scheme: resolver.SchemeSRV, Host: "web.example.com"}, []string{"by-dns:1"}, ""},
		{resolver.Query{Scheme: resolver.SchemeSRV, Host: "web.service.consul", Server: "127.0.0.1:8600"}, []string{"by-dns:1"}, ""},
	} {
		if err := names.Check(tt.query); err != nil {
			t.Error(err)
		}
		w := sourcetest.Watch(t, names, tt.query)
		a := w.Await(t, tt.want...)
		if tt.leftOut != "" {
			checkLeftOut(t, a, "c ("+tt.leftOut+`) is critical by its node's check "c0"`, "d is registered without a usable address and port")
		}
		w.Stop(t)
	}
}

func FuzzTranslate(f *testing.F) {
	for _, name := range []string{"redis.service.consul", "_a._b.service.x.dc.consul", ".service..consul", "query.query.consul"} {
		f.Add(name)
	}
	client := New(Config{})
	names := client.Names(otherSource{})
	f.Fuzz(func(t *testing.T, name string) {
		q, ok := client.translate(name)
		if !ok {
			return
		}
		if _, err := resolver.Parse(name); err != nil { // only what parses is asked
			return
		}
		if err := names.Check(resolver.Query{Scheme: resolver.SchemeSRV, Host: name}); err != nil {
			t.Errorf("%q becomes %s: %v", name, q, err)
		}
	})
}

// TestAdviceOnNames: a name of Consul's that DNS does not give leads to an agent that answers here.
func TestAdviceOnNames(t *testing.T) {
	t.Setenv("CONSUL_HTTP_ADDR", "")
	agent := newFakeAgent(t, "[]")
	for _, test := range []struct {
		name, address, host, want string
	}{
		{"an agent answers", agent.address, "redis.service.consul", "--consul-addr " + agent.address},
		{"the name is another's", agent.address, "redis.example.com", ""},
		{"no agent answers", servertest.Nobody(t).String(), "redis.service.consul", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			client := newTestClient(t, Config{})
			client.configured = []string{test.address} // where agents usually are
			got := client.Advice(t.Context(), resolver.Query{Scheme: resolver.SchemeSRV, Host: test.host})
			if (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
				t.Errorf("advice %q; want %q", got, test.want)
			}
		})
	}
	client := newTestClient(t, Config{Address: agent.address})
	if got := client.Advice(t.Context(), resolver.Query{Scheme: resolver.SchemeSRV, Host: "redis.service.consul"}); got != "" {
		t.Errorf("advice %q although the agent is configured", got)
	}
}
