//go:build integration

package etcd

import (
	"context"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/ambassadord/ambassadord/internal/etcdtest"
	"github.com/ambassadord/ambassadord/internal/servertest"
	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/sourcetest"
)

// operator is the API as the people and programs that fill etcd use it.
type operator struct {
	*clientv3.Client
	t testing.TB
}

func newOperator(t testing.TB, config clientv3.Config) operator {
	t.Helper()
	config.Logger, config.DialTimeout = zap.NewNop(), 10*time.Second
	client, err := clientv3.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return operator{client, t}
}

func (o operator) context() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), 20*time.Second)
}

// put tries again, for a cluster that is electing a leader refuses.
func (o operator) put(key, value string) int64 {
	o.t.Helper()
	ctx, cancel := o.context()
	defer cancel()
	for {
		response, err := o.Put(ctx, key, value)
		if err == nil {
			return response.Header.Revision
		}
		if ctx.Err() != nil {
			o.t.Fatal(err)
		}
	}
}

func (o operator) delete(key string, options ...clientv3.OpOption) {
	o.t.Helper()
	ctx, cancel := o.context()
	defer cancel()
	if _, err := o.Delete(ctx, key, options...); err != nil {
		o.t.Fatal(err)
	}
}

func (o operator) compact(revision int64) {
	o.t.Helper()
	ctx, cancel := o.context()
	defer cancel()
	if _, err := o.Compact(ctx, revision, clientv3.WithCompactPhysical()); err != nil {
		o.t.Fatal(err)
	}
}

// commit has a server write to its file what it keeps in memory: a login that it has not is
// done again, with the same token, when it reads its log.
func (o operator) commit(address string) {
	o.t.Helper()
	ctx, cancel := o.context()
	defer cancel()
	if _, err := o.Defragment(ctx, address); err != nil {
		o.t.Fatal(err)
	}
}

func TestReal(t *testing.T) {
	server := etcdtest.Start(t)
	op := newOperator(t, clientv3.Config{Endpoints: []string{server.Addr}})
	client := newTestClient(t, Config{Endpoints: []string{server.Addr}})

	t.Run("key and children", func(t *testing.T) {
		w := sourcetest.Watch(t, client, query(t, "etcd://"+server.Addr+"/services/redis"))
		if a := w.Next(t); len(a.Endpoints) != 0 || !strings.Contains(a.Note, "etcd has no value at services/redis") {
			t.Errorf("first answer %+v", a)
		}
		op.put("services/redis", "10.0.0.1:6379, redis.example.com:6379")
		w.Await(t, "10.0.0.1:6379", "redis.example.com:6379")
		op.put("services/redis2/a", "10.9.9.9:1")
		op.put("services/redis-2", "10.9.9.9:1")
		op.put("/services/redis/a", "10.0.0.2:6379") // with the slash
		w.Await(t, "10.0.0.2:6379")
		op.put("services/redis/b", "10.0.0.3:6379,nonsense") // and without
		if a := w.Await(t, "10.0.0.2:6379", "10.0.0.3:6379"); !slices.Equal(sourcetest.LeftOut(a), []string{`services/redis/b lists "nonsense" ("nonsense" has no port)`}) {
			t.Errorf("answer %+v", a)
		}
		op.delete("services/redis/b")
		w.Await(t, "10.0.0.2:6379")
		op.delete("/services/redis/", clientv3.WithPrefix())
		w.Await(t, "10.0.0.1:6379", "redis.example.com:6379")
		op.delete("services/redis")
		w.Await(t)
		w.Quiet(t)
		w.Stop(t)
	})

	t.Run("Registrator's layout", func(t *testing.T) {
		op.put("/reg/redis/h1:redis:6379", "10.0.0.1:31001")
		op.put("/reg/redis/h2:redis:6379", "10.0.0.2:31002")
		op.put("/reg/web/h1:web:80", "10.0.0.1:31003")
		w := sourcetest.Watch(t, client, query(t, "etcd:///reg/redis"))
		w.Await(t, "10.0.0.1:31001", "10.0.0.2:31002")
		op.delete("/reg/redis/h1:redis:6379")
		w.Await(t, "10.0.0.2:31002")
		w.Stop(t)
		all := sourcetest.Watch(t, client, query(t, "etcd:///reg"))
		if a := all.Next(t); len(a.Endpoints) != 0 || !strings.Contains(a.Note, `2 services: "redis", "web"; name one`) {
			t.Errorf("the prefix: %+v", a)
		}
		all.Stop(t)
	})

	t.Run("too many keys", func(t *testing.T) {
		ctx, cancel := op.context()
		defer cancel()
		for i := range (maxKeys + 100) / 100 {
			var puts []clientv3.Op
			for j := range 100 {
				puts = append(puts, clientv3.OpPut("many/"+strings.Repeat("x", i+1)+strings.Repeat("y", j), "a:1"))
			}
			if _, err := op.Txn(ctx).Then(puts...).Commit(); err != nil {
				t.Fatal(err)
			}
		}
		checkError(t, sourcetest.Watch(t, client, query(t, "etcd:///many")).Err(t), "further down", "more than 10000 keys")
	})
}

