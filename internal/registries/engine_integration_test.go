//go:build integration

package registries

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/netlab"
	"github.com/ambassadord/ambassadord/internal/servertest"
	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/docker"
)

// targets are what resolves the target of a column.
var targets = map[string]string{
	byName: "docker://web:80", byLabel: "docker://?label=lab=app&port=80", bySwarm: "swarm://tasks:80",
}

// engineClient is a resolver that asks an engine, as the daemon's does, and dials all the time
// who it names.
type engineClient struct {
	*resolver.Resolver
	watcher *dockerd.Watcher
	dial    func(address string) (*net.TCPConn, error)
}

// newEngineClient returns a client of the engine at endpoint, on the host of e. Of the columns it
// dials the targets until the test ends: of the addresses that are sure to be of the container
// that an answer names, which are those that the daemon dials, none may be another's.
func newEngineClient(t testing.TB, e *engine, endpoint string, columns []string) *engineClient {
	t.Helper()
	watcher, err := dockerd.New(dockerd.Config{Endpoint: endpoint})
	if err != nil {
		t.Fatal(err)
	}
	source := docker.New(watcher, docker.Options{Addrs: e.addresses, Tasks: watcher.Tasks})
	sources := map[string]resolver.Source{docker.Scheme: source, docker.SchemeSwarm: source}
	c := &engineClient{resolver.New(sources, resolver.Options{Timeout: patience}), watcher, e.host.TryDial}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = watcher.Run(ctx) })
	running.Go(func() { _ = c.Run(ctx) })
	for _, column := range columns {
		running.Go(func() {
			for ctx.Err() == nil {
				c.ask(ctx, t, column)
			}
		})
	}
	t.Cleanup(func() { cancel(); running.Wait() })
	return c
}

// ask dials the containers of a column's target once.
func (c *engineClient) ask(ctx context.Context, t testing.TB, column string) {
	got, err := c.Resolve(ctx, c.parse(t, column), nil)
	if err != nil {
		return
	}
	for _, e := range got.Endpoints {
		snapshot := c.watcher.Snapshot()
		if snapshot.Holds(e.Holder, e.Addr) != nil {
			continue
		}
		if known := snapshot.Get(e.Holder); column == bySwarm && known.Labels["com.docker.swarm.task.id"] == "" {
			t.Errorf("%s leads to %s, which is no task", targets[column], known.Name)
		}
		conn, err := c.dial(e.Addr.String())
		if err != nil {
			continue
		}
		_ = conn.SetDeadline(time.Now().Add(2 * time.Second))
		_, _ = io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n")
		answer, err := io.ReadAll(conn)
		conn.Close()
		_, id, ok := strings.Cut(string(answer), "\r\n\r\n")
		if err != nil || !ok || !strings.Contains(string(answer), " 200 ") || strings.HasPrefix(e.Holder, strings.TrimSpace(id)) {
			continue
		}
		// An engine that tells of it in time has told of it just now: an address may go to another
		// container between the look and the dial.
		late, cancel := context.WithTimeout(ctx, time.Second)
		for err == nil && snapshot.Holds(e.Holder, e.Addr) == nil {
			snapshot, err = c.watcher.Wait(late, snapshot)
		}
		cancel()
		if err != nil && ctx.Err() == nil {
			t.Errorf("%s: at %s, which is to be %.12s, %.12s answers", targets[column], e.Addr, e.Holder, strings.TrimSpace(id))
		}
	}
	pause, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	got.Changed(pause)
	cancel()
}

func (c *engineClient) parse(t testing.TB, column string) resolver.Target {
	t.Helper()
	target, err := c.Parse(targets[column])
	if err != nil {
		t.Fatal(err)
	}
	return target
}

// served is by which containers a column's target is served.
func (c *engineClient) served(t testing.TB, column string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	got, err := c.Resolve(ctx, c.parse(t, column), nil)
	if _, nobody := errors.AsType[*resolver.NoEndpointsError](err); nobody {
		return ""
	}
	if err != nil {
		return err.Error()
	}
	var ids []string
	for _, e := range got.Endpoints {
		ids = append(ids, e.Holder)
	}
	return strings.Join(ids, ",")
}

// hears waits until a column's target is served by the container id alone, and reports how long
// that took.
func (c *engineClient) hears(t testing.TB, column, id string, within time.Duration) {
	t.Helper()
	began := time.Now()
	retry(t, fmt.Sprintf("%s is served by %.12s", targets[column], id), func(context.Context) error {
		if got := c.served(t, column); got != id {
			return fmt.Errorf("it is served by %q; the engine: %w", got, c.watcher.Err())
		}
		return nil
	})
	if took := time.Since(began); took > within {
		t.Errorf("%s was heard to be %.12s after %v, want %v", targets[column], id, took, within)
	} else {
		t.Logf("%s is %.12s: %v", targets[column], id, took)
	}
}

