package agent

import (
	"context"
	"sync"
	"time"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/internal/ruleslots"
)

// attachments keeps one attachment for each network namespace in which a port is
// declared (modes redirect and listen). Only one goroutine calls its methods.
type attachments struct {
	agent     *agent
	mode      config.Mode
	live      map[string]*attachment // by the owner's container ID
	lanes     *ruleslots.Slots
	newcomers *newcomers
	wg        sync.WaitGroup
	departed  bool                 // left to another daemon
	swept     map[string]time.Time // by the owner's container ID: see sweep
}

func newAttachments(a *agent, mode config.Mode) *attachments {
	return &attachments{
		agent: a, mode: mode, live: map[string]*attachment{}, lanes: ruleslots.New(a.rules, 4), newcomers: newNewcomers(a),
	}
}

// hasten does what cannot wait until update: a container may be about to dial.
func (as *attachments) hasten(table *identity.Table) {
	if as.mode == config.Redirect && !as.departed {
		as.newcomers.hasten(table)
	}
}

// update makes the attachments follow table. It starts the work and does not
// wait for it: a container that is slow to attach delays no other.
func (as *attachments) update(ctx context.Context, table *identity.Table) {
	if as.departed {
		as.settle(table)
		return
	}
	if as.mode == config.Redirect {
		as.newcomers.watch(ctx, table)
	}
	there := map[string]bool{}
	for _, n := range table.Namespaces() {
		if n.Owner.NetworkMode == "host" {
			continue
		}
		id := n.Owner.ID
		at := as.live[id]
		if at != nil && !at.same(n) { // restarted: a new namespace under the old ID
			as.drop(id)
			at = nil
		}
		switch {
		case at != nil:
			if at.follow(n) {
				as.wg.Go(at.ahead.hurry) // run may be at what another has declared
			}
		case attaches(as.mode, n):
			at = newAttachment(as, n)
			if at.newcomer = as.newcomers.claim(at, n); at.newcomer == nil {
				at.adopt(ctx)
			}
			as.live[id] = at
			as.wg.Go(func() {
				as.agent.awaitReady(at.ending)
				at.run(ctx)
			})
		default:
			as.newcomers.decline(n)
			if n.LeftBehind() {
				as.sweep(ctx, n)
			}
		}
		there[id] = true
	}
	as.newcomers.follow(ctx, table)
	for id := range as.swept {
		if !there[id] {
			delete(as.swept, id)
		}
	}
	for id := range as.live {
		if !there[id] {
			as.drop(id)
		}
	}
}

// drop ends the attachment of a container whose namespace has died, and its rules with it.
func (as *attachments) drop(id string) {
	at := as.live[id]
	at.end(false)
	as.newcomers.disown(at)
	delete(as.live, id)
}

// sweep has no new connection led to us any more, once, in the namespace of a container that
// has left n to others, who declare nothing. The chain stays, which live connections of theirs
// need, until the namespace goes.
func (as *attachments) sweep(ctx context.Context, n *identity.Namespace) {
	since := n.Owner.StartedAt
	if was, swept := as.swept[n.Owner.ID]; as.mode != config.Redirect || !as.agent.owns() || swept && was.Equal(since) {
		return
	}
	if as.swept == nil {
		as.swept = map[string]time.Time{}
	}
	as.swept[n.Owner.ID] = since
	as.wg.Go(func() {
		ns, err := as.agent.openNamespace(ctx, n)
		if err != nil {
			return // it has ended
		}
		defer ns.Close()
		defer as.lanes.Enter(ns)()
		if err := as.agent.rules.Unhook(ctx, ns); err != nil && ctx.Err() == nil {
			as.agent.log.Error("cannot remove the rules that are left in a container", "client", n.Owner.Name, "id", n.Owner.ShortID(),
				"error", err, "hint", "run: ambassadord rules remove")
		}
	})
}

// unhook ends every attachment: no connection is redirected any more, and none
// is accepted. Connections that are being carried stay.
func (as *attachments) unhook() {
	as.newcomers.unhook()
	for _, at := range as.live {
		at.end(true)
	}
	as.wg.Wait()
}

// release removes what unhook left for the sake of the connections that were
// being drained, and lets go of the namespaces.
func (as *attachments) release() {
	var wg sync.WaitGroup
	for _, at := range as.live {
		wg.Go(at.release)
	}
	wg.Wait()
	as.newcomers.release()
}