// It has a process of etcd to itself, and no other client of ours: one whose watch is ended while
// its stream is being opened keeps the stream for the next watch, and so opens it whenever.
func TestRealConformance(t *testing.T) {
	server := etcdtest.Start(t)
	op := newOperator(t, clientv3.Config{Endpoints: []string{server.Addr}})
	op.put("conform/a", "10.1.0.5:80")
	g := newGate(t, server.Addr) // the operator's own connection stays
	sourcetest.Run(t, sourcetest.Case{
		New: func(testing.TB) (resolver.Source, func()) {
			client := New(Config{Endpoints: []string{g.Addr().String()}})
			return client, func() { _ = client.Close() }
		},
		Query:       query(t, "etcd:///conform"),
		Want:        []string{"10.1.0.5:80"},
		Change:      func(testing.TB) { op.put("conform/a", "10.1.0.5:81") },
		WantChanged: []string{"10.1.0.5:81"},
		Control: sourcetest.Control{
			Set: func(_ testing.TB, endpoints ...string) {
				if len(endpoints) == 0 {
					op.delete("conform/a")
					return
				}
				op.put("conform/a", strings.Join(endpoints, ","))
			},
			Port:  80,
			Break: func(testing.TB) { g.cut() },
			Mend:  func(testing.TB) { g.release() },
			Spare: 8, // what gRPC starts beside a connection, here and at the operator's client
		},
	})
}

func TestRealRestart(t *testing.T) {
	server := etcdtest.Start(t)
	op := newOperator(t, clientv3.Config{Endpoints: []string{server.Addr}})
	client := newTestClient(t, Config{Endpoints: []string{server.Addr}})
	op.put("redis", "10.1.0.1:6379")
	w := sourcetest.Watch(t, client, query(t, "etcd:///redis"))
	w.Await(t, "10.1.0.1:6379")

	server.Stop(t)
	checkError(t, w.Err(t), "check that etcd runs", server.Addr)
	var err error // at first it may be what the server's end did to a connection attempt
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		if err = sourcetest.Watch(t, client, query(t, "etcd:///redis")).Err(t); strings.Contains(err.Error(), "connection refused") {
			break
		}
	}
	checkError(t, err, "check that etcd runs", server.Addr, "connection refused")

	server.Restart(t)
	w = await(t, client, query(t, "etcd:///redis"), "10.1.0.1:6379")
	op.put("redis", "10.1.0.1:6380")
	w.Await(t, "10.1.0.1:6380")
	w.Stop(t)
}

// await starts watches, as the Resolver does, until one succeeds.
func await(t *testing.T, client *Client, q resolver.Query, endpoints ...string) *sourcetest.Watcher {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		ctx, cancel := context.WithCancel(t.Context())
		answered := make(chan struct{})
		var once sync.Once
		failed := make(chan error, 1)
		go func() { failed <- client.Watch(ctx, q, func(resolver.Answer) { once.Do(func() { close(answered) }) }) }()
		select {
		case <-answered:
			cancel()
			<-failed
			w := sourcetest.Watch(t, client, q)
			w.Await(t, endpoints...)
			return w
		case err := <-failed:
			cancel()
			if time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
	}
}

// A frozen server keeps its connections open; only that it gives no sign of life tells.
func TestRealFrozen(t *testing.T) {
	server := etcdtest.Start(t)
	client := newTestClient(t, Config{Endpoints: []string{server.Addr}, Timeout: time.Second, Heartbeat: 100 * time.Millisecond})
	w := sourcetest.Watch(t, client, query(t, "etcd:///redis"))
	w.Await(t)
	op := newOperator(t, clientv3.Config{Endpoints: []string{server.Addr}})
	op.put("redis", "10.0.0.1:1") // by now there has been a sign
	w.Await(t, "10.0.0.1:1")
	defer server.Freeze(t)()
	frozen := time.Now()
	checkError(t, w.Err(t), "check that etcd runs", "no answer in time")
	if took := time.Since(frozen); took > 3*time.Second {
		t.Errorf("it took %v", took)
	}
}

