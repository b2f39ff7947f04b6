//go:build integration

package consul

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/hashicorp/consul/api"

	"github.com/ambassadord/ambassadord/internal/consultest"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/servertest"
	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/dns"
	"github.com/ambassadord/ambassadord/resolver/sourcetest"
)

// operator is the API as the people and programs that fill Consul use it.
type operator struct {
	*api.Client
	t testing.TB
}

func newOperator(t testing.TB, server *consultest.Server) operator {
	t.Helper()
	config := api.DefaultNonPooledConfig()
	config.Address = server.HTTPAddr
	client, err := api.NewClient(config)
	if err != nil {
		t.Fatal(err)
	}
	return operator{client, t}
}

func (o operator) register(id, name, address string, port int, tags ...string) {
	o.t.Helper()
	o.registerWith(&api.AgentServiceRegistration{ID: id, Name: name, Address: address, Port: port, Tags: tags})
}

func (o operator) registerWith(r *api.AgentServiceRegistration) {
	o.t.Helper()
	if err := o.Agent().ServiceRegister(r); err != nil {
		o.t.Fatal(err)
	}
}

func (o operator) deregister(id string) {
	o.t.Helper()
	if err := o.Agent().ServiceDeregister(id); err != nil {
		o.t.Fatal(err)
	}
}

func (o operator) put(key, value string) {
	o.t.Helper()
	if _, err := o.Client.KV().Put(&api.KVPair{Key: key, Value: []byte(value)}, nil); err != nil {
		o.t.Fatal(err)
	}
}

func (o operator) deleteTree(key string) {
	o.t.Helper()
	if _, err := o.Client.KV().DeleteTree(key, nil); err != nil {
		o.t.Fatal(err)
	}
}

