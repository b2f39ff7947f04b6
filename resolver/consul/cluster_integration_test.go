//go:build integration

package consul

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/ambassadord/ambassadord/internal/consultest"
	"github.com/ambassadord/ambassadord/internal/servertest"
	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/sourcetest"
)

// Three servers, the leader killed: watches go on at the others, and changes made
// after the next election arrive.
func TestRealClusterLosesItsLeader(t *testing.T) {
	servers := consultest.StartCluster(t, 3)
	leader := 0
	for !servers[leader].IsLeader(t) {
		leader++
	}
	others := []*consultest.Server{servers[(leader+1)%3], servers[(leader+2)%3]}
	client := newTestClient(t, Config{Address: servers[leader].HTTPAddr + "," + others[0].HTTPAddr + "," + others[1].HTTPAddr})
	op := newOperator(t, others[0])
	op.register("r1", "redis", "10.1.0.1", 6379)
	op.put("redis", "10.2.0.1:6379")
	byOne := newTestClient(t, Config{Address: others[0].HTTPAddr})
	stale := sourcetest.Watch(t, byOne.Services(), serviceQuery("redis", "consistency=stale"))
	service := sourcetest.Watch(t, client.Services(), serviceQuery("redis", ""))
	key := sourcetest.Watch(t, client.KV(), kvQuery("", "redis"))
	stale.Await(t, "10.1.0.1:6379")
	service.Await(t, "10.1.0.1:6379")
	key.Await(t, "10.2.0.1:6379")

	servers[leader].Stop(t)
	others[0].Await(t) // has elected another
	for deadline := time.Now().Add(30 * time.Second); ; {
		_, err := op.Client.KV().Put(&api.KVPair{Key: "redis", Value: []byte("10.2.0.1:6380")}, nil)
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	op.register("r1", "redis", "10.1.0.1", 6380)
	resume(t, client.KV(), kvQuery("", "redis"), key, "10.2.0.1:6380")
	resume(t, client.Services(), serviceQuery("redis", ""), service, "10.1.0.1:6380")
	resume(t, byOne.Services(), serviceQuery("redis", "consistency=stale"), stale, "10.1.0.1:6380")

	// With one of three left there is no leader: who wants consistency is told, who
	// does not gets the last answer.
	others[1].Stop(t)
	alone := newTestClient(t, Config{Address: others[0].HTTPAddr})
	err := await(t, func() error {
		return failure(t, alone.Services(), serviceQuery("redis", "consistency=consistent"))
	})
	checkError(t, err, "", "service redis", others[0].HTTPAddr)
	w := sourcetest.Watch(t, alone.Services(), serviceQuery("redis", "consistency=stale"))
	w.Await(t, "10.1.0.1:6380")
	w.Stop(t)
}

// resume awaits endpoint from w, or if w has failed, as it may while there is no
// leader, from another watch, as the Resolver starts them.
func resume(t *testing.T, source resolver.Source, q resolver.Query, w *sourcetest.Watcher, endpoint string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		select {
		case a := <-w.Answers():
			if got := sourcetest.Endpoints(a); len(got) == 1 && got[0] == endpoint {
				return
			}
		case err := <-w.Done():
			t.Logf("watched anew: %v", err)
			w = sourcetest.Watch(t, source, q)
		case <-time.After(time.Until(deadline)):
		}
	}
	t.Fatalf("%s does not become %s", q, endpoint)
}

// failure is how a new watch fails, nil if it answers.
func failure(t *testing.T, source resolver.Source, q resolver.Query) error {
	t.Helper()
	w := sourcetest.Watch(t, source, q)
	select {
	case <-w.Answers():
		w.Stop(t)
		return nil
	case err := <-w.Done():
		return err
	}
}

func await(t *testing.T, try func() error) error {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		if err := try(); err != nil {
			return err
		}
	}
	t.Fatal("no error")
	return nil
}

