//go:build integration

package etcd

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/ambassadord/ambassadord/internal/etcdtest"
	"github.com/ambassadord/ambassadord/resolver"
)

// TestRealFloodIsBounded: a key that changes faster than may be read for the client whose target
// names it takes no more memory than a watch may, delays no other watch of the session, and is
// known as it is once it rests.
func TestRealFloodIsBounded(t *testing.T) {
	server := etcdtest.Start(t)
	op := newOperator(t, clientv3.Config{Endpoints: []string{server.Addr}})
	op.put("flood/0", "10.0.0.1:1")
	op.put("quiet/0", "10.0.0.1:2")
	client := newTestClient(t, Config{Endpoints: []string{server.Addr}})
	r := resolver.New(map[string]resolver.Source{"etcd": client}, resolver.Options{Shares: resolver.Shares{PerSecond: 256 << 10}})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = r.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	target := func(text string) resolver.Target {
		t.Helper()
		target, err := r.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		return target
	}
	flood, quiet := target("etcd:///flood"), target("etcd:///quiet")
	r.Keep([]resolver.Target{quiet}, resolver.Owned{Owner: "web", Targets: []resolver.Target{flood}})
	is := func(target resolver.Target, want string, within time.Duration) {
		t.Helper()
		for deadline := time.Now().Add(within); ; {
			got, err := r.Resolve(ctx, target, nil)
			if err == nil && len(got.Endpoints) == 1 && got.Endpoints[0].String() == want {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%v, %v; want %s within %v", got, err, want, within)
			}
			pause, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
			got.Changed(pause)
			cancel()
		}
	}
	is(flood, "10.0.0.1:1", 10*time.Second)
	is(quiet, "10.0.0.1:2", 10*time.Second)

	heap := func() uint64 {
		for range 3 { // gRPC's pooled buffers of a megabyte each outlive the first two
			runtime.GC()
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before, most := heap(), uint64(0)
	const size = 128 << 10
	for i := range 400 { // 50 MiB, of which 256 KiB a second may be read
		op.put("flood/0", fmt.Sprintf("10.0.0.1:%d", 1000+i)+strings.Repeat(" ", size))
		if i%50 == 49 {
			op.put("quiet/0", fmt.Sprintf("10.0.0.2:%d", i))
			is(quiet, fmt.Sprintf("10.0.0.2:%d", i), 3*time.Second)
			most = max(most, heap())
		}
	}
	if grown := int64(most) - int64(before); grown > 16<<20 {
		t.Errorf("the heap has grown by %d MiB, want at most 16", grown>>20)
	} else {
		t.Logf("the heap has grown by %d KiB", grown>>10)
	}
	op.put("flood/0", "10.0.0.3:1")
	is(flood, "10.0.0.3:1", 30*time.Second)
}
