//go:build integration

package consul

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/ambassadord/ambassadord/internal/consultest"
	"github.com/ambassadord/ambassadord/resolver/consul/sharedwatch"
	"github.com/ambassadord/ambassadord/resolver/sourcetest"
)

// Of those that share a watch, the concerned hear of a change before any has been probed: when an
// instance is registered anew or is gone, when its check fails and when it no longer does, and
// when the service has its first one. Names are as Consul takes them, in any case.
func TestRealSharedWatchTellsTheConcerned(t *testing.T) {
	const services = 40
	server := consultest.Start(t)
	op := newOperator(t, server)
	probes := holdProbes(t, server)
	client := newTestClient(t, Config{Address: probes.URL, Slots: 2, Heartbeat: time.Minute, Timeout: time.Minute, search: time.Minute})
	name := func(i int) string { return "web" + strconv.Itoa(i) }
	register := func(i, port int) {
		op.registerWith(&api.AgentServiceRegistration{ID: name(i), Name: name(i), Address: "10.1.0.1", Port: port,
			Check: &api.AgentServiceCheck{CheckID: name(i) + "-ttl", TTL: "10m", Status: api.HealthPassing}})
	}
	key := sourcetest.Watch(t, client.KV(), kvQuery("", "beside")) // has a slot, and does not wait for the shared watch's probes
	key.Await(t)
	watches := make([]*sourcetest.Watcher, services)
	for i := range watches {
		register(i, 1000)
		watches[i] = sourcetest.Watch(t, client.Services(), serviceQuery(strings.ToUpper(name(i)), ""))
	}
	for _, w := range watches {
		w.Await(t, "10.1.0.1:1000")
	}
	status := func(i int, status string) {
		if err := op.Agent().UpdateTTL(name(i)+"-ttl", "", status); err != nil {
			t.Fatal(err)
		}
	}
	probes.hold()
	op.put("beside", "10.2.0.1:80")
	key.Await(t, "10.2.0.1:80")
	probes.release()
	const at = 31
	for _, step := range []struct {
		do   func()
		want []string
	}{
		{func() { register(at, 2000) }, []string{"10.1.0.1:2000"}},
		{func() { status(at, api.HealthCritical) }, nil},
		{func() { status(at, api.HealthPassing) }, []string{"10.1.0.1:2000"}},
		{func() { op.deregister(name(at)) }, nil},
		{func() { register(at, 3000) }, []string{"10.1.0.1:3000"}},
	} {
		probes.hold()
		step.do()
		watches[at].Await(t, step.want...)
		probes.release()
	}
}

// relay stands before an agent. What before answers itself it reports by true.
func relay(t *testing.T, server *consultest.Server, before func(http.ResponseWriter, *http.Request) bool) *httptest.Server {
	t.Helper()
	target, err := url.Parse("http://" + server.HTTPAddr)
	if err != nil {
		t.Fatal(err)
	}
	pass := httputil.NewSingleHostReverseProxy(target)
	r := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !before(w, r) {
			pass.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(r.Close)
	return r
}

// heldProbes can keep the probes of shared watches from being answered.
type heldProbes struct {
	*httptest.Server

	mu       sync.Mutex
	released chan struct{} // closed when probes may go on
}

func holdProbes(t *testing.T, server *consultest.Server) *heldProbes {
	p := &heldProbes{released: make(chan struct{})}
	close(p.released)
	p.Server = relay(t, server, func(_ http.ResponseWriter, r *http.Request) bool {
		if r.URL.Query().Has("filter") {
			p.mu.Lock()
			released := p.released
			p.mu.Unlock()
			select {
			case <-released:
			case <-r.Context().Done():
			}
		}
		return false
	})
	return p
}

// hold keeps back the probes that begin from now on.
func (p *heldProbes) hold() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.released = make(chan struct{})
}

func (p *heldProbes) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.released)
}