// gate is a TCP proxy that can cut all connections and hold new ones up.
type gate struct {
	net.Listener
	backend string

	mu     sync.Mutex
	open   chan struct{} // closed while connections may pass
	living []net.Conn
	wg     sync.WaitGroup
}

func newGate(t testing.TB, backend string) *gate {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{Listener: listener, backend: backend, open: make(chan struct{})}
	close(g.open)
	g.wg.Go(func() {
		for {
			conn, err := g.Accept()
			if err != nil {
				return
			}
			g.wg.Go(func() { g.pass(conn) })
		}
	})
	t.Cleanup(func() {
		g.Close()
		g.release()
		g.cut()
		g.release()
		g.wg.Wait()
	})
	return g
}

func (g *gate) pass(client net.Conn) {
	defer client.Close()
	g.mu.Lock()
	open := g.open
	g.mu.Unlock()
	<-open
	g.mu.Lock()
	backend := g.backend
	g.mu.Unlock()
	server, err := net.Dial("tcp", backend)
	if err != nil {
		return
	}
	defer server.Close()
	g.mu.Lock()
	g.living = append(g.living, client, server)
	g.mu.Unlock()
	g.wg.Go(func() { _, _ = io.Copy(server, client); server.Close() })
	_, _ = io.Copy(client, server)
}

// cut ends all connections and holds new ones up until release.
func (g *gate) cut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open = make(chan struct{})
	for _, conn := range g.living {
		conn.Close()
	}
	g.living = nil
}

// moveTo ends all connections and leads new ones to another server.
func (g *gate) moveTo(backend string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.backend = backend
	for _, conn := range g.living {
		conn.Close()
	}
	g.living = nil
}

func (g *gate) release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.open:
	default:
		close(g.open)
	}
}

// What happened while the connection was down, and was compacted away, is in the
// next answer; the watch does not even fail.
func TestRealCompaction(t *testing.T) {
	server := etcdtest.Start(t)
	g := newGate(t, server.Addr)
	op := newOperator(t, clientv3.Config{Endpoints: []string{server.Addr}})
	client := newTestClient(t, Config{Endpoints: []string{g.Addr().String()}})
	op.put("redis/a", "10.0.0.1:1")
	op.put("redis/b", "10.0.0.2:1")
	w := sourcetest.Watch(t, client, query(t, "etcd:///redis"))
	w.Await(t, "10.0.0.1:1", "10.0.0.2:1")

	g.cut()
	op.delete("redis/a")
	op.put("redis/b", "10.0.0.2:2")
	op.compact(op.put("redis/c", "10.0.0.3:3"))
	g.release()
	w.Await(t, "10.0.0.2:2", "10.0.0.3:3")
	op.put("redis/b", "10.0.0.2:4")
	w.Await(t, "10.0.0.2:4", "10.0.0.3:3")
	w.Stop(t)
}

// A cluster of three survives the loss of one, and says so when it lost two.
func TestRealCluster(t *testing.T) {
	servers := etcdtest.StartCluster(t, 3)
	var endpoints []string
	for _, s := range servers {
		endpoints = append(endpoints, s.Addr)
	}
	op := newOperator(t, clientv3.Config{Endpoints: endpoints})
	client := newTestClient(t, Config{Endpoints: endpoints, Timeout: 2 * time.Second})
	op.put("redis", "10.0.0.1:1")
	w := sourcetest.Watch(t, client, query(t, "etcd:///redis"))
	w.Await(t, "10.0.0.1:1")

	leader := leaderOf(t, op, servers)
	servers[leader].Stop(t)
	op.put("redis", "10.0.0.1:2") // succeeds once there is another leader
	w.Await(t, "10.0.0.1:2")

	servers[(leader+1)%3].Stop(t)
	checkError(t, w.Err(t), "etcd has no leader", "no leader")

	servers[leader].Restart(t)
	w = await(t, client, query(t, "etcd://"+servers[(leader+2)%3].Addr+"/redis"), "10.0.0.1:2")
	op.put("redis", "10.0.0.1:3")
	w.Await(t, "10.0.0.1:3")
	w.Stop(t)
}

func leaderOf(t *testing.T, op operator, servers []*etcdtest.Server) int {
	t.Helper()
	ctx, cancel := op.context()
	defer cancel()
	for i, s := range servers {
		status, err := op.Status(ctx, s.Addr)
		if err != nil {
			t.Fatal(err)
		}
		if status.Leader == status.Header.MemberId {
			return i
		}
	}
	t.Fatal("no leader")
	return 0
}

