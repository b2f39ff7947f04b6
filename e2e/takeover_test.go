//go:build integration

package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/dockertest"
)

// loader is a container with the program of e2e/internal/load.
type loader struct {
	t    *testing.T
	name string
}

var buildLoad = program("load")

// startLoad starts a container that declares port 6379 as target and dials address, and
// waits until its streams are up.
func startLoad(t *testing.T, target, address string, rate, streams int, options ...string) *loader {
	t.Helper()
	path, err := buildLoad()
	if err != nil {
		t.Fatal(err)
	}
	l := &loader{t: t, name: dockertest.Name(t)}
	args := append([]string{"--name", l.name, "-l", "connect.6379=" + target, "-v=" + path + ":/load:ro"}, options...)
	dockertest.Run(t, append(args, dockertest.Image(t), "/load",
		"-rate", fmt.Sprint(rate), "-streams", fmt.Sprint(streams), address)...)
	poll(t, 30*time.Second, "the streams are up", func() error {
		if out := dockertest.Docker(t, "logs", l.name); !strings.Contains(out, "loaded") {
			return fmt.Errorf("it says %q", out)
		}
		return nil
	})
	return l
}

// loaded is what the load has done.
type loaded struct {
	Connections, Streams, Bytes, Refused, Broken int64
	Slowest                                      string
}

// finish ends the load, and demands that nothing was refused or broken.
func (l *loader) finish() loaded {
	l.t.Helper()
	dockertest.Docker(l.t, "kill", "-s", "TERM", l.name)
	dockertest.Docker(l.t, "wait", l.name)
	lines := strings.Split(strings.TrimSpace(dockertest.Docker(l.t, "logs", l.name)), "\n")
	var done loaded
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &done); err != nil {
		l.t.Fatalf("the load says %q: %v", lines, err)
	}
	if done.Refused+done.Broken > 0 || done.Connections == 0 {
		l.t.Errorf("%+v; want nothing refused and nothing broken\n%s", done, strings.Join(lines[:min(len(lines), 20)], "\n"))
	}
	return done
}

// TestTakeovers has one daemon take over from the other, again and again, under load.
func TestTakeovers(t *testing.T) {
	for _, c := range []struct {
		mode, address         string
		rounds, rate, streams int
	}{
		{"redirect", "127.0.0.1:6379", 20, 500, 500},
		{"listen", "127.0.0.1:6379", 10, 300, 100},
		{"host", hostAddr4 + ":6379", 10, 300, 100},
	} {
		t.Run(c.mode, func(t *testing.T) {
			backend := serveIn(t, hostNamespace(t), "127.0.0.1:0", echo)
			daemons := []*daemon{startPlain(t, "run", "--mode", c.mode)}
			l := startLoad(t, backend, c.address, c.rate, c.streams)
			began := time.Now()
			for range c.rounds {
				daemons = append(daemons, startPlain(t, "run", "--mode", c.mode, "--takeover"))
			}
			took := time.Since(began)
			done := l.finish()
			last := daemons[len(daemons)-1]
			for _, d := range daemons[:len(daemons)-1] {
				d.ended(30 * time.Second)
			}
			last.stop()
			t.Logf("%d takeovers in %s: %+v", c.rounds, took.Round(time.Millisecond), done)
		})
	}
}
