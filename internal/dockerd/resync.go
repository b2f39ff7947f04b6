package dockerd

import (
	"context"
	"maps"
	"path/filepath"
	"slices"
	"strings"
)

// shares is in how many lists every container is inspected once, although nothing says
// that it has changed. To inspect takes the engine and us longer than all else that an
// idle daemon does.
const shares = 20

// listedContainer is a container in the engine's list.
type listedContainer struct {
	id string
	// mark is another one when what the list says of the container is.
	mark string
	// young is that it has not been up, or down, for a minute. It may have been
	// restarted since the last list, and look the same.
	young bool
}

func (l *listed) entry() listedContainer {
	var mark strings.Builder
	add := func(texts ...string) {
		for _, text := range texts {
			mark.WriteString(text)
			mark.WriteByte(0)
		}
	}
	add(l.State)
	// The status is for people, "Up 2 hours (healthy)": the time goes on, the rest matters.
	if _, inBrackets, found := strings.Cut(l.Status, "("); found {
		add(inBrackets[:strings.IndexByte(inBrackets+")", ')')])
	}
	slices.Sort(l.Names) // with those that links give
	add(l.Names...)
	for _, name := range slices.Sorted(maps.Keys(l.NetworkSettings.Networks)) {
		n := l.NetworkSettings.Networks[name]
		add(name, n.NetworkID, n.IPAddress, n.GlobalIPv6Address)
	}
	return listedContainer{id: l.ID, mark: mark.String(), young: strings.Contains(l.Status, "second")}
}

type listing struct {
	entries []listedContainer
	err     error
}

// list asks for all containers.
func (f *eventFollower) list(ctx context.Context) {
	f.listing = true
	clear(f.touched)
	f.wg.Go(func() {
		entries, err := f.w.engine.list(ctx)
		f.listed <- listing{entries: entries, err: err}
	})
}

// reconcile drops what is not in the list and has inspected what may have changed.
func (f *eventFollower) reconcile(entries []listedContainer) {
	f.listing = false
	if !f.connected {
		f.connected = true
		f.w.setFailure(nil)
		f.onConnect()
	}
	for _, id := range f.suspects(entries) {
		f.unread[id] = struct{}{}
		if _, busy := f.busy[id]; busy {
			f.busy[id] = true
			continue
		}
		f.queue.push(id, false)
	}
	listed := make(map[string]struct{}, len(entries))
	for _, e := range entries {
		listed[e.id] = struct{}{}
	}
	for id := range f.containers {
		_, listed := listed[id]
		// One that an event has named meanwhile may be younger than the list.
		if _, touched := f.touched[id]; !listed && !touched {
			f.drop(id)
		}
	}
	f.complete = f.complete || len(f.unread) == 0
}

// suspects are the listed containers of which something else may hold than what is known,
// and a share of the others. After a reconnect that is all.
func (f *eventFollower) suspects(entries []listedContainer) []string {
	var ids []string
	n := len(entries)
	share := (n + shares - 1) / shares
	marks := make(map[string]string, n)
	for i, e := range entries {
		marks[e.id] = e.mark
		known := f.containers[e.id]
		mark, seen := f.marks[e.id]
		inTurn := (i+n-f.turn%n)%n < share
		if known == nil || known.Announced || !seen || mark != e.mark || e.young || inTurn || known.HealthUnsure {
			ids = append(ids, e.id)
		}
	}
	f.marks = marks
	f.turn += share
	return ids
}

// recognise compares the engine with the one that was connected to last. Of another engine's
// containers nothing is kept: what has their IDs here, as in a copy of its folder, has another
// state and other addresses, and the list that names none of them may fail.
func (f *eventFollower) recognise(now engineIdentity) {
	f.recognised = true
	w := f.w
	if now.id != "" && w.engineID != "" && now.id != w.engineID {
		w.log.Warn("another docker engine is at the endpoint; what was known of the containers of the one before is dropped",
			"endpoint", w.engine.endpoint, "containers", len(f.unconfirmed), "id", now.id, "before", w.engineID)
		for id := range f.unconfirmed {
			f.drop(id)
		}
		w.engine.kinds.forget()
		w.savedConfigs.Store(nil)
	}
	if now.id != "" {
		w.engineID = now.id
	}
	if filepath.IsAbs(now.root) {
		folder := filepath.Join(now.root, "containers")
		w.savedConfigs.Store(&folder)
	}
	if f.unreconciled != nil {
		f.reconcile(*f.unreconciled)
		f.unreconciled = nil
	}
}