// enableAuth makes a root, a user reader with the password secret, who may read prefix, and
// turns authentication on.
func enableAuth(t testing.TB, op operator, prefix string) {
	t.Helper()
	ctx, cancel := op.context()
	defer cancel()
	for _, step := range []func() error{
		func() error { _, err := op.UserAdd(ctx, "root", "root"); return err },
		func() error { _, err := op.RoleAdd(ctx, "root"); return err },
		func() error { _, err := op.UserGrantRole(ctx, "root", "root"); return err },
		func() error { _, err := op.UserAdd(ctx, "reader", "secret"); return err },
		func() error { _, err := op.RoleAdd(ctx, "reader"); return err },
		func() error { _, err := op.UserGrantRole(ctx, "reader", "reader"); return err },
		func() error {
			_, err := op.RoleGrantPermission(ctx, "reader", prefix, clientv3.GetPrefixRangeEnd(prefix), clientv3.PermissionType(clientv3.PermRead))
			return err
		},
		func() error { _, err := op.AuthEnable(ctx); return err },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRealAuth(t *testing.T) {
	server := etcdtest.Start(t)
	op := newOperator(t, clientv3.Config{Endpoints: []string{server.Addr}})
	op.put("/services/redis/a", "10.0.0.1:1")
	op.put("/secret", "10.0.0.9:1")
	enableAuth(t, op, "/services/redis/")
	root := newOperator(t, clientv3.Config{Endpoints: []string{server.Addr}, Username: "root", Password: "root"})

	nobody := newTestClient(t, Config{Endpoints: []string{server.Addr}})
	checkError(t, sourcetest.Watch(t, nobody, query(t, "etcd:///services/redis")).Err(t), "set ETCDCTL_USER", "user name is empty")

	t.Setenv("ETCDCTL_USER", "reader:wrong")
	wrong := newTestClient(t, Config{Endpoints: []string{server.Addr}})
	checkError(t, sourcetest.Watch(t, wrong, query(t, "etcd:///services/redis")).Err(t), "check ETCDCTL_USER and ETCDCTL_PASSWORD", "authentication failed")

	t.Setenv("ETCDCTL_USER", "reader")
	t.Setenv("ETCDCTL_PASSWORD", "secret")
	reader := newTestClient(t, Config{Endpoints: []string{server.Addr}})
	w := sourcetest.Watch(t, reader, query(t, "etcd:///services/redis"))
	if a := w.Await(t, "10.0.0.1:1"); !strings.Contains(a.Note, "some of it user reader may not read") {
		t.Errorf("note %q", a.Note)
	}
	// What it may not read is said, and no other watch suffers.
	checkError(t, sourcetest.Watch(t, reader, query(t, "etcd:///secret")).Err(t), "grant-permission ROLE read --prefix /secret/", "permission denied", "secret")
	root.put("/services/redis/a", "10.0.0.1:2")
	w.Await(t, "10.0.0.1:2")
	w.Stop(t)
}

func TestRealTLS(t *testing.T) {
	authority := servertest.NewAuthority(t)
	server := etcdtest.StartTLS(t, authority)
	cert, key := authority.Issue(t, "client")
	ask := func() *sourcetest.Watcher {
		return sourcetest.Watch(t, newTestClient(t, Config{Endpoints: []string{server.Addr}}), query(t, "etcd:///redis"))
	}
	checkError(t, ask().Err(t), "ETCDCTL_CACERT", server.Addr)

	t.Setenv("ETCDCTL_CACERT", servertest.NewAuthority(t).CAFile)
	checkError(t, ask().Err(t), "ETCDCTL_CACERT", "unknown authority")

	t.Setenv("ETCDCTL_CACERT", authority.CAFile)
	checkError(t, ask().Err(t), "ETCDCTL_CERT", server.Addr)

	t.Setenv("ETCDCTL_CERT", cert)
	t.Setenv("ETCDCTL_KEY", key)
	w := ask()
	w.Await(t)
	w.Stop(t)

	plain := etcdtest.Start(t)
	checkError(t, sourcetest.Watch(t, newTestClient(t, Config{Endpoints: []string{plain.Addr}}), query(t, "etcd:///redis")).Err(t),
		"does not speak TLS", plain.Addr)
	// Another server than the configured one gets none of this.
	w = sourcetest.Watch(t, newTestClient(t, Config{Endpoints: []string{server.Addr}}), query(t, "etcd://"+plain.Addr+"/redis"))
	w.Await(t)
	w.Stop(t)
}