func TestRealServices(t *testing.T) {
	server := consultest.Start(t)
	op := newOperator(t, server)
	client := newTestClient(t, Config{Address: server.HTTPAddr})

	t.Run("register, move, deregister", func(t *testing.T) {
		w := sourcetest.Watch(t, client.Services(), serviceQuery("redis", ""))
		if a := w.Next(t); len(a.Endpoints) != 0 || !strings.Contains(a.Note, "no instance of service redis") {
			t.Errorf("first answer %+v", a)
		}
		op.register("r1", "redis", "10.1.0.1", 6379)
		w.Await(t, "10.1.0.1:6379")
		op.register("r1", "redis", "10.1.0.1", 7000)
		w.Await(t, "10.1.0.1:7000")
		op.registerWith(&api.AgentServiceRegistration{ID: "r2", Name: "redis", Port: 7001, // its address is its node's
			Weights: &api.AgentWeights{Passing: 9, Warning: 1}})
		a := w.Await(t, "10.1.0.1:7000", "127.0.0.1:7001")
		if e := a.Endpoints[1]; e.Name != "r2" || e.Weight != 9 || a.Endpoints[0].Weight != 1 {
			t.Errorf("endpoints %+v", a.Endpoints)
		}
		op.deregister("r1")
		w.Await(t, "127.0.0.1:7001")
		op.deregister("r2")
		w.Await(t)
		w.Stop(t)
	})

	t.Run("only passing", func(t *testing.T) {
		w := sourcetest.Watch(t, client.Services(), serviceQuery("web", ""))
		check := &api.AgentServiceCheck{CheckID: "web-ttl", TTL: "10m", Status: api.HealthPassing}
		op.registerWith(&api.AgentServiceRegistration{ID: "w1", Name: "web", Address: "web.example.com", Port: 80, Check: check})
		op.register("w2", "web", "10.1.0.2", 80)
		w.Await(t, "10.1.0.2:80", "web.example.com:80")
		if err := op.Agent().UpdateTTL("web-ttl", "", api.HealthWarning); err != nil {
			t.Fatal(err)
		}
		checkLeftOut(t, w.Await(t, "10.1.0.2:80"), `w1 (web.example.com:80) is warning by its check "Service 'web' check"`)
		if err := op.Agent().EnableServiceMaintenance("w2", "test"); err != nil {
			t.Fatal(err)
		}
		checkLeftOut(t, w.Await(t), `w1 (web.example.com:80) is warning by its check "Service 'web' check"`, `w2 (10.1.0.2:80) is in maintenance: "test"`)
		if err := op.Agent().UpdateTTL("web-ttl", "", api.HealthPassing); err != nil {
			t.Fatal(err)
		}
		w.Await(t, "web.example.com:80")
		w.Stop(t)
	})

	t.Run("tags and near", func(t *testing.T) {
		op.register("t1", "tagged", "10.1.0.3", 80, "a")
		op.register("t2", "tagged", "10.1.0.4", 80, "a", "b")
		for params, want := range map[string][]string{
			"":                        {"10.1.0.3:80", "10.1.0.4:80"},
			"near=_agent&tag=a":       {"10.1.0.3:80", "10.1.0.4:80"},
			"dc=dc1&tag=a&tag=b":      {"10.1.0.4:80"},
			"near=_agent&tag=c&tag=a": nil,
		} {
			w := sourcetest.Watch(t, client.Services(), serviceQuery("tagged", params))
			w.Await(t, want...)
			w.Stop(t)
		}
	})

	t.Run("named ports", func(t *testing.T) {
		op.registerWith(&api.AgentServiceRegistration{ID: "p1", Name: "ported", Address: "10.1.0.5", Ports: api.ServicePorts{
			{Name: "http", Port: 8080, Default: true}, {Name: "grpc", Port: 9090},
		}})
		op.register("p2", "ported", "10.1.0.6", 80)
		for params, want := range map[string][]string{
			"":          {"10.1.0.5:8080", "10.1.0.6:80"},
			"port=http": {"10.1.0.5:8080"},
			"port=grpc": {"10.1.0.5:9090"},
			"port=smtp": nil,
		} {
			w := sourcetest.Watch(t, client.Services(), serviceQuery("ported", params))
			a := w.Await(t, want...)
			if params == "port=smtp" {
				checkLeftOut(t, a, `p1 has no port named "smtp", but "http", "grpc"`, `p2 has no port named "smtp"`)
			}
			w.Stop(t)
		}
		w := sourcetest.Watch(t, client.Services(), serviceQuery("ported", "port=grpc"))
		w.Await(t, "10.1.0.5:9090")
		op.registerWith(&api.AgentServiceRegistration{ID: "p1", Name: "ported", Address: "10.1.0.5", Ports: api.ServicePorts{
			{Name: "http", Port: 8080, Default: true}, {Name: "grpc", Port: 9091},
		}})
		w.Await(t, "10.1.0.5:9091")
		w.Stop(t)
	})

	t.Run("what a community server has not", func(t *testing.T) {
		for _, params := range []string{"ns=team", "partition=p1"} {
			for _, w := range []*sourcetest.Watcher{
				sourcetest.Watch(t, client.Services(), serviceQuery("web", params)),
				sourcetest.Watch(t, client.KV(), resolver.Query{Scheme: SchemeKV, Path: "web", Params: params}),
			} {
				checkError(t, w.Err(t), "leave out ns= and partition=", server.HTTPAddr, "Consul Enterprise feature")
			}
		}
	})

	t.Run("unknown datacenter", func(t *testing.T) {
		checkError(t, sourcetest.Watch(t, client.Services(), serviceQuery("web", "dc=nowhere")).Err(t),
			"check dc=", "service web in datacenter nowhere", "No path to datacenter")
	})
}

