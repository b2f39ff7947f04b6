package etcd

import (
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/servertest"
	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/sourcetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

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

func query(t testing.TB, text string) resolver.Query {
	t.Helper()
	target, err := resolver.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return target.Choices[0].Queries[0]
}

func TestCheck(t *testing.T) {
	client := newTestClient(t, Config{})
	for _, text := range []string{"etcd://10.0.0.1:2379/a/b/", "etcd:///a", "etcd://etcd.test//a"} {
		if err := client.Check(query(t, text)); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	for _, text := range []string{"etcd://10.0.0.1:2379", "etcd://10.0.0.1:2379/", "etcd:////", "etcd:///a?prefix=1"} {
		if err := client.Check(query(t, text)); err == nil || hint.Of(err) == "" {
			t.Errorf("%s: error %v, hint %q", text, err, hint.Of(err))
		}
	}
}

// Whoever writes a target may name any server; the secrets are not theirs.
func TestSecretsGoToTheConfiguredClusterAlone(t *testing.T) {
	t.Setenv("ETCDCTL_ENDPOINTS", "http://10.0.0.1:2379, https://LOCALHOST:2380/,etcd.test")
	client := newTestClient(t, Config{})
	for text, trusted := range map[string]bool{
		"etcd:///k":                true,
		"etcd://10.0.0.1:2379/k":   true,
		"etcd://10.0.0.1/k":        true,
		"etcd://127.0.0.1:2380/k":  true,
		"etcd://etcd.test:2379/k":  true,
		"etcd://10.0.0.1:2380/k":   false,
		"etcd://127.0.0.1:2379/k":  false,
		"etcd://etcd.test.evil/k":  false,
		"etcd://[2001:db8::1]:1/k": false,
	} {
		c, leave, _ := client.clusterOf(nil, query(t, text))
		if c.trusted != trusted {
			t.Errorf("%s asks %s, trusted %v; want %v", text, c, c.trusted, trusted)
		}
		again, leaveAgain, _ := client.clusterOf(nil, query(t, text))
		if again != c {
			t.Errorf("%s: a second client", text)
		}
		leave()
		leaveAgain()
	}
	if n := len(client.named); n != 0 {
		t.Errorf("%d clusters are remembered that nobody asks any more", n)
	}
}

func TestRanges(t *testing.T) {
	covers := func(ranges []keyRange, key string) bool {
		return slices.ContainsFunc(ranges, func(r keyRange) bool {
			return key == r.first || r.end != "" && key >= r.first && key < r.end
		})
	}
	for _, exact := range []bool{false, true} {
		ranges := rangesOf("a/b", exact)
		for _, key := range []string{"a/b", "/a/b", "a/b/", "a/b/\xff", "/a/b/c/d"} {
			if !covers(ranges, key) {
				t.Errorf("exact %v: %q is not covered", exact, key)
			}
		}
		for _, key := range []string{"a", "a/c", "a/b0", "a/bc", "/a/b0", "/a"} {
			if covers(ranges, key) {
				t.Errorf("exact %v: %q is covered", exact, key)
			}
		}
	}
	if covers(rangesOf("a/b", true), "a/b-c") {
		t.Error("an exact range takes in a neighbour, which a user may not read")
	}
}

func TestExplain(t *testing.T) {
	unavailable := func(text string) error { return status.Error(codes.Unavailable, text) }
	for name, tt := range map[string]struct {
		err       error
		untrusted bool
		says      string
		hint      string
	}{
		"denied":     {err: rpctypes.ErrPermissionDenied, says: "permission denied", hint: "etcdctl role grant-permission ROLE read --prefix /services/redis/"},
		"password":   {err: rpctypes.ErrAuthFailed, says: "authentication failed", hint: "ETCDCTL_USER"},
		"no user":    {err: rpctypes.ErrUserEmpty, hint: "set ETCDCTL_USER"},
		"not ours":   {err: rpctypes.ErrUserEmpty, untrusted: true, hint: "add 192.0.2.1:2379 to --etcd-endpoints"},
		"no leader":  {err: rpctypes.ErrNoLeader, says: "no leader", hint: "etcdctl endpoint status"},
		"refused":    {err: unavailable(`connection error: desc = "transport: Error while dialing: dial tcp 127.0.0.1:1: connect: connection refused"`), says: "connection refused", hint: "--etcd-endpoints"},
		"unknown CA": {err: unavailable(`connection error: desc = "transport: authentication handshake failed: tls: failed to verify certificate: x509: certificate signed by unknown authority"`), says: "unknown authority", hint: "ETCDCTL_CACERT"},
		"no cert":    {err: unavailable(`remote error: tls: certificate required`), hint: "ETCDCTL_CERT"},
		"no TLS":     {err: unavailable(`tls: first record does not look like a TLS handshake`), hint: "http://"},
		"no TLS, 2":  {err: unavailable(`connection error: desc = "transport: authentication handshake failed: read tcp 127.0.0.1:39114->127.0.0.1:30468: read: connection reset by peer"`), says: "handshake failed", hint: "http://"},
		"wants TLS":  {err: unavailable(`error reading server preface: EOF`), hint: "ETCDCTL_CACERT"},
		"no cert, 2": {err: unavailable(`write tcp 127.0.0.1:39114->127.0.0.1:30468: write: broken pipe`), says: "for services/redis: write: write: broken pipe", hint: "ETCDCTL_CERT"},
		"long":       {err: unavailable(strings.Repeat("x", 1e6)), says: "x…", hint: "--etcd-endpoints"},
		"too many":   {err: errTooMany, says: "10000 keys", hint: "further down"},
	} {
		t.Run(name, func(t *testing.T) {
			r := serverRequest{cluster: &cluster{endpoints: []string{"192.0.2.1:2379"}, trusted: !tt.untrusted}, path: "services/redis"}
			checkError(t, r.explain(tt.err), tt.hint, "etcd at 192.0.2.1:2379", "services/redis", tt.says)
		})
	}
}

func checkError(t testing.TB, err error, hinted string, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not say %q", err, part)
		}
	}
	if strings.Contains(err.Error(), "desc =") || len(err.Error()) > 600 {
		t.Errorf("for people? %q", err)
	}
	if !strings.Contains(hint.Of(err), hinted) {
		t.Errorf("%v: hint %q does not say %q", err, hint.Of(err), hinted)
	}
}

