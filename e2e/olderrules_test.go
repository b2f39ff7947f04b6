//go:build integration

package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/netlab"
)

// TestOlderConnectionOfAContainer has a container with a live connection to a server of its
// own, and with the rules that an older daemon left, when the daemon starts. The connection
// goes on, and the rules are replaced: they took connections from their midst.
func TestOlderConnectionOfAContainer(t *testing.T) {
	backend := serveIn(t, hostNamespace(t), "127.0.0.1:0", echo)
	c := declaring(t, map[int]string{6379: backend})
	serveIn(t, c.ns, "127.0.0.1:6379", echo)
	live := dialIn(t, c.ns, "127.0.0.1:6379")
	if err := pingPong(live); err != nil {
		t.Fatal(err)
	}
	// What it has to acknowledge goes now (tcp(7)), not when the old rule would take it.
	raw, err := live.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	quick := func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1) }
	if err := errors.Join(raw.Control(quick), err); err != nil {
		t.Fatal(err)
	}
	older := func(more ...string) { // in one transaction, as a daemon that runs repairs at once
		script := append([]string{"*nat", ":AMBASSADORD - [0:0]",
			"-A AMBASSADORD -d 127.0.0.0/8 -p tcp -m tcp --dport 6379 -m comment --comment ambassadord:old -j REDIRECT --to-ports 61000"}, more...)
		netlab.RunIn(t, c.ns, "sh", "-c", "printf '%s\\n' \"$@\" COMMIT | iptables-restore --noflush", "sh", strings.Join(script, "\n"))
	}
	replaced := func(when string) {
		t.Helper()
		poll(t, 10*time.Second, "the rules are replaced "+when, func() error {
			text := natRules(t, c)
			if strings.Count(text, "-j REDIRECT") != 1 || strings.Count(text, "--tcp-flags FIN,SYN,RST,ACK SYN") != 1 || strings.Count(text, "-j AMBASSADORD") != 1 {
				return fmt.Errorf("they are:\n%s", text)
			}
			return nil
		})
		if err := pingPong(live); err != nil {
			t.Errorf("the container's own connection %s: %v", when, err)
		}
		poll(t, 10*time.Second, "a new connection "+when, func() error { return connects(c) })
	}
	older("-A OUTPUT -m comment --comment ambassadord -j AMBASSADORD")
	d := startPlain(t, "run", "--mode", "redirect", "--repair-interval", repairInterval.String())
	d.attached(c.name)
	replaced("at the start")
	older()
	replaced("by a repair")
	next := startPlain(t, "run", "--mode", "redirect", "--takeover")
	next.attached(c.name)
	replaced("after a takeover")
	next.stop()
	if err := pingPong(live); err != nil {
		t.Errorf("the container's own connection after the daemon has gone: %v", err)
	}
}
