package agent

import (
	"context"
	"net/netip"
	"path"
	"slices"
	"time"

	"github.com/ambassadord/ambassadord/netrules/netns"
)

// letGo leaves the namespace as it was. Connections that came through our rules
// need the chain to the end, so that goes last; see filter.Rules.Remove.
func (nc *newcomer) letGo() {
	if nc.ns == nil {
		close(nc.unhooked)
		return
	}
	nc.undo(nc.agent.rules.Unhook)
	nc.ahead.unhook()
	nc.surplus.unhook()
	nc.admit()
	nc.stopListening()
	close(nc.unhooked)
	select {
	case <-nc.guests.left():
		nc.undo(func(ctx context.Context, ns *netns.Namespace) error {
			_, err := nc.agent.rules.Remove(ctx, ns)
			return err
		})
		nc.ahead.end()
		nc.surplus.end()
		nc.close()
	case <-nc.wanted: // the chain and the namespace are the attachment's from now on
	}
}

// admit waits until all connections that the kernel has accepted are guests: those
// that are still on their way from there would be reset with the socket, or turned
// away. No new ones come, for nothing is redirected any more.
func (nc *newcomer) admit() {
	if nc.verdict.dead {
		return
	}
	const look = time.Millisecond
	for end := time.Now().Add(ownerPatience); nc.expects() && time.Now().Before(end); {
		time.Sleep(look)
	}
}

// expects reports whether the kernel has accepted a connection that is no guest.
func (nc *newcomer) expects() bool {
	for f := range nc.listening {
		accepted, err := nc.ns.Accepted(netip.AddrPortFrom(loopback(f), nc.listen))
		if err == nil && slices.ContainsFunc(accepted, func(source netip.AddrPort) bool { return !nc.guests.has(source) }) {
			return true
		}
	}
	return false
}

// undo takes rules down, unless they have died with their namespace. The context
// of run may have ended by then; every step bounds itself.
func (nc *newcomer) undo(do func(context.Context, *netns.Namespace) error) {
	if nc.verdict.dead || !nc.applied {
		return
	}
	defer nc.lanes.Enter(nc.ns)()
	if err := do(context.Background(), nc.ns); err != nil {
		nc.agent.log.Error("cannot remove the rules of a container", "namespace", path.Base(nc.path), "error", err,
			"hint", "run: ambassadord rules remove")
	}
}
