package consul

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/sourcetest"
)

// farInstances are three: of dc1, of dc2, and of a peer's dc1.
const farInstances = `[{"Node":{"Datacenter":"dc1"},"Service":{"ID":"a","Address":"10.0.0.1","Port":80}},
{"Node":{"Datacenter":"dc2"},"Service":{"ID":"b","Address":"10.0.0.2","Port":80}},
{"Node":{"Datacenter":"dc1","PeerName":"p"},"Service":{"ID":"c","Address":"10.0.0.3","Port":80}}]`

// homeAgent is a Consul agent of a datacenter that the test changes, which answers all
// else from another fake.
type homeAgent struct {
	*fakeAgent

	mu     sync.Mutex
	status int
	home   string
	asked  int
}

func newHomeAgent(t testing.TB, body string) *homeAgent {
	t.Helper()
	h := &homeAgent{fakeAgent: newFakeAgent(t, body), status: http.StatusOK, home: "dc1"}
	server := httptest.NewServer(h)
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	h.address = server.Listener.Addr().String()
	return h
}

func (h *homeAgent) is(status int, home string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.status, h.home = status, home
}

func (h *homeAgent) questions() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.asked
}

func (h *homeAgent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/v1/agent/self" {
		h.fakeAgent.ServeHTTP(w, r)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked++
	w.WriteHeader(h.status)
	_, _ = fmt.Fprintf(w, `{"Config":{"Datacenter":%q,"NodeName":"n"},"Member":{}}`, h.home)
}

// distances are how far each endpoint is, in the order of their names.
func distances(a resolver.Answer) string {
	var all []string
	for _, e := range a.Endpoints {
		all = append(all, e.Name+"="+e.Distance.String())
	}
	return strings.Join(all, " ")
}

func TestDistance(t *testing.T) {
	const inDC1 = `[{"Node":{"Datacenter":"dc1"},"Service":{"ID":"a","Address":"10.0.0.1","Port":80}}]`
	query := func(dc string, failovers int, nodes string) string {
		return fmt.Sprintf(`{"Service":"web","Datacenter":%q,"Failovers":%d,"Nodes":%s}`, dc, failovers, nodes)
	}
	for name, tt := range map[string]struct {
		body, params string
		query        bool
		status       int
		want         string
		asked        int // for the agent's datacenter
	}{
		"service, of the agent's":             {body: farInstances, want: "a=datacenter b=remote c="},
		"service, the agent's by name":        {body: farInstances, params: "dc=dc1", want: "a=datacenter b=remote c=", asked: 1},
		"service, another":                    {body: strings.ReplaceAll(inDC1, "dc1", "dc2"), params: "dc=dc2", want: "a=remote", asked: 1},
		"service, the agent does not tell":    {body: inDC1, params: "dc=dc1", status: http.StatusForbidden, want: "a=", asked: 1},
		"service, the agent answers nonsense": {body: inDC1, params: "dc=dc1", status: http.StatusNoContent, want: "a=", asked: 1},
		"service, nobody":                     {body: `[]`, params: "dc=dc2"},
		"service, no datacenter in it":        {body: list(instance("a", "10.0.0.1", "", 80, 1)), want: "a="},
		"query, of the agent's":               {query: true, body: query("dc1", 0, inDC1), want: "a=datacenter"},
		"query, by failover":                  {query: true, body: query("dc2", 1, farInstances), want: "a=datacenter b=remote c=", asked: 1},
		"query, another":                      {query: true, body: query("dc2", 0, farInstances), params: "dc=dc2", want: "a=datacenter b=remote c=", asked: 1},
	} {
		t.Run(name, func(t *testing.T) {
			agent := newHomeAgent(t, tt.body)
			if tt.status != 0 {
				agent.is(tt.status, "dc1")
			}
			client := newTestClient(t, Config{Address: agent.address})
			source, q := client.Services(), serviceQuery("web", tt.params)
			if tt.query {
				source, q = client.Queries(), preparedQuery("web", tt.params)
			}
			w := sourcetest.Watch(t, source, q)
			if got := distances(w.Next(t)); got != tt.want {
				t.Errorf("distances %q; want %q", got, tt.want)
			}
			w.Stop(t)
			for range 5 { // it is not asked again for the next
				w := sourcetest.Watch(t, source, q)
				if got := distances(w.Next(t)); got != tt.want {
					t.Errorf("another watch: distances %q; want %q", got, tt.want)
				}
				w.Stop(t)
			}
			if got := agent.questions(); got != tt.asked {
				t.Errorf("the agent was asked %d times where it is; want %d", got, tt.asked)
			}
		})
	}
}

// Behind the address of an agent that failed, one of another datacenter may answer.
func TestDistanceAfterFailover(t *testing.T) {
	agent := newHomeAgent(t, farInstances)
	client := newTestClient(t, Config{Address: agent.address})
	ask := func() string {
		t.Helper()
		w := sourcetest.Watch(t, client.Services(), serviceQuery("web", "dc=dc1"))
		defer w.Stop(t)
		return distances(w.Next(t))
	}
	if got := ask(); got != "a=datacenter b=remote c=" {
		t.Errorf("distances %q", got)
	}
	agent.respond(http.StatusInternalServerError, 11, "No cluster leader")
	checkError(t, sourcetest.Watch(t, client.Services(), serviceQuery("web", "dc=dc1")).Err(t), "", "No cluster leader")
	agent.is(http.StatusOK, "dc2")
	agent.set(12, farInstances)
	if got := ask(); got != "a=remote b=datacenter c=" {
		t.Errorf("after the agent has come back as another's: distances %q", got)
	}
}
