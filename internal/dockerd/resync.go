package dockerd

import "context"

// shares is in how many lists every container is inspected once, although nothing says
// that it has changed. To inspect takes the engine and us longer than all else that an
// idle daemon does.
const shares = 20

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

// modesAtOnce bounds the questions of askMode that are on their way.
const modesAtOnce = 8

// networkMode is that of a container that is announced.
type networkMode struct{ id, mode string }

// askMode asks for the network mode of a container that is announced, where the engine's
// record of it is out of our sight: whose namespace it is going to join has to be known
// before it runs. The list says so also while the engine starts the container, and answers
// no question about the container alone.
func (f *eventFollower) askMode(ctx context.Context, id string) {
	if f.modesBusy == modesAtOnce {
		return // the inspection tells, if later
	}
	f.modesBusy++
	f.wg.Go(func() {
		mode, err := f.w.engine.networkMode(ctx, id)
		if err != nil {
			mode = ""
		}
		f.modes <- networkMode{id, mode} // has room for every one that may run
	})
}

// learnMode takes the answer to askMode.
func (f *eventFollower) learnMode(m networkMode) {
	f.modesBusy--
	c := f.containers[m.id]
	if m.mode == "" || c == nil || !c.Announced || c.NetworkMode == m.mode {
		return
	}
	known := *c
	known.NetworkMode = m.mode
	f.containers[m.id] = &known
	f.changed = true
}