func TestNobodyListens(t *testing.T) {
	address := servertest.Nobody(t).String()
	client := newTestClient(t, Config{Endpoints: []string{address}})
	start := time.Now()
	checkError(t, sourcetest.Watch(t, client, query(t, "etcd:///k")).Err(t), "--etcd-endpoints", address, "connection refused")
	if since := time.Since(start); since > 3*time.Second {
		t.Errorf("it took %v to say so", since)
	}
}

// A server that accepts and then says nothing is given up after Timeout.
func TestSilentServer(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts; nobody reads
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	client := newTestClient(t, Config{Endpoints: []string{listener.Addr().String()}, Timeout: 100 * time.Millisecond})
	checkError(t, sourcetest.Watch(t, client, query(t, "etcd:///k")).Err(t), "check that etcd runs", "no answer in time")
}

func TestBadEnvironment(t *testing.T) {
	for name, value := range map[string]string{"ETCDCTL_CACERT": "/nowhere/ca.pem", "ETCDCTL_CERT": "/nowhere/cert.pem", "ETCDCTL_USER": "root"} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(name, value)
			client := newTestClient(t, Config{Endpoints: []string{"127.0.0.1:1"}})
			checkError(t, sourcetest.Watch(t, client, query(t, "etcd:///k")).Err(t), "ETCDCTL_", name)
		})
	}
}

func TestFailureIsShared(t *testing.T) {
	c := newCluster(Config{Timeout: time.Second}, true, "192.0.2.1:2379")
	c.servers[0].err, c.servers[0].failed = errors.New("as before"), time.Now()
	if _, err := c.servers[0].use(t.Context()); err == nil || err.Error() != "as before" {
		t.Errorf("%v: a server that has just failed was asked again", err)
	}
}
