package consul

import (
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/servertest"
	"github.com/ambassadord/ambassadord/resolver/consul/blocking"
	"github.com/ambassadord/ambassadord/resolver/sourcetest"
)

func TestIndexGoesBackwards(t *testing.T) {
	agent := newFakeAgent(t, list(pair("k", "a:1")))
	client := newTestClient(t, Config{Address: agent.address})
	w := sourcetest.Watch(t, client.KV(), kvQuery("", "k"))
	w.Await(t, "a:1")
	eventually(t, "it waits on 10", func() bool { return agent.indexes() == "[][10]" })
	agent.set(3, list(pair("k", "b:2")))
	w.Await(t, "b:2")
	eventually(t, "it starts over and waits on 3", func() bool { return agent.indexes() == "[][10][][3]" })
	agent.set(4, list(pair("k", "c:3")))
	w.Await(t, "c:3")
	w.Stop(t)
}

func TestIndexZeroDoesNotSpin(t *testing.T) {
	agent := newFakeAgent(t, list(pair("k", "a:1")))
	agent.set(0, list(pair("k", "a:1"))) // answers at once, for ever
	client := newTestClient(t, Config{Address: agent.address})
	start := time.Now()
	w := sourcetest.Watch(t, client.KV(), kvQuery("", "k"))
	w.Await(t, "a:1")
	eventually(t, "the burst is over", func() bool { return len(agent.asked()) >= blocking.Burst+3 })
	if since := time.Since(start); since < 2*client.config.MinInterval {
		t.Errorf("%d requests within %v", len(agent.asked()), since)
	}
	w.Quiet(t)
	w.Stop(t)
	if agent.indexes()[:5] != "[][1]" {
		t.Errorf("indexes %s: index 0 does not wait", agent.indexes())
	}
}

func TestErrors(t *testing.T) {
	long := strings.Repeat("x", 1e6)
	for name, tt := range map[string]struct {
		status    int
		body      string
		err, hint string
	}{
		"denied":     {403, "Permission denied: lacks service:read", "status 403", "CONSUL_HTTP_TOKEN to a token with service:read and node:read"},
		"datacenter": {500, "No path to datacenter", "No path to datacenter", "check dc="},
		"no leader":  {500, "No cluster leader", "No cluster leader", "raft list-peers"},
		"namespace":  {400, `Invalid query parameter: "ns" - Namespaces are a Consul Enterprise feature`, "status 400", "leave out ns= and partition="},
		"limit":      {429, "Your IP is issuing too many requests", "status 429", "limits"},
		"TLS":        {400, "Client sent an HTTP request to an HTTPS server.", "status 400", "CONSUL_HTTP_SSL"},
		"redirect":   {307, "", "status 307", "consul monitor"},
		"long":       {500, long, `x…"`, "consul monitor"},
		"garbage":    {200, "<html>", "invalid character", "HTTP port"},
		"cut":        {200, `[{"Node":`, "unexpected EOF", "HTTP port"},
		"huge":       {200, `["` + strings.Repeat("x", maxBody), "more than 32 MiB", "path"},
	} {
		t.Run(name, func(t *testing.T) {
			agent := newFakeAgent(t, "")
			agent.respond(tt.status, 10, tt.body)
			client := newTestClient(t, Config{Address: agent.address, Timeout: time.Minute}) // 32 MiB take a busy machine long
			checkError(t, sourcetest.Watch(t, client.Services(), serviceQuery("web", "")).Err(t),
				tt.hint, "the Consul agent at "+agent.address, "service web", tt.err)
		})
	}
}

