// Package firewalld tells when firewalld has rewritten the rules of this host.
//
// When it starts, reloads or ends, firewalld flushes tables with everybody's rules
// in them: with its backend iptables, the whole of nat. Of the legacy variant no
// kernel tells, so firewalld itself is listened to, on the system bus (D-Bus).
package firewalld

import (
	"context"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/ambassadord/ambassadord/internal/backoff"
)

// What firewalld is called on the bus: see firewalld.dbus(5).
const (
	name = "org.fedoraproject.FirewallD1"
	path = dbus.ObjectPath("/org/fedoraproject/FirewallD1")

	busName = "org.freedesktop.DBus"
)

const (
	// connectTimeout bounds everything until we are told of signals.
	connectTimeout = 10 * time.Second
	// startTimeout is how long firewalld may take to set its rules.
	startTimeout = time.Minute
	// firstPause and longestPause are between attempts to reach the bus.
	firstPause, longestPause = time.Second, time.Minute
)

// Watch calls rewritten, from its own goroutine, soon after firewalld may have
// rewritten the rules: it has reloaded, started or gone, or we have just begun to
// listen. It returns when ctx ends. Most hosts have no firewalld and many no bus,
// so that is no error: it keeps looking for one.
func Watch(ctx context.Context, rewritten func()) {
	pauses := backoff.Backoff{Base: firstPause, Max: longestPause}
	for {
		if listen(ctx, rewritten) {
			pauses.Reset()
		}
		if !pauses.Wait(ctx) {
			return
		}
	}
}

// listen reports whether it got to listen. It returns when the bus goes.
func listen(ctx context.Context, rewritten func()) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	late := time.AfterFunc(connectTimeout, cancel)
	defer late.Stop()
	told := make(signals, 1)
	conn, err := dbus.ConnectSystemBus(dbus.WithContext(ctx), dbus.WithSignalHandler(told))
	if err != nil {
		return false
	}
	defer conn.Close()
	for _, match := range [][]dbus.MatchOption{
		{dbus.WithMatchSender(name), dbus.WithMatchInterface(name), dbus.WithMatchMember("Reloaded")},
		{dbus.WithMatchSender(busName), dbus.WithMatchInterface(busName), dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, name)},
	} {
		if err := conn.AddMatchSignalContext(ctx, match...); err != nil {
			return false
		}
	}
	if !late.Stop() {
		return false
	}
	for {
		settled(ctx, conn)
		rewritten() // the first time for what nobody has heard
		select {
		case <-told:
		case <-conn.Context().Done():
			return true
		}
	}
}

// settled waits until firewalld is done: it takes its name before it sets its rules,
// and answers calls after that. Without a firewalld the bus answers at once.
func settled(ctx context.Context, conn *dbus.Conn) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	_ = conn.Object(name, path).CallWithContext(ctx, "org.freedesktop.DBus.Peer.Ping", dbus.FlagNoAutoStart).Err // any answer will do
}

// signals holds a token after a signal that we asked for. It is a handler of its own
// because the library's default starts a goroutine for each one not read yet.
type signals chan struct{}

// DeliverSignal is called by the connection's reader.
func (s signals) DeliverSignal(iface, member string, _ *dbus.Signal) {
	if iface == name && member == "Reloaded" || iface == busName && member == "NameOwnerChanged" {
		select {
		case s <- struct{}{}:
		default:
		}
	}
}
