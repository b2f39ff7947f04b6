package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// drainingPrefix starts the names of the abstract sockets of daemons that have handed
// over and carry connections still. The chains those came through have to stay, so
// whoever is the last to end removes them.
const drainingPrefix = "@ambassadord/draining/"

// announceDraining takes such a socket.
func announceDraining() (end func(), err error) {
	name := fmt.Sprintf("%s%d-%d", drainingPrefix, os.Getpid(), time.Now().UnixNano())
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("say that connections are carried on: %w", err)
	}
	return func() { listener.Close() }, nil
}

// othersDrain reports whether another daemon in this network namespace has handed over
// and carries connections still. What cannot be known counts as yes.
func othersDrain() bool {
	text, err := os.ReadFile("/proc/thread-self/net/unix")
	return err != nil || strings.Contains(string(text), drainingPrefix)
}

// awaitDrained waits until no other daemon drains.
func awaitDrained(ctx context.Context) bool {
	const look = time.Second
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	for othersDrain() {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// tidy removes the rules of a host or a container that no daemon serves any more, and
// through which no daemon carries a connection. We have handed over, and announced that we
// have ended.
func (a *agent) tidy() {
	if a.tuned().cfg.KeepRules || a.rules == nil || othersDrain() {
		return
	}
	if !a.needsLock() {
		own, err := netns.Current()
		if err != nil {
			return
		}
		defer own.Close()
		if ports, err := own.ListeningPorts(); err == nil && !ports[a.cfg.Port] {
			a.removeOwn(config.Link, families())
		}
		return
	}
	err := RemoveRules(context.Background(), false, a.log, func(Removed) {}) // each step bounds itself
	if err != nil && !errors.Is(err, errServed) {
		a.log.Error("cannot remove the rules that no daemon needs any more", "error", err, "hint", "run: ambassadord rules remove")
	}
}
