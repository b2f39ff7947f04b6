//go:build integration

package etcd

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/ambassadord/ambassadord/internal/etcdtest"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/resolver"
)

// TestRealAnswersAreBounded: what is kept of a path, by messages that are each short
// enough, as well as one message; of a server that a target names by less than of the
// configured one.
func TestRealAnswersAreBounded(t *testing.T) {
	server := etcdtest.Start(t)
	op := newOperator(t, clientv3.Config{Endpoints: []string{server.Addr}})
	for i := range 3 {
		op.put(fmt.Sprint("long/", i), fmt.Sprintf("10.0.0.1:%d", i+1)+strings.Repeat(" ", 400<<10))
	}
	ask := func(endpoint, target string, during func()) (answers int, err error) {
		client := newTestClient(t, Config{Endpoints: []string{endpoint}})
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		err = client.Watch(ctx, query(t, target), func(resolver.Answer) {
			answers++
			if answers == 1 {
				during()
			}
		})
		return answers, err
	}
	bounded := func(what string, err error) {
		t.Helper()
		if err == nil || hint.Of(err) != "name a path further down" {
			t.Errorf("%s: %v, hint %q; want it refused for its length", what, err, hint.Of(err))
		}
	}
	if n, err := ask(server.Addr, "etcd:///long", func() {}); n != 1 || err != nil {
		t.Errorf("the configured server's: %d answers, %v", n, err)
	}
	_, err := ask("127.0.0.1:1", "etcd://"+server.Addr+"/long", func() {})
	bounded("in one message", err)
	op.put("grows/0", "10.0.0.1:1")
	n, err := ask("127.0.0.1:1", "etcd://"+server.Addr+"/grows", func() {
		for i := range 3 {
			op.put(fmt.Sprint("grows/", i), "10.0.0.1:1"+strings.Repeat(" ", 400<<10))
		}
	})
	if n == 0 {
		t.Error("no answer while it was short")
	}
	bounded("by what changes", err)
}
