//go:build integration

package dns

import (
	"fmt"
	"testing"

	"github.com/hashicorp/consul/api"

	"github.com/ambassadord/ambassadord/internal/consultest"
	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/sourcetest"
)

// TestConsulAsAServer asks Consul's DNS interface as the server that a target names,
// port and all, while the system's server knows nothing of Consul.
func TestConsulAsAServer(t *testing.T) {
	server := consultest.Start(t)
	agent, err := api.NewClient(&api.Config{Address: server.HTTPAddr})
	if err != nil {
		t.Fatal(err)
	}
	register := func(id, name, address string, port int) {
		t.Helper()
		err := agent.Agent().ServiceRegister(&api.AgentServiceRegistration{ID: id, Name: name, Address: address, Port: port})
		if err != nil {
			t.Fatal(err)
		}
	}
	system := newTestServer(t, "pg.example.com. 60 A 10.9.0.1")
	client := New(testConfig(t, "", "", system))
	watch := func(name string) *sourcetest.Watcher {
		t.Helper()
		q, source := askAt(t, server.DNSAddr, name), client.Hosts()
		if q.Scheme == resolver.SchemeSRV {
			source = client.Services()
		}
		return sourcetest.Watch(t, source, q)
	}

	// More instances than Consul gives over UDP, of which it says nothing.
	const instances = 60
	var services, hosts []string
	for i := range instances {
		address := fmt.Sprintf("10.1.0.%d", i+1)
		register(fmt.Sprintf("r%d", i), "redis", address, 6000+i)
		services = append(services, fmt.Sprintf("%s:%d", address, 6000+i))
		hosts = append(hosts, address+":6379")
	}
	srv := watch("redis.service.consul")
	srv.Await(t, services...)
	host := watch("redis.service.consul:6379")
	host.Await(t, hosts...)
	for range 5 { // always all of them, not others each time
		found, err := client.lookupService(t.Context(), at(server.DNSAddr, serviceQuery("redis.service.consul")))
		if err != nil || len(found.answer.Endpoints) != instances {
			t.Errorf("%d of %d instances, %v", len(found.answer.Endpoints), instances, err)
		}
	}
	srv.Quiet(t)
	host.Quiet(t)
	if err := agent.Agent().ServiceDeregister("r0"); err != nil {
		t.Fatal(err)
	}
	srv.Await(t, services[1:]...)
	host.Await(t, hosts[1:]...)
	srv.Stop(t)
	host.Stop(t)

	// A service outside, under a name that only the system's servers know.
	register("pg", "pg", "pg.example.com", 5432)
	outside := watch("pg.service.consul:5432")
	outside.Await(t, "10.9.0.1:5432")
	outside.Stop(t)
	outside = watch("pg.service.consul")
	outside.Await(t, "pg.example.com.:5432")
	outside.Stop(t)

	none := watch("none.service.consul")
	if a := none.Await(t); a.Note != "the name none.service.consul does not exist" {
		t.Errorf("note %q", a.Note)
	}
	none.Stop(t)
}