// Without transactions, and without lists that can be read, a shared watch hears of everything by
// its probes, and does not go on asking for transactions that fail.
func TestRealSharedWatchByProbesAlone(t *testing.T) {
	const services = 4
	server := consultest.Start(t)
	op := newOperator(t, server)
	for name, fault := range map[string]http.HandlerFunc{
		"unknown":   http.NotFound,
		"forbidden": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "Permission denied", http.StatusForbidden) },
		"frozen":    func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"half":      func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"Results":[{"Serv`)) },
		"forged": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(`{"Results":[` + strings.Repeat(`{"Service":{"ID":"x","ModifyIndex":1}},{},null,`, 10_000) + `{}]}`))
		},
		"forged conflict": func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, `{"Errors":[{"OpIndex":-1},{"OpIndex":1000000},{},null]}`, http.StatusConflict)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var transactions atomic.Int64
			agent := relay(t, server, func(w http.ResponseWriter, r *http.Request) bool {
				switch {
				case r.URL.Path == "/v1/txn":
					transactions.Add(1)
					_, _ = io.Copy(io.Discard, r.Body)
					fault(w, r)
				case strings.HasPrefix(r.URL.Path, "/v1/health/state/") && strings.HasPrefix(name, "forged"):
					w.Header().Set("X-Consul-Index", "1")
					if r.URL.Query().Get("index") == "1" {
						<-r.Context().Done()
					}
					_, _ = w.Write([]byte("[" + strings.Repeat("{},", sharedwatch.MostListed) + "{}]"))
				default:
					return false
				}
				return true
			})
			client := newTestClient(t, Config{Address: agent.URL, Slots: 1, Heartbeat: time.Minute})
			began := time.Now()
			prefix := strings.ReplaceAll(name, " ", "-")
			id := func(i int) string { return fmt.Sprint(prefix, i) }
			watches := make([]*sourcetest.Watcher, services)
			for i := range watches {
				op.register(id(i), id(i), "10.1.0.1", 1000)
				watches[i] = sourcetest.Watch(t, client.Services(), serviceQuery(id(i), ""))
			}
			for i, w := range watches {
				w.Await(t, "10.1.0.1:1000")
				op.register(id(i), id(i), "10.1.0.1", 2000)
				w.Await(t, "10.1.0.1:2000")
				op.deregister(id(i))
				w.Await(t)
			}
			lasted := time.Since(began)
			if n := transactions.Load(); n == 0 || name != "frozen" && n > 1+int64(lasted/sharedwatch.NoSearchFor) {
				t.Errorf("%d transactions were asked for in %s; want one each %s", n, lasted, sharedwatch.NoSearchFor)
			}
		})
	}
}

// What the catalogue does not list is not probed, or a client that names thousands of
// services which nobody has would keep others waiting.
func TestRealSharedWatchOfNobody(t *testing.T) {
	const nobodies = 20
	server := consultest.Start(t)
	op := newOperator(t, server)
	var joined atomic.Int64
	agent := relay(t, server, func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasPrefix(r.URL.Path, "/v1/health/service/nobody") && r.URL.Query().Has("filter") {
			joined.Add(1)
		}
		return false
	})
	client := newTestClient(t, Config{Address: agent.URL, Slots: 1, Heartbeat: time.Minute})
	op.register("web", "web", "10.1.0.1", 1000)
	first := sourcetest.Watch(t, client.Services(), serviceQuery("first", "")) // has the slot
	first.Await(t)
	web := sourcetest.Watch(t, client.Services(), serviceQuery("web", ""))
	web.Await(t, "10.1.0.1:1000")
	watches := make([]*sourcetest.Watcher, nobodies)
	for i := range watches {
		watches[i] = sourcetest.Watch(t, client.Services(), serviceQuery(fmt.Sprint("nobody", i), ""))
		watches[i].Await(t)
	}
	eventually(t, "each was looked after as it joined", func() bool { return joined.Load() >= nobodies })
	for port := range 5 {
		op.register("web", "web", "10.1.0.1", 2000+port)
		web.Await(t, fmt.Sprint("10.1.0.1:", 2000+port))
	}
	if n := joined.Load(); n > 2*nobodies { // the first announcement may be made without the catalogue
		t.Errorf("%d probes of %d services that nobody has", n, nobodies)
	}
	op.register("came", "nobody7", "10.1.0.2", 80)
	watches[7].Await(t, "10.1.0.2:80")
}
