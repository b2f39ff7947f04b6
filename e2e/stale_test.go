//go:build integration

package e2e

import (
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestAnotherModeAfterACrash kills a daemon, and starts one in a mode that has no rules where
// the dead one had.
func TestAnotherModeAfterACrash(t *testing.T) {
	for _, modes := range [][2]string{{"redirect", "host"}, {"redirect", "listen"}, {"host", "redirect"}, {"host", "listen"}} {
		t.Run(modes[0]+" then "+modes[1], func(t *testing.T) {
			c := declaring(t, map[int]string{6379: serveIn(t, hostNamespace(t), "127.0.0.1:0", echo)})
			first := start(t, "run", "--mode", modes[0])
			inside, host := 1, 0
			if modes[0] == "host" {
				inside, host = 0, 1
			}
			wants := func(inside, host int) func() error {
				return func() error { return errors.Join(wantJumps(c, inside, host), wantChains(c, inside, host)) }
			}
			poll(t, 20*time.Second, "it has its rules", wants(inside, host))
			if err := first.cmd.Process.Signal(unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			<-first.done
			if err := wants(inside, host)(); err != nil {
				t.Fatalf("the killed daemon has left nothing to remove: %v", err)
			}
			second := start(t, "run", "--mode", modes[1])
			inside, host = 0, 0
			switch modes[1] {
			case "host":
				host = 1
			case "redirect":
				inside = 1
			}
			poll(t, 20*time.Second, "what the other mode left is gone", wants(inside, host))
			second.wait("that it was removed", 5*time.Second, func(l line) bool {
				return strings.Contains(l.str("msg"), "removed what a daemon that is gone has left")
			})
			if modes[0] == "host" && strings.Contains(addresses(t), hostAddr4) {
				t.Errorf("%s is still there", hostAddr4)
			}
		})
	}
}

// TestRulesOfAnotherProcessStay: what somebody listens to that is no daemon is his who had it
// set.
func TestRulesOfAnotherProcessStay(t *testing.T) {
	c := declaring(t, map[int]string{6379: "127.0.0.1:1"})
	serveIn(t, c.ns, "127.0.0.1:15001", echo)
	if status, _, stderr := ambassadord(t, "rules", "apply", "--listen-port", "15001"); status != 0 {
		t.Fatalf("rules apply: exit %d, %s", status, stderr)
	}
	for _, mode := range []string{"host", "listen"} {
		d := start(t, "run", "--mode", mode, "--log-level", "debug")
		d.wait("that it has looked", 10*time.Second, func(l line) bool {
			return strings.Contains(l.str("msg"), "looked for what a daemon that is gone")
		})
		d.stop()
		if err := wantJumps(c, 1, 0); err != nil {
			t.Errorf("after mode %s: %v", mode, err)
		}
	}
	if got, err := echoed(c.ns, "127.0.0.1:6379"); err != nil {
		t.Errorf("%q, %v; want what the other process says", got, err)
	}
}
