//go:build integration

package e2e

import (
	"net"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestDaemonKilled kills the daemon under live connections: they go on, with nobody
// at first and then beside the next daemon, and new ones are served at once.
func TestDaemonKilled(t *testing.T) {
	for mode, address := range map[string]string{
		"redirect": "127.0.0.1:6379",
		"listen":   "127.0.0.1:6379",
		"host":     hostAddr4 + ":6379",
	} {
		t.Run(mode, func(t *testing.T) {
			backend := serveIn(t, hostNamespace(t), "127.0.0.1:0", echo)
			c := declaring(t, map[int]string{6379: backend})
			args := []string{"run", "--mode", mode, "--repair-interval", repairInterval.String()}
			first := start(t, append(args, "--log-level", "debug")...)
			serves := func() error {
				conn, err := dialWithin(c.ns, address, impatient)
				if err != nil {
					return err
				}
				defer conn.Close()
				return pingPong(conn)
			}
			poll(t, 10*time.Second, "a first connection", serves)
			var live []*net.TCPConn
			goesOn := func(when string) {
				t.Helper()
				for _, conn := range live {
					if err := pingPong(conn); err != nil {
						t.Errorf("a live connection %s: %v", when, err)
					}
				}
			}
			for range 10 {
				live = append(live, dialIn(t, c.ns, address))
			}
			goesOn("at first")
			first.wait("every connection is kept", 20*time.Second, func(l line) bool {
				return l.str("msg") == "kept" && l.num("connections") == int64(len(live))
			})

			if err := first.cmd.Process.Signal(syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			first.wait("the connections are carried on", 20*time.Second, func(l line) bool {
				return strings.Contains(l.str("msg"), "carried on") && l.num("connections") == int64(len(live))
			})
			goesOn("with no daemon")

			second := start(t, args...)
			restarted := time.Now()
			poll(t, 10*time.Second, "a new connection", serves)
			if took := time.Since(restarted); took > repaired {
				t.Errorf("a new connection worked %s after the next daemon was ready; want at most %s", took, repaired)
			}
			goesOn("beside the next daemon")
			for _, conn := range live {
				conn.Close()
			}
			select {
			case <-first.done: // and its keeper is: they share the log
			case <-time.After(20 * time.Second):
				t.Fatal("the keeper still runs 20 s after its last connection")
			}
			second.stop()
			if got := first.carried(c.name); got != len(live) {
				t.Errorf("%d connections of %s came to a good end with the keeper, want %d", got, c.name, len(live))
			}
		})
	}
}

// carried counts the connections of a client whose end was logged without a reason.
func (d *daemon) carried(client string) (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	gone := false
	for _, l := range d.lines {
		gone = gone || strings.Contains(l.str("msg"), "carried on")
		if gone && l.str("msg") == "connection" && l.str("client") == client && l.str("reason") == "" {
			n++
		}
	}
	return n
}