// An agent takes so many connections from one address; far more watches than that
// learn of every change.
func TestRealSharedWatch(t *testing.T) {
	const services, limit, slotsHere = 80, 60, 3
	server := consultest.Start(t, fmt.Sprintf("-hcl=limits { http_max_conns_per_client = %d }", limit))
	op := newOperator(t, server)
	client := newTestClient(t, Config{Address: server.HTTPAddr, Slots: slotsHere})
	name := func(i int) string { return "web" + strconv.Itoa(i) }
	ttl := func(i int) *api.AgentServiceCheck {
		return &api.AgentServiceCheck{CheckID: name(i) + "-ttl", TTL: "10m", Status: api.HealthPassing}
	}
	for i := range services {
		op.registerWith(&api.AgentServiceRegistration{ID: name(i), Name: name(i), Address: "10.1.0.1", Port: 1000 + i, Check: ttl(i)})
	}
	watches := make([]*sourcetest.Watcher, services+1)
	for i := range watches { // the last one has no instance yet
		params := ""
		if i%2 == 0 {
			params = "health=warning"
		}
		watches[i] = sourcetest.Watch(t, client.Services(), serviceQuery(name(i), params))
	}
	for i, w := range watches[:services] {
		w.Await(t, fmt.Sprintf("10.1.0.1:%d", 1000+i))
	}
	watches[services].Await(t)
	for i, w := range watches[:services] { // one by one, and back
		op.registerWith(&api.AgentServiceRegistration{ID: name(i), Name: name(i), Address: "10.1.0.1", Port: 2000 + i, Check: ttl(i)})
		w.Await(t, fmt.Sprintf("10.1.0.1:%d", 2000+i))
	}
	set := func(i int, status string) {
		t.Helper()
		if err := op.Agent().UpdateTTL(name(i)+"-ttl", "", status); err != nil {
			t.Fatal(err)
		}
	}
	// While a list is empty Consul tells of changes that are none of it.
	set(0, api.HealthCritical)
	set(1, api.HealthWarning)
	watches[0].Await(t)
	watches[1].Await(t)
	for i := services - 5; i < services; i++ {
		here := fmt.Sprintf("10.1.0.1:%d", 2000+i)
		if i%2 != 0 {
			set(i, api.HealthWarning)
			watches[i].Await(t)
			set(i, api.HealthPassing)
			watches[i].Await(t, here)
		}
		set(i, api.HealthCritical)
		watches[i].Await(t)
		set(i, api.HealthWarning)
		if i%2 == 0 { // it wants those with warnings: for it nothing changes after this
			watches[i].Await(t, here)
		}
		set(i, api.HealthPassing)
		if i%2 != 0 {
			watches[i].Await(t, here)
		}
		op.deregister(name(i))
		watches[i].Await(t)
	}
	op.register(name(services), name(services), "10.1.0.2", 80)
	watches[services].Await(t, "10.1.0.2:80")

	const most = slotsHere + shortSlots + 3 + 8 // those just done with, and the operator's
	if n := connections(t, server.HTTPAddr); n > most {
		t.Errorf("%d connections to the agent, want at most %d", n, most)
	}
	for _, w := range watches {
		w.Stop(t)
	}
	a, err := client.agent(server.HTTPAddr, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Close(); err != nil || a.shared.Len() != 0 {
		t.Errorf("the shared watch outlives its client: %v", err)
	}
}

// An agent goes on with queries that nobody waits for any more, and counts their
// connections. Watches that come and go, more than it takes connections, use up neither
// its patience nor their own.
func TestRealComingsAndGoings(t *testing.T) {
	const limit, slotsHere = 60, 20
	server := consultest.Start(t, fmt.Sprintf("-hcl=limits { http_max_conns_per_client = %d }", limit))
	op := newOperator(t, server)
	op.register("web", "web", "10.1.0.1", 80)
	op.put("web", "10.1.0.1:80")
	for name, source := range map[string]func(*Client) (resolver.Source, resolver.Query){
		"KV":       func(c *Client) (resolver.Source, resolver.Query) { return c.KV(), kvQuery("", "web") },
		"services": func(c *Client) (resolver.Source, resolver.Query) { return c.Services(), serviceQuery("web", "") },
		"services, all by the shared watch": func(c *Client) (resolver.Source, resolver.Query) {
			c.config.Slots = 0
			return c.Services(), serviceQuery("web", "")
		},
	} {
		t.Run(name, func(t *testing.T) {
			client := newTestClient(t, Config{Address: server.HTTPAddr, Slots: slotsHere})
			s, q := source(client)
			for range 2 * limit {
				w := sourcetest.Watch(t, s, q)
				w.Await(t, "10.1.0.1:80")
				time.Sleep(5 * time.Millisecond) // nothing tells that its query is on the way; one that is not proves less
				w.Stop(t)
			}
			if err := client.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// connections counts this process's side of the connections to address.
func connections(t *testing.T, address string) int {
	t.Helper()
	text, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := strings.Cut(address, ":")
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	const established = "01"
	n := 0
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if strings.HasSuffix(fields[2], fmt.Sprintf(":%04X", number)) && fields[3] == established {
			n++
		}
	}
	return n
}

func TestRealTLS(t *testing.T) {
	authority := servertest.NewAuthority(t)
	server := consultest.StartTLS(t, authority, "consul.test")
	op := newOperator(t, server)
	op.register("r1", "redis", "10.1.0.1", 6379)
	ask := func(address string) *sourcetest.Watcher {
		client := newTestClient(t, Config{Address: address, Slots: 1})
		return sourcetest.Watch(t, client.Services(), serviceQuery("redis", ""))
	}
	secure := "https://" + server.HTTPSAddr
	checkError(t, ask(server.HTTPSAddr).Err(t), "CONSUL_HTTP_SSL", server.HTTPSAddr, "HTTPS")
	checkError(t, ask("https://"+server.HTTPAddr).Err(t), "CONSUL_HTTP_SSL", "the agent does not speak TLS")
	checkError(t, ask(secure).Err(t), "CONSUL_CACERT", "certificate")
	t.Setenv("CONSUL_CACERT", authority.CAFile)
	checkError(t, ask(secure).Err(t), "CONSUL_TLS_SERVER_NAME", "certificate")
	t.Setenv("CONSUL_TLS_SERVER_NAME", "consul.test")
	checkError(t, ask(secure).Err(t), "CONSUL_CLIENT_CERT", server.HTTPSAddr)
	stranger := servertest.NewAuthority(t)
	setPair := func(a *servertest.Authority) {
		cert, key := a.Issue(t, "client")
		t.Setenv("CONSUL_CLIENT_CERT", cert)
		t.Setenv("CONSUL_CLIENT_KEY", key)
	}
	setPair(stranger)
	checkError(t, ask(secure).Err(t), "CONSUL_CLIENT_CERT", server.HTTPSAddr)
	setPair(authority)
	w := ask(secure)
	w.Await(t, "10.1.0.1:6379")
	w.Stop(t)

	// HTTP/2: as many blocking queries as one likes, over a connection or two.
	client := newTestClient(t, Config{Address: secure, Slots: 1})
	var watches []*sourcetest.Watcher
	for range 40 {
		w := sourcetest.Watch(t, client.Services(), serviceQuery("redis", ""))
		w.Await(t, "10.1.0.1:6379")
		watches = append(watches, w)
	}
	op.register("r1", "redis", "10.1.0.1", 6380)
	for _, w := range watches {
		w.Await(t, "10.1.0.1:6380")
	}
	if n := connections(t, server.HTTPSAddr); n == 0 || n > 3 {
		t.Errorf("%d connections for 40 watches", n)
	}
	a, err := client.agent(secure, true)
	if err != nil {
		t.Fatal(err)
	}
	if a.shared.Len() != 0 {
		t.Error("some had no query of their own")
	}
	for _, w := range watches {
		w.Stop(t)
	}
}

// A token that is replaced in its file is used from the next request on, and what
// one token is denied costs nobody else.
func TestRealTokenFile(t *testing.T) {
	const root = "5f0bd4a8-9f3c-4d7e-8a51-7f2f6a1d9c11"
	server := consultest.Start(t, `-hcl=acl {
		enabled = true
		default_policy = "deny"
		tokens { initial_management = "`+root+`" agent = "`+root+`" }
	}`)
	op := newOperator(t, server)
	op.Client.AddHeader("X-Consul-Token", root)
	path := filepath.Join(t.TempDir(), "token")
	write := func(token string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, _, err := op.ACL().PolicyCreate(&api.ACLPolicy{Name: "redis", Rules: `service "redis" { policy = "read" } node_prefix "" { policy = "read" }`}, nil)
	if err != nil {
		t.Fatal(err)
	}
	token, _, err := op.ACL().TokenCreate(&api.ACLToken{Policies: []*api.ACLTokenPolicyLink{{Name: "redis"}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	op.register("r1", "redis", "10.1.0.1", 6379)
	op.register("w1", "web", "10.1.0.2", 80)

	t.Setenv("CONSUL_HTTP_TOKEN_FILE", path)
	client := newTestClient(t, Config{Address: server.HTTPAddr})
	write("11111111-2222-3333-4444-555555555555")
	checkError(t, sourcetest.Watch(t, client.Services(), serviceQuery("redis", "")).Err(t), "CONSUL_HTTP_TOKEN_FILE", "status 403", "service redis")
	write(token.SecretID)
	w := sourcetest.Watch(t, client.Services(), serviceQuery("redis", ""))
	w.Await(t, "10.1.0.1:6379")
	web := sourcetest.Watch(t, client.Services(), serviceQuery("web", ""))
	if a := web.Next(t); len(a.Endpoints) != 0 || !strings.Contains(a.Note, "the token may not read") {
		t.Errorf("a service that is denied: %+v", a)
	}
	web.Stop(t)
	op.register("r1", "redis", "10.1.0.1", 6380)
	w.Await(t, "10.1.0.1:6380")
	w.Stop(t)
	if _, err := op.ACL().TokenDelete(token.AccessorID, nil); err != nil {
		t.Fatal(err)
	}
	write(root)
	w = sourcetest.Watch(t, client.Services(), serviceQuery("web", ""))
	w.Await(t, "10.1.0.2:80")
	w.Stop(t)
}

func TestRealPreparedQueryAndNames(t *testing.T) {
	server := consultest.Start(t)
	op := newOperator(t, server)
	client := newTestClient(t, Config{Address: server.HTTPAddr})
	checkError(t, sourcetest.Watch(t, client.Queries(), preparedQuery("any", "")).Err(t), "check the name", "prepared query any", "Query not found")
	op.register("r1", "redis", "10.1.0.1", 6379, "primary")
	op.register("r2", "redis", "10.1.0.2", 6379)
	definition := &api.PreparedQueryDefinition{Name: "any", Service: api.ServiceQuery{Service: "redis"}}
	if _, _, err := op.PreparedQuery().Create(definition, nil); err != nil {
		t.Fatal(err)
	}
	names := client.Names(otherSource{})
	for host, want := range map[string][]string{
		"any.query.consul":                 {"10.1.0.1:6379", "10.1.0.2:6379"},
		"redis.service.dc1.consul":         {"10.1.0.1:6379", "10.1.0.2:6379"},
		"primary.redis.service.consul":     {"10.1.0.1:6379"},
		"_redis._primary.service.consul":   {"10.1.0.1:6379"},
		"none.service.consul":              nil,
		"secondary.redis.service.consul":   nil,
		"redis.service.dc1.dc.consul":      {"10.1.0.1:6379", "10.1.0.2:6379"},
		"redis.service.somewhere.consul.x": {"by-dns:1"},
	} {
		t.Run(host, func(t *testing.T) {
			w := sourcetest.Watch(t, names, resolver.Query{Scheme: resolver.SchemeSRV, Host: host})
			w.Await(t, want...)
			w.Stop(t)
		})
	}
	checkError(t, failure(t, client.Services(), serviceQuery("redis", "ns=team")), "leave out ns", "redis in namespace team", "Enterprise")
	w := sourcetest.Watch(t, names, resolver.Query{Scheme: resolver.SchemeDNS, Host: "redis.service.consul", Port: 80})
	w.Await(t, "10.1.0.1:80", "10.1.0.2:80")
	op.deregister("r2") // live, where DNS would wait for a TTL
	w.Await(t, "10.1.0.1:80")
	w.Stop(t)
	query := sourcetest.Watch(t, client.Queries(), preparedQuery("any", ""))
	query.Await(t, "10.1.0.1:6379")
	op.deregister("r1")
	query.Await(t)
	query.Stop(t)
}
