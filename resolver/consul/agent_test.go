package consul

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/ambassadord/ambassadord/resolver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeAgent is an HTTP server with the blocking behaviour of an agent: a request
// for the current index is held until set changes it.
type fakeAgent struct {
	address string

	mu       sync.Mutex
	index    uint64
	body     string
	status   int
	changed  chan struct{}
	requests []*http.Request
	forgets  bool // the requests: a test counts memory

	tellsLeader bool // as its answer
}

func newFakeAgent(t testing.TB, body string) *fakeAgent {
	t.Helper()
	a := &fakeAgent{changed: make(chan struct{})}
	a.set(10, body)
	server := httptest.NewServer(a)
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	a.address = server.Listener.Addr().String()
	return a
}

// set changes the answer and its index.
func (a *fakeAgent) set(index uint64, body string) { a.respond(http.StatusOK, index, body) }

func (a *fakeAgent) respond(status int, index uint64, body string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.status, a.index, a.body = status, index, body
	close(a.changed)
	a.changed = make(chan struct{})
}

func (a *fakeAgent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == leaderPath && !a.tellsLeader { // a sign of life
		_, _ = w.Write([]byte(`"192.0.2.1:8300"`))
		return
	}
	if strings.HasSuffix(r.URL.Path, "/"+nowhere) {
		w.Header().Set("X-Consul-Index", "1")
		_, _ = w.Write([]byte("[]"))
		return
	}
	a.mu.Lock()
	if !a.forgets {
		a.requests = append(a.requests, r)
	}
	for a.index != 0 && r.URL.Query().Get("index") == fmt.Sprint(a.index) {
		changed := a.changed
		a.mu.Unlock()
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
		a.mu.Lock()
	}
	status, index, body := a.status, a.index, a.body
	a.mu.Unlock()
	w.Header().Set("X-Consul-Index", fmt.Sprint(index))
	w.Header().Set("X-Consul-LastContact", "0")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(body))
}

// asked are the requests so far.
func (a *fakeAgent) asked() []*http.Request {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]*http.Request(nil), a.requests...)
}

// indexes are the index parameters of the requests so far.
func (a *fakeAgent) indexes() string {
	var all []string
	for _, r := range a.asked() {
		all = append(all, "["+r.URL.Query().Get("index")+"]")
	}
	return strings.Join(all, "")
}

func newTestClient(t testing.TB, config Config) *Client {
	t.Helper()
	client := New(config)
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	})
	return client
}

// instance is one element of the health endpoint's answer.
func instance(id, address, node string, port, weight int, statuses ...string) string {
	var checks []string
	for i, status := range statuses {
		checks = append(checks, fmt.Sprintf(`{"CheckID":"c%d","Status":%q}`, i, status))
	}
	return fmt.Sprintf(`{"Node":{"Address":%q},"Service":{"ID":%q,"Address":%q,"Port":%d,"Weights":{"Passing":%d,"Warning":1}},"Checks":[%s]}`,
		node, id, address, port, weight, strings.Join(checks, ","))
}

func list(items ...string) string { return "[" + strings.Join(items, ",") + "]" }

func serviceQuery(name, params string) resolver.Query {
	return resolver.Query{Scheme: SchemeService, Host: name, Params: params}
}