// An agent that takes no more connections says so as soon as there is one, before it is
// asked anything.
func TestRefusedConnection(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte("HTTP/1.1 429 Too Many Requests\r\nContent-Type: text/plain\r\nContent-Length: 4\r\nConnection: close\r\n\r\nlim."))
			_ = conn.(*net.TCPConn).CloseWrite()
			defer conn.Close()
		}
	}()
	defer func() { listener.Close(); <-done }()
	limits := 0
	for range 50 { // whether it is read before the request, after it or not at all is a matter of luck
		client := newTestClient(t, Config{Address: listener.Addr().String()})
		err := sourcetest.Watch(t, client.KV(), kvQuery("", "k")).Err(t)
		checkError(t, err, "", listener.Addr().String())
		if strings.Contains(err.Error(), "readLoopPeek") || hint.Of(err) == "" {
			t.Errorf("%v (hint %q)", err, hint.Of(err))
		}
		if strings.Contains(hint.Of(err), "see limits in its configuration") {
			limits++
		}
	}
	if limits < 25 {
		t.Errorf("%d of 50 errors say that the agent has limits", limits)
	}
}

func checkError(t *testing.T, err error, hinted string, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("Watch returned nil")
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not say %q", err, part)
		}
	}
	if len(err.Error()) > 600 {
		t.Errorf("an error of %d bytes", len(err.Error()))
	}
	if !strings.Contains(hint.Of(err), hinted) {
		t.Errorf("hint %q does not say %q", hint.Of(err), hinted)
	}
}

func TestDeniedByAnotherAgent(t *testing.T) {
	agent := newFakeAgent(t, "")
	agent.respond(http.StatusForbidden, 1, "Permission denied")
	client := newTestClient(t, Config{Address: "127.0.0.1:1"})
	checkError(t, sourcetest.Watch(t, client.KV(), kvQuery(agent.address, "k")).Err(t),
		"CONSUL_HTTP_ADDR="+agent.address, agent.address, "key k")
}

func TestNobodyListens(t *testing.T) {
	address := servertest.Nobody(t).String()
	client := newTestClient(t, Config{Address: address})
	checkError(t, sourcetest.Watch(t, client.KV(), kvQuery("", "k")).Err(t),
		"CONSUL_HTTP_ADDR", address, "key k", "connection refused")
}

// An agent that accepts and then says nothing is given up after the time that a
// request may take: Timeout for the first, Wait and Slack for those that wait.
func TestSilentAgent(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts; nobody reads
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	client := newTestClient(t, Config{Address: listener.Addr().String(), Wait: time.Hour, Timeout: 50 * time.Millisecond})
	checkError(t, sourcetest.Watch(t, client.KV(), kvQuery("", "k")).Err(t), "check that the agent runs", "no answer in time")

	agent := newFakeAgent(t, list(pair("k", "a:1")))
	client = newTestClient(t, Config{Address: agent.address, Wait: 50 * time.Millisecond, Slack: 2 * time.Second})
	start := time.Now()
	w := sourcetest.Watch(t, client.KV(), kvQuery("", "k"))
	w.Await(t, "a:1")
	checkError(t, w.Err(t), "check that the agent runs", "no answer in time")
	if since := time.Since(start); since < 2*time.Second {
		t.Errorf("gave up after %v, before the agent had to answer", since)
	}
}

func TestUnixSocket(t *testing.T) {
	agent := newFakeAgent(t, list(pair("k", "a:1")))
	path := filepath.Join(t.TempDir(), "consul.sock")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: agent, ReadHeaderTimeout: time.Second}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		_ = server.Serve(listener)
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-stopped
	})
	client := newTestClient(t, Config{Address: "unix://" + path})
	w := sourcetest.Watch(t, client.KV(), kvQuery("", "k"))
	w.Await(t, "a:1")
	w.Stop(t)
}

func TestBadEnvironment(t *testing.T) {
	t.Setenv("CONSUL_CACERT", filepath.Join(t.TempDir(), "missing.pem"))
	client := newTestClient(t, Config{Address: "127.0.0.1:1"})
	err := sourcetest.Watch(t, client.KV(), kvQuery("", "k")).Err(t)
	if err == nil || !strings.Contains(fmt.Sprint(err), "missing.pem") || hint.Of(err) == "" {
		t.Errorf("error %v, hint %q", err, hint.Of(err))
	}
}

// eventually waits until ok, which another goroutine brings about.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in 10 s: %s", what)
		}
	}
}
