//go:build integration

package docker

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/dockertest"
	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/sourcetest"
)

// TestEngineConformance runs the suite against the machine's engine, whose socket is
// reached through a gate that the test can close.
func TestEngineConformance(t *testing.T) {
	image, key := dockertest.Image(t), dockertest.Name(t)
	network := dockertest.Network(t, "--subnet", "10.77.0.0/24", "--gateway", "10.77.0.254")
	running := map[string]string{} // by address: the ID
	set := func(t testing.TB, endpoints ...string) {
		t.Helper()
		var wanted []string
		for _, e := range endpoints {
			addr := netip.MustParseAddrPort(e).Addr().String()
			wanted = append(wanted, addr)
			if running[addr] == "" {
				running[addr] = dockertest.Docker(t, "run", "-d", "--label", key+"=web", "--network", network, "--ip", addr, image)
			}
		}
		for addr, id := range running {
			if !slices.Contains(wanted, addr) {
				dockertest.Docker(t, "rm", "-f", id)
				delete(running, addr)
			}
		}
	}
	defer set(t)
	const first, second = "10.77.0.100:80", "10.77.0.101:80"
	set(t, first)
	gate := newGate(t, "/var/run/docker.sock")
	sourcetest.Run(t, sourcetest.Case{
		New: func(t testing.TB) (resolver.Source, func()) {
			watcher, err := dockerd.New(dockerd.Config{Endpoint: "unix://" + gate.Addr().String(), Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			ended := make(chan error, 1)
			go func() { ended <- watcher.Run(ctx) }()
			return New(watcher, Options{}), func() {
				cancel()
				if err := <-ended; err != nil {
					t.Error(err)
				}
			}
		},
		Query:       parseQuery(t, "?label="+key+"=web&port=80"),
		Want:        []string{first},
		Change:      func(t testing.TB) { set(t, second) },
		WantChanged: []string{second},
		Control: sourcetest.Control{
			Set: set, Port: 80,
			Break:   func(testing.TB) { gate.shut() },
			Mend:    func(testing.TB) { gate.open() },
			Updates: 10, // an engine takes half a second for each
			Spare:   8,  // connections kept, here and at the gate
		},
	})
}

// gate is a proxy of a socket that can be shut: what is connected is cut off, and what
// comes is refused.
type gate struct {
	net.Listener
	backend string

	mu     sync.Mutex
	closed bool
	living map[net.Conn]struct{}
	wg     sync.WaitGroup
}

func newGate(t *testing.T, backend string) *gate {
	t.Helper()
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "docker.sock"))
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{Listener: listener, backend: backend, living: map[net.Conn]struct{}{}}
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
		g.shut()
		g.wg.Wait()
	})
	return g
}

func (g *gate) pass(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("unix", g.backend)
	if err != nil {
		return
	}
	defer server.Close()
	if !g.enter(client, server) {
		return
	}
	defer g.leave(client, server)
	g.wg.Go(func() {
		_, _ = io.Copy(server, client)
		server.Close()
	})
	_, _ = io.Copy(client, server)
}

func (g *gate) enter(conns ...net.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	for _, c := range conns {
		g.living[c] = struct{}{}
	}
	return true
}

func (g *gate) leave(conns ...net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range conns {
		delete(g.living, c)
	}
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	for c := range g.living {
		c.Close()
	}
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = false
}