// TestRealConformance runs the suite against an agent that is stopped and started
// anew, with nothing of what it knew.
func TestRealConformance(t *testing.T) {
	// A blocking query that nobody waits for any more counts for its connection until
	// it is over: far more watches come and go here than on a host.
	server := consultest.Start(t, "-hcl=limits { http_max_conns_per_client = 10000 }")
	op := newOperator(t, server)
	breakable := func(control sourcetest.Control) sourcetest.Control {
		control.Port = 80
		control.Spare = max(control.Spare, heartbeatSpare)
		control.Break = func(t testing.TB) { server.Stop(t) }
		control.Mend = func(t testing.TB) { server.Restart(t) }
		return control
	}
	set := func(t testing.TB, endpoints ...string) {
		t.Helper()
		id := func(i int) string { return "c" + strconv.Itoa(i) }
		for i, e := range endpoints {
			at := netip.MustParseAddrPort(e)
			op.register(id(i), "conform", at.Addr().String(), int(at.Port()))
		}
		known, err := op.Agent().ServicesWithFilter("Service == conform")
		if err != nil {
			t.Fatal(err)
		}
		for i := len(endpoints); known[id(i)] != nil; i++ {
			op.deregister(id(i))
		}
	}
	services := func(t *testing.T, source func(*Client) resolver.Source, q resolver.Query, control sourcetest.Control) {
		t.Helper()
		op.register("c0", "conform", "10.1.0.5", 80)
		control.Set = set
		sourcetest.Run(t, sourcetest.Case{
			New: func(testing.TB) (resolver.Source, func()) {
				client := New(conformConfig(server.HTTPAddr))
				return source(client), func() { _ = client.Close() }
			},
			Query:       q,
			Want:        []string{"10.1.0.5:80"},
			Change:      func(testing.TB) { op.register("c0", "conform", "10.1.0.5", 81) },
			WantChanged: []string{"10.1.0.5:81"},
			Control:     control,
			Own:         servertest.Goroutines(),
		})
	}
	t.Run("services", func(t *testing.T) {
		services(t, (*Client).Services, serviceQuery("conform", ""), breakable(sourcetest.Control{Updates: 1000})) // an agent takes 10 ms for each
	})
	t.Run("services by a shared watch", func(t *testing.T) {
		shared := func(c *Client) resolver.Source {
			c.config.Slots = 0
			return c.Services()
		}
		services(t, shared, serviceQuery("conform", ""), breakable(sourcetest.Control{Updates: 300, Spare: 4 * shortSlots}))
	})
	t.Run("prepared queries", func(t *testing.T) {
		define := func() {
			_, _, err := op.PreparedQuery().Create(&api.PreparedQueryDefinition{Name: "conform-query", Service: api.ServiceQuery{Service: "conform"}}, nil)
			if err != nil {
				t.Fatal(err)
			}
		}
		define()
		control := breakable(sourcetest.Control{Updates: 300})
		restart := control.Mend
		control.Mend = func(t testing.TB) {
			restart(t)
			define() // the agent has forgotten it
		}
		services(t, (*Client).Queries, preparedQuery("conform-query", ""), control)
	})
	t.Run("KV", func(t *testing.T) {
		op.put("conform", "10.1.0.5:80")
		sourcetest.Run(t, sourcetest.Case{
			New: func(testing.TB) (resolver.Source, func()) {
				client := New(conformConfig(server.HTTPAddr))
				return client.KV(), func() { _ = client.Close() }
			},
			Query:       kvQuery("", "conform"),
			Want:        []string{"10.1.0.5:80"},
			Change:      func(testing.TB) { op.put("conform", "10.1.0.5:81") },
			WantChanged: []string{"10.1.0.5:81"},
			Control: breakable(sourcetest.Control{
				Set: func(_ testing.TB, endpoints ...string) { op.put("conform", strings.Join(endpoints, ",")) },
			}),
			Own: servertest.Goroutines(),
		})
	})
}

func TestRealKV(t *testing.T) {
	server := consultest.Start(t)
	op := newOperator(t, server)
	client := newTestClient(t, Config{Address: server.HTTPAddr})
	w := sourcetest.Watch(t, client.KV(), kvQuery(server.HTTPAddr, "services/redis"))
	if a := w.Next(t); len(a.Endpoints) != 0 || !strings.Contains(a.Note, "no value at services/redis") {
		t.Errorf("first answer %+v", a)
	}
	op.put("services/redis", "10.0.0.1:6379, redis.example.com:6379")
	w.Await(t, "10.0.0.1:6379", "redis.example.com:6379")
	op.put("services/redis/", "")
	op.put("services/redis2/a", "10.9.9.9:1")
	op.put("services/redis/a", "10.0.0.2:6379")
	w.Await(t, "10.0.0.2:6379")
	op.put("services/redis/b/c", "10.0.0.3:6379,10.0.0.2:6379,nonsense")
	if a := w.Await(t, "10.0.0.2:6379", "10.0.0.3:6379"); !slices.Equal(sourcetest.LeftOut(a), []string{`services/redis/b/c lists "nonsense" ("nonsense" has no port)`}) {
		t.Errorf("answer %+v", a)
	}
	op.deleteTree("services/redis/")
	w.Await(t, "10.0.0.1:6379", "redis.example.com:6379")
	op.deleteTree("services/redis")
	w.Await(t)
	w.Stop(t)
}

func TestRealRestart(t *testing.T) {
	server := consultest.Start(t)
	client := newTestClient(t, Config{Address: server.HTTPAddr})
	newOperator(t, server).register("r1", "redis", "10.1.0.1", 6379)
	w := sourcetest.Watch(t, client.Services(), serviceQuery("redis", ""))
	w.Await(t, "10.1.0.1:6379")

	server.Stop(t)
	if err := w.Err(t); err == nil || !strings.Contains(err.Error(), server.HTTPAddr) || hint.Of(err) == "" {
		t.Errorf("the agent stopped: error %v, hint %q", err, hint.Of(err))
	}
	checkError(t, sourcetest.Watch(t, client.Services(), serviceQuery("redis", "")).Err(t),
		"check that the agent runs", server.HTTPAddr, "connection refused")

	server.Restart(t)
	newOperator(t, server).register("r1", "redis", "10.1.0.1", 6380)
	w = sourcetest.Watch(t, client.Services(), serviceQuery("redis", ""))
	w.Await(t, "10.1.0.1:6380")
	w.Stop(t)
}

