//go:build integration

package etcd

import (
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/ambassadord/ambassadord/internal/etcdtest"
	"github.com/ambassadord/ambassadord/resolver/sourcetest"
)

// A server that was started again knows none of the tokens that it gave before, and refuses
// a login with which one of them comes.
func TestRealAuthRestart(t *testing.T) {
	server := etcdtest.Start(t)
	op := newOperator(t, clientv3.Config{Endpoints: []string{server.Addr}})
	op.put("/redis/a", "10.0.0.1:1")
	enableAuth(t, op, "/redis/")
	t.Setenv("ETCDCTL_USER", "reader:secret")
	client := newTestClient(t, Config{Endpoints: []string{server.Addr}})
	w := sourcetest.Watch(t, client, query(t, "etcd:///redis"))
	w.Await(t, "10.0.0.1:1")
	root := newOperator(t, clientv3.Config{Endpoints: []string{server.Addr}, Username: "root", Password: "root"})
	for i := range 2 {
		root.commit(server.Addr)
		server.Restart(t)
		root = newOperator(t, clientv3.Config{Endpoints: []string{server.Addr}, Username: "root", Password: "root"})
		began := time.Now()
		address := []string{"10.0.0.1:2", "10.0.0.1:3"}[i]
		root.put("/redis/a", address)
		sourcetest.Rewatch(t, client, query(t, "etcd:///redis"), address).Stop(t)
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("restart %d: the change was heard %v after the server could tell", i+1, took)
		}
	}
}

// Behind an address that goes on accepting, etcd is replaced by one that was restored from an
// older backup: of the same cluster ID, and of a revision that the watch is far ahead of.
func TestRealRestored(t *testing.T) {
	first, second := etcdtest.Start(t), etcdtest.Start(t)
	g := newGate(t, first.Addr)
	before := newOperator(t, clientv3.Config{Endpoints: []string{first.Addr}})
	after := newOperator(t, clientv3.Config{Endpoints: []string{second.Addr}})
	for range 50 {
		before.put("other", "x")
	}
	before.put("redis", "10.0.0.1:1")
	after.put("redis", "10.0.0.1:2")

	client := newTestClient(t, Config{Endpoints: []string{g.Addr().String()}, Heartbeat: 200 * time.Millisecond})
	w := sourcetest.Watch(t, client, query(t, "etcd:///redis"))
	w.Await(t, "10.0.0.1:1")
	g.moveTo(second.Addr)
	w.Await(t, "10.0.0.1:2")
	after.put("redis", "10.0.0.1:3")
	w.Await(t, "10.0.0.1:3")
	w.Stop(t)
}

// Of two servers the first is frozen: a new watch is answered by the other one, and one that
// runs goes on there.
func TestRealFirstFrozen(t *testing.T) {
	servers := etcdtest.StartCluster(t, 3)
	op := newOperator(t, clientv3.Config{Endpoints: []string{servers[1].Addr, servers[2].Addr}})
	op.put("redis", "10.0.0.1:1")
	config := Config{Endpoints: []string{servers[0].Addr, servers[1].Addr}, Heartbeat: 200 * time.Millisecond}
	w := sourcetest.Watch(t, newTestClient(t, config), query(t, "etcd:///redis"))
	w.Await(t, "10.0.0.1:1")
	op.put("redis", "10.0.0.1:2")
	w.Await(t, "10.0.0.1:2")

	thaw := servers[0].Freeze(t)
	defer thaw()
	op.put("redis", "10.0.0.1:3")
	frozen := time.Now()
	fresh := sourcetest.Watch(t, newTestClient(t, config), query(t, "etcd:///redis"))
	fresh.Await(t, "10.0.0.1:3")
	if took := time.Since(frozen); took > 3*time.Second {
		t.Errorf("a new watch was answered after %v", took)
	}
	w.Await(t, "10.0.0.1:3")
	if took := time.Since(frozen); took > 3*time.Second {
		t.Errorf("the change was heard after %v", took)
	}
	fresh.Stop(t)
	w.Stop(t)
}
