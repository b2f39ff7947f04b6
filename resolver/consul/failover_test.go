package consul

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ambassadord/ambassadord/resolver/sourcetest"
)

func TestFailover(t *testing.T) {
	one, two := newFakeAgent(t, list(pair("k", "one:1"))), newFakeAgent(t, list(pair("k", "two:1")))
	client := newTestClient(t, Config{Address: "127.0.0.1:1, " + one.address + "," + two.address})
	w := sourcetest.Watch(t, client.KV(), kvQuery("", "k"))
	w.Await(t, "one:1")
	one.respond(http.StatusInternalServerError, 11, "No cluster leader")
	w.Await(t, "two:1")

	// A new watch begins where the last one got to.
	before := len(one.asked())
	again := sourcetest.Watch(t, client.KV(), kvQuery("", "k"))
	again.Await(t, "two:1")
	if asked := len(one.asked()); asked != before {
		t.Errorf("a new watch asked the agent that had failed, %d times", asked-before)
	}
	again.Stop(t)

	one.set(12, list(pair("k", "one:2")))
	w.Quiet(t) // it stays where it is well off
	two.respond(http.StatusInternalServerError, 11, "No cluster leader")
	w.Await(t, "one:2") // and comes round again

	one.respond(http.StatusInternalServerError, 13, "No cluster leader")
	checkError(t, w.Err(t), "raft list-peers", one.address, two.address, "127.0.0.1:1", "connection refused")
}

// What one agent denies, the next would deny.
func TestNoFailoverFromADenial(t *testing.T) {
	for _, tt := range []struct {
		status int
		body   string
	}{{http.StatusForbidden, "Permission denied"}, {http.StatusInternalServerError, "No path to datacenter"}} {
		one, two := newFakeAgent(t, ""), newFakeAgent(t, list())
		one.respond(tt.status, 1, tt.body)
		client := newTestClient(t, Config{Address: one.address + "," + two.address})
		checkError(t, sourcetest.Watch(t, client.Services(), serviceQuery("web", "")).Err(t), "", tt.body)
		if len(two.asked()) != 0 {
			t.Errorf("%s: the next agent was asked", tt.body)
		}
	}
}

func TestTokenFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("CONSUL_HTTP_TOKEN", "from-environment")
	t.Setenv("CONSUL_HTTP_TOKEN_FILE", path)
	configured, other := newFakeAgent(t, list(pair("k", "a:1"))), newFakeAgent(t, list(pair("k", "a:1")))
	client := newTestClient(t, Config{Address: configured.address})
	checkError(t, sourcetest.Watch(t, client.KV(), kvQuery("", "k")).Err(t), "CONSUL_", path)

	sent := func() string {
		t.Helper()
		w := sourcetest.Watch(t, client.KV(), kvQuery("", "k"))
		w.Await(t, "a:1")
		w.Stop(t)
		asked := configured.asked()
		return asked[len(asked)-1].Header.Get("X-Consul-Token")
	}
	write("first\n")
	if got := sent(); got != "first" {
		t.Errorf("token %q", got)
	}
	write("second, longer")
	if got := sent(); got != "second, longer" {
		t.Errorf("after a change: token %q", got)
	}
	for _, away := range []func(){func() { write(" \n") }, func() { _ = os.Remove(path) }} {
		away()
		if got := sent(); got != "second, longer" {
			t.Errorf("while the file is away: token %q", got)
		}
	}
	w := sourcetest.Watch(t, client.KV(), kvQuery(other.address, "k"))
	w.Await(t, "a:1")
	w.Stop(t)
	for _, r := range other.asked() {
		if r.Header.Get("X-Consul-Token") != "" {
			t.Error("another agent got the token")
		}
	}
	fresh := &tokenFile{path: path}
	if _, err := fresh.read(); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a file that never was: %v", err)
	}
}
