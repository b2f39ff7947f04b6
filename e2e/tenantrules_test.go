//go:build integration

package e2e

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/dockertest"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// foreignRules is how many nat rules a container with NET_ADMIN makes in its namespace, and
// honestStarts how many containers start beside some of these.
const (
	foreignRules = 30_000
	honestStarts = 20
)

// TestHeavyNamespaces: containers that have put tens of thousands of rules into their
// namespaces, and change them all the time, do not slow down how others are attached.
func TestHeavyNamespaces(t *testing.T) {
	backend := serveIn(t, hostNamespace(t), "127.0.0.1:0", echo)
	d := start(t, "run", "--mode", "redirect")
	honest := besideHonest(t, d)
	alone := attachTimes(t, d, backend)
	for range 4 {
		c := declaring(t, map[int]string{6379: backend})
		d.attached(c.name)
		fillRules(t, c.ns)
		keepChanging(t, c.ns)
	}
	beside := attachTimes(t, d, backend)
	honest.want()
	t.Logf("attached after %v alone, and %v beside heavy namespaces", alone, beside)
	// One that the machine holds up is not the daemon's; of whatever all wait for, most tell.
	unnoticed := time.Duration(crowded(t) * float64(250*time.Millisecond))
	if most, usual := beside[honestStarts/2], alone[honestStarts/2]; most > 2*max(usual, unnoticed) {
		t.Errorf("beside heavy namespaces half of the containers were attached %s or more after their start, and %s without them", most, usual)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if n := slices.IndexFunc(d.lines, func(l line) bool { return l.str("level") == "ERROR" }); n >= 0 {
		t.Errorf("the daemon complains: %v", d.lines[n])
	}
}

// attachTimes starts containers, four at once, and returns how long after its start each
// was attached, the longest last.
func attachTimes(t *testing.T, d *daemon, backend string) []time.Duration {
	t.Helper()
	var mu sync.Mutex
	var times []time.Duration
	var lanes sync.WaitGroup
	for range 4 {
		lanes.Go(func() {
			for range honestStarts / 4 {
				name := dockertest.Name(t)
				out, err := exec.Command("docker", "run", "-d", "--rm", "--name", name, "-l", "connect.6379="+backend, dockertest.Image(t)).CombinedOutput()
				if err != nil {
					t.Errorf("docker run: %v: %s", err, out)
					return
				}
				out, err = exec.Command("docker", "inspect", "-f", "{{.State.StartedAt}}", name).CombinedOutput()
				started, parseErr := time.Parse(time.RFC3339Nano, strings.TrimSpace(string(out)))
				if err != nil || parseErr != nil {
					t.Errorf("docker inspect: %v: %s", err, out)
					return
				}
				line := d.wait(name+" attached", time.Minute, func(l line) bool { return l.str("msg") == "attached" && l.str("client") == name })
				attached, err := time.Parse(time.RFC3339Nano, line.str("time"))
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				times = append(times, attached.Sub(started).Round(time.Millisecond))
				mu.Unlock()
				_ = exec.Command("docker", "rm", "-f", name).Run()
			}
		})
	}
	lanes.Wait()
	if len(times) != honestStarts {
		t.FailNow()
	}
	slices.Sort(times)
	return times
}

// fillRules makes as many rules as a container with NET_ADMIN may.
func fillRules(t *testing.T, ns *netns.Namespace) {
	t.Helper()
	var script strings.Builder
	script.WriteString("*nat\n:MINE - [0:0]\n")
	for i := range foreignRules {
		fmt.Fprintf(&script, "-A MINE -p tcp -d 10.%d.%d.1 --dport %d -j RETURN\n", i>>8&255, i&255, i%60_000+1)
	}
	script.WriteString("COMMIT\n")
	err := ns.Do(func() error {
		cmd := exec.CommandContext(t.Context(), "iptables-restore", "--noflush")
		cmd.Stdin = strings.NewReader(script.String())
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("iptables-restore: %w: %s", err, out)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// keepChanging changes the rules of a namespace a few times a second until the test ends, so
// that who keeps watch over them has always a reason to look.
func keepChanging(t *testing.T, ns *netns.Namespace) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for every := time.NewTicker(300 * time.Millisecond); ; {
			select {
			case <-every.C:
			case <-ctx.Done():
				every.Stop()
				return
			}
			_ = ns.Do(func() error { return exec.CommandContext(ctx, "nft", "add table ip mine; delete table ip mine").Run() })
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
}
