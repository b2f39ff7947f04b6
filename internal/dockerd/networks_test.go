package dockerd

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

// networksEngine asks a server that knows networks.
func networksEngine(t *testing.T, handler http.HandlerFunc) *engine {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	e, err := newEngine("tcp://" + strings.TrimPrefix(server.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.transport.CloseIdleConnections)
	return e
}

func onNetwork(name, id string) *Container {
	return &Container{
		ID: "c1", Running: true, SandboxKey: "/var/run/docker/netns/0123456789ab",
		Networks: []Network{{Name: name, ID: id, IPv4: netip.MustParseAddr("10.0.1.4")}},
	}
}

const gatewayBridge = `{"Name": "docker_gwbridge", "Id": "gw", "Driver": "bridge", "Scope": "local",
	"Containers": {"c1": {"Name": "gateway_%s", "IPv4Address": "172.18.0.4/16", "IPv6Address": ""}}}`

// TestNetworksThatAreNotTold: a proxy before the engine's socket may refuse to tell of networks, each
// in its own way, and the container is there all the same. What is no refusal is worth another try.
func TestNetworksThatAreNotTold(t *testing.T) {
	status := http.StatusOK
	e := networksEngine(t, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", status) })
	for status = range map[int]struct{}{401: {}, 403: {}, 404: {}, 405: {}, 408: {}, 429: {}, 500: {}, 503: {}} {
		c := onNetwork("web", "n1")
		err := e.fillNetworks(t.Context(), c)
		if again := status == 408 || status == 429 || status >= 500; (err != nil) != again {
			t.Errorf("status %d: %v; want an error: %t", status, err, again)
		}
		if len(c.Networks) != 1 || c.Networks[0].Driver != "" {
			t.Errorf("status %d: its networks are %+v", status, c.Networks)
		}
	}
}

func TestNetworksAreAskedForOnce(t *testing.T) {
	var asked atomic.Int32
	e := networksEngine(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		switch r.URL.Path {
		case "/networks/n1":
			fmt.Fprint(w, `{"Name": "back", "Id": "n1", "Driver": "bridge", "Scope": "local"}`)
		case "/networks/podman":
			fmt.Fprint(w, `{"Name": "podman", "Id": "podman", "Driver": "bridge", "Scope": "local"}`)
		default:
			http.NotFound(w, r)
		}
	})
	want := func(name, id, driver string, questions int32) {
		t.Helper()
		before := asked.Load()
		c := onNetwork(name, id)
		if err := e.fillNetworks(t.Context(), c); err != nil || len(c.Networks) != 1 || c.Networks[0].Driver != driver {
			t.Errorf("%+v, %v; want the driver %q", c.Networks, err, driver)
		}
		if n := asked.Load() - before; n != questions {
			t.Errorf("%s: asked %d times, want %d", name, n, questions)
		}
	}
	want("back", "n1", "bridge", 1)
	want("back", "n1", "bridge", 0)
	want("gone", "n2", "", 1)
	want("gone", "n2", "", 1)
	want("podman", "podman", "bridge", 1) // a name, which another network may have later
	want("podman", "podman", "bridge", 1)
	stopped := onNetwork("back", "n3")
	stopped.Running = false
	before := asked.Load()
	if err := e.fillNetworks(t.Context(), stopped); err != nil || asked.Load() != before {
		t.Errorf("%v; of one that is stopped the engine was asked", err)
	}
}

// TestTaskIsReachedByItsGateway: by that of its own sandbox alone.
func TestTaskIsReachedByItsGateway(t *testing.T) {
	var sandbox atomic.Value
	sandbox.Store("0123456789ab")
	fails := false
	e := networksEngine(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/networks/ov":
			fmt.Fprint(w, `{"Name": "ov", "Id": "ov", "Driver": "overlay", "Scope": "swarm"}`)
		case "/networks/docker_gwbridge":
			if fails {
				http.Error(w, "later", http.StatusInternalServerError)
				return
			}
			fmt.Fprintf(w, gatewayBridge, sandbox.Load())
		default:
			http.NotFound(w, r)
		}
	})
	c := onNetwork("web", "ov")
	if err := e.fillNetworks(t.Context(), c); err != nil || len(c.Networks) != 2 {
		t.Fatalf("%+v, %v; want its gateway, too", c.Networks, err)
	}
	if n := c.Networks[0]; n.Name != GatewayBridge || n.ID != "gw" || n.IPv4 != netip.MustParseAddr("172.18.0.4") || n.Driver != DriverBridge || n.Scope != ScopeLocal {
		t.Errorf("its gateway is %+v", n)
	}
	sandbox.Store("another")
	c = onNetwork("web", "ov")
	if err := e.fillNetworks(t.Context(), c); err != nil || len(c.Networks) != 1 {
		t.Errorf("%+v, %v; want no gateway of another sandbox", c.Networks, err)
	}
	fails = true
	if err := e.fillNetworks(t.Context(), onNetwork("web", "ov")); err == nil {
		t.Error("nil; an answer that failed is worth another try")
	}
}

// answering is a transport that answers without any network.
type answering func() string

func (a answering) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader(a()))}, nil
}

// TestGatewaysAreReadTogether: those that ask while somebody reads share the next reading, and
// none gets an older one.
func TestGatewaysAreReadTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, err := newEngine("unix:///nowhere")
		if err != nil {
			t.Fatal(err)
		}
		readings := 0
		e.client.HTTPClient.Transport = answering(func() string { readings++; return fmt.Sprintf(gatewayBridge, "x") })
		var asking sync.WaitGroup
		<-e.gateways.turn // somebody reads
		for range 50 {
			asking.Go(func() {
				if _, err := e.gateways.read(t.Context(), e); err != nil {
					t.Error(err)
				}
			})
		}
		ended, cancel := context.WithCancel(t.Context())
		asking.Go(func() {
			if _, err := e.gateways.read(ended, e); err == nil {
				t.Error("nil, although its context has ended while another reads")
			}
		})
		synctest.Wait()
		cancel()
		synctest.Wait()
		e.gateways.turn <- struct{}{}
		asking.Wait()
		if readings != 1 {
			t.Errorf("%d readings for 50 that asked before it; want one", readings)
		}
		if _, err := e.gateways.read(t.Context(), e); err != nil || readings != 2 {
			t.Errorf("%d readings, %v; want another one for who asks later", readings, err)
		}
	})
}