func TestRealACLs(t *testing.T) {
	const root = "5f0bd4a8-9f3c-4d7e-8a51-7f2f6a1d9c11"
	server := consultest.Start(t, `-hcl=acl {
		enabled = true
		default_policy = "deny"
		tokens { initial_management = "`+root+`" agent = "`+root+`" }
	}`)
	anonymous := newTestClient(t, Config{Address: server.HTTPAddr})
	// Consul hides what a token may not read rather than refusing to answer.
	for _, w := range []*sourcetest.Watcher{
		sourcetest.Watch(t, anonymous.Services(), serviceQuery("consul", "")),
		sourcetest.Watch(t, anonymous.KV(), kvQuery("", "services/redis")),
	} {
		if a := w.Next(t); len(a.Endpoints) != 0 || !strings.Contains(a.Note, "ACLs deny by default") || !strings.Contains(a.Hint, "CONSUL_HTTP_TOKEN") {
			t.Errorf("without a token: %+v", a)
		}
		w.Stop(t)
	}
	checkError(t, anonymous.CheckToken(t.Context()), "CONSUL_HTTP_TOKEN", "hides everything from who has no token")

	t.Setenv("CONSUL_HTTP_TOKEN", "11111111-2222-3333-4444-555555555555")
	wrong := newTestClient(t, Config{Address: server.HTTPAddr})
	checkError(t, sourcetest.Watch(t, wrong.Services(), serviceQuery("consul", "")).Err(t),
		"CONSUL_HTTP_TOKEN", "status 403", "service consul")
	checkError(t, wrong.CheckToken(t.Context()), "CONSUL_HTTP_TOKEN", "status 403", "service consul")

	t.Setenv("CONSUL_HTTP_TOKEN", root)
	if err := newTestClient(t, Config{Address: server.HTTPAddr}).CheckToken(t.Context()); err != nil {
		t.Errorf("with a token that may read all: %v", err)
	}
	right := newTestClient(t, Config{Address: server.HTTPAddr})
	w := sourcetest.Watch(t, right.Services(), serviceQuery("consul", ""))
	for len(w.Next(t).Endpoints) == 0 { // the server enters itself a moment after its election
	}
	w.Stop(t)
}

// TestRealDNS resolves through Consul's own DNS interface, with targets that only
// Consul knows (7f000001.addr.dc1.consul).
func TestRealDNS(t *testing.T) {
	server := consultest.Start(t)
	op := newOperator(t, server)
	op.register("r1", "redis", "10.1.0.1", 6379, "primary")
	op.register("r2", "redis", "10.1.0.2", 6380)
	client := dns.New(dns.Config{Servers: []string{server.DNSAddr}})

	w := sourcetest.Watch(t, client.Services(), resolver.Query{Scheme: resolver.SchemeSRV, Host: "redis.service.consul"})
	w.Await(t, "10.1.0.1:6379", "10.1.0.2:6380")
	op.register("r2", "redis", "10.1.0.2", 7000)
	a := w.Await(t, "10.1.0.1:6379", "10.1.0.2:7000")
	for _, e := range a.Endpoints {
		if e.Priority != 1 || e.Weight != 1 || !strings.HasSuffix(e.Name, ".addr.dc1.consul") {
			t.Errorf("endpoint %+v", e)
		}
	}
	op.deregister("r2")
	w.Await(t, "10.1.0.1:6379")
	w.Stop(t)

	for name, want := range map[string][]string{
		"primary.redis.service.consul": {"10.1.0.1:6379"},
		"none.service.consul":          nil,
	} {
		w := sourcetest.Watch(t, client.Services(), resolver.Query{Scheme: resolver.SchemeSRV, Host: name})
		w.Await(t, want...)
		w.Stop(t)
	}
	w = sourcetest.Watch(t, client.Hosts(), resolver.Query{Scheme: resolver.SchemeDNS, Host: "redis.service.consul", Port: 80})
	w.Await(t, "10.1.0.1:80")
	w.Stop(t)
}
