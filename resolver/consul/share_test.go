package consul

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/resolver"
)

// declared runs a Resolver whose targets are consul:// paths of agent that a client
// declares, and returns how each of them fails.
func declared(t *testing.T, agent string, paths int, owned bool) (*Client, func() []error) {
	t.Helper()
	client := newTestClient(t, Config{Timeout: 3 * time.Second})
	r := resolver.New(map[string]resolver.Source{SchemeKV: client.KV()}, resolver.Options{Timeout: 20 * time.Second})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = r.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	var targets []resolver.Target
	for i := range paths {
		targets = append(targets, resolver.Target{Choices: []resolver.Choice{{Queries: []resolver.Query{kvQuery(agent, fmt.Sprint("k", i))}}}})
	}
	if owned {
		r.Keep(nil, resolver.Owned{Owner: "tenant", Targets: targets})
	} else {
		r.Keep(targets)
	}
	return client, func() []error {
		errs := make([]error, paths)
		var all sync.WaitGroup
		for i, target := range targets {
			all.Go(func() { _, errs[i] = r.Resolve(ctx, target, nil) })
		}
		all.Wait()
		return errs
	}
}

func addressOf(server *httptest.Server) string { return strings.TrimPrefix(server.URL, "http://") }

// endless writes what never ends, in JSON that a decoder takes until then.
func endless(text string) http.HandlerFunc {
	piece := []byte(strings.Repeat(text, 1000))
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Consul-Index", "1")
		_, _ = w.Write([]byte("["))
		for {
			if _, err := w.Write(piece); err != nil {
				return
			}
		}
	}
}

// TestAnAgentOfATenantsOwn misbehaves in every way that it can: each target fails with a
// reason and a hint, and the memory that takes is bounded.
func TestAnAgentOfATenantsOwn(t *testing.T) {
	packed := zip(t, 30<<20)
	for name, tt := range map[string]struct {
		answer  http.HandlerFunc
		targets int
		want    []string // beside what any may be told, one of them is part of each error
	}{
		"long":         {endless(`{"Key":"k","Value":"` + strings.Repeat("eA==", 1000) + `"},`), 16, []string{"an answer of more than 2 MiB"}},
		"many objects": {endless(`{},`), 16, nil},
		"packed": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(packed)
		}, 16, []string{"an answer of more than 2 MiB"}},
		"a long header": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Long", strings.Repeat("x", maxHeader))
		}, 16, []string{"header is longer than 64 KiB"}},
		"an error that is long": {func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusInternalServerError)
			endless("x")(w, r)
		}, 16, []string{"status 500", "an answer of more than 2 MiB"}},
		"a byte now and then": {func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				_, _ = w.Write([]byte("["))
				w.(http.Flusher).Flush()
				select {
				case <-time.After(50 * time.Millisecond):
				case <-r.Context().Done():
				}
			}
		}, 16, nil},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(tt.answer)
			defer server.Close()
			_, resolve := declared(t, addressOf(server), tt.targets, true)
			most, stop := watchHeap()
			errs := resolve()
			stop()
			if mib := most.Load() >> 20; mib > 100 {
				t.Errorf("%d MiB more are in use", mib)
			}
			for i, err := range errs {
				known := err != nil && hint.Of(err) != ""
				if known {
					known = false
					for _, want := range append([]string{"take more than 8192 KiB", "too much to say", "no answer in time", "no answer for"}, tt.want...) {
						known = known || strings.Contains(err.Error(), want)
					}
				}
				if !known {
					t.Errorf("target %d: %.500v, hint %q; want one of %q", i, err, hint.Of(err), tt.want)
				}
			}
		})
	}
}

// zip packs so many spaces into a thousandth of that.
func zip(t *testing.T, size int) []byte {
	t.Helper()
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	if _, err := w.Write(bytes.Repeat([]byte(" "), size)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return packed.Bytes()
}

// watchHeap looks how much more the heap takes than now, until stop is called.
func watchHeap() (most *atomic.Int64, stop func()) {
	inUse := func() int64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapInuse)
	}
	runtime.GC()
	most, before, done := new(atomic.Int64), inUse(), make(chan struct{})
	var looking sync.WaitGroup
	looking.Go(func() {
		ticker := time.NewTicker(5 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				most.Store(max(most.Load(), inUse()-before))
			case <-done:
				return
			}
		}
	})
	return most, func() { close(done); looking.Wait() }
}

// TestTheOperatorsOwnAnswersMayBeLong: 5 MiB, of a server that no client named.
func TestTheOperatorsOwnAnswersMayBeLong(t *testing.T) {
	agent := newFakeAgent(t, list(pair("k0", "10.0.0.1:1"), pair("k0/x", strings.Repeat(" ", 5<<20)+"10.0.0.2:1")))
	for owned, served := range map[bool]bool{false: true, true: false} {
		_, resolve := declared(t, agent.address, 1, owned)
		if err := resolve()[0]; (err == nil) != served {
			t.Errorf("declared by a client: %t: %v", owned, err)
		}
	}
}

// TestServersOfOnesOwnAreBounded, and forgotten when nobody asks them any more.
func TestServersOfOnesOwnAreBounded(t *testing.T) {
	client := newTestClient(t, Config{})
	for i := range 10 * mostLingering {
		_, leave, err := client.named(nil, "127.0.0.1", uint16(i+1))
		if err != nil {
			t.Fatal(err)
		}
		_, again, _ := client.named(nil, "127.0.0.1", uint16(i+1))
		leave()
		if client.agents[fmt.Sprint("127.0.0.1:", i+1)] == nil {
			t.Error("an agent is forgotten that somebody asks")
		}
		again()
	}
	if n := len(client.agents); n > mostLingering {
		t.Errorf("%d agents are remembered", n)
	}
}