// fails waits until it is told that the engine cannot be asked, and that the last answer stays.
func (c *engineClient) fails(t testing.TB, column, id string) {
	t.Helper()
	began := time.Now()
	retry(t, "the engine's failure", func(ctx context.Context) error {
		if got := c.served(t, column); got != id {
			t.Fatalf("%s: the last answer is lost: %s", targets[column], got)
		}
		s, err := c.Status(ctx, c.parse(t, column))
		switch {
		case err != nil:
			return err
		case s.Queries[0].Err == nil:
			return errors.New("nothing is said")
		}
		t.Logf("%s says after %v: %v", targets[column], time.Since(began), s.Queries[0].Err)
		return nil
	})
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("the failure was told after %v", took)
	}
}

// tryEngine runs the cells of a fault.
func tryEngine(t *testing.T, e *engine, name string) {
	fault := engineFaultsOf[name]
	columns, cell := columnsOf(name)
	path, at := e.socket, (*relay)(nil)
	if fault.relayed {
		path = filepath.Join(e.dir, name+".sock")
		at = socketRelay(t, path, e.socket)
	}
	tryAt(t, e, "unix://"+path, columns, cell, name, func(t testing.TB) func(testing.TB) *engine { return fault.happen(t, e, path, at) })
}

func tryAt(t *testing.T, e *engine, endpoint string, columns []string, cell Cell, name string, happens func(testing.TB) func(testing.TB) *engine) {
	c := newEngineClient(t, e, endpoint, columns)
	within := 3 * time.Second
	serving := map[string]string{}
	for _, column := range columns {
		serving[column] = e.current(t, column)
		c.hears(t, column, serving[column], 2*within) // from its first answer on
	}
	undo := happens(t)
	if cell.Promise == Hears {
		within += 4 * late
		defer undo(t)
	} else {
		for _, column := range columns {
			c.fails(t, column, serving[column])
		}
		e = undo(t)
		if cell.Promise == Keeps {
			return // what was restarted the cell of that name shows
		}
	}
	for _, column := range columns {
		c.hears(t, column, e.renew(t, column), within)
	}
	if name == "slow" {
		fresh := newEngineClient(t, e, endpoint, nil)
		fresh.hears(t, byLabel, c.served(t, byLabel), within+2*late) // it asks for six answers first
	}
}

// TestEngines is the table of the Docker engine but for the cell that TestSecrets has.
func TestEngines(t *testing.T) {
	t.Run("Docker", func(t *testing.T) {
		t.Parallel()
		e := newEngine(t, netlab.New(t), "")
		e.populate(t, true)
		for _, f := range engineFaults() {
			if columns, _ := columnsOf(f.Name); len(columns) > 0 && f.Name != "live-restored" && !secret(f.Name) {
				t.Run(f.Name, func(t *testing.T) { tryEngine(t, e, f.Name) })
				if f.Name == "restored" {
					e.start(t) // in the other's place
				}
			}
		}
	})
	t.Run("Docker with live-restore", func(t *testing.T) {
		t.Parallel()
		e := newEngine(t, netlab.New(t), "", "--live-restore")
		e.populate(t, false)
		t.Run("live-restored", func(t *testing.T) { tryEngine(t, e, "live-restored") })
	})
}

// engineCertified is the cell of an engine that wants its clients to have a certificate.
func engineCertified(t *testing.T) {
	client, server := t.TempDir(), t.TempDir()
	issue := func(t testing.TB) {
		t.Helper()
		authority := servertest.NewAuthority(t)
		cert, key := authority.Issue(t, "cert")
		for _, dir := range []string{client, server} {
			for from, to := range map[string]string{authority.CAFile: "ca.pem", cert: "cert.pem", key: "key.pem"} {
				text, err := os.ReadFile(from)
				if err == nil {
					err = os.WriteFile(filepath.Join(dir, to), text, 0o600)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	issue(t)
	host := netlab.New(t)
	file := func(name string) string { return filepath.Join(server, name) }
	e := newEngine(t, host, "", "--host", "tcp://127.0.0.1:2376", "--tlsverify",
		"--tlscacert", file("ca.pem"), "--tlscert", file("cert.pem"), "--tlskey", file("key.pem"))
	e.populate(t, false)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	startRelay(t).serve(t, listener, func() (net.Conn, error) { return host.TryDial("127.0.0.1:2376") })
	t.Setenv("DOCKER_TLS_VERIFY", "1")
	t.Setenv("DOCKER_CERT_PATH", client)
	at := netip.MustParseAddrPort(listener.Addr().String())
	columns, cell := columnsOf("certified")
	tryAt(t, e, "tcp://"+at.String(), columns, cell, "certified", func(t testing.TB) func(testing.TB) *engine {
		e.kill(t)
		return func(t testing.TB) *engine { issue(t); e.start(t); return e }
	})
}
