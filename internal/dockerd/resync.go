package dockerd

import (
	"context"
	"slices"
	"strings"

	docker "github.com/fsouza/go-dockerclient"
)

// shares is in how many lists every container is inspected once, although nothing says
// that it has changed. To inspect takes the engine and us longer than all else that an
// idle daemon does.
const shares = 20

// entry is a container in the engine's list.
type entry struct {
	id string
	// mark is another one when what the list says of the container is.
	mark string
	// young is that it has not been up, or down, for a minute. It may have been
	// restarted since the last list, and look the same.
	young bool
}

func entryOf(c *docker.APIContainers) entry {
	var mark strings.Builder
	add := func(texts ...string) {
		for _, text := range texts {
			mark.WriteString(text)
			mark.WriteByte(0)
		}
	}
	add(c.State)
	// The status is for people, "Up 2 hours (healthy)": the time goes on, the rest matters.
	if _, inBrackets, found := strings.Cut(c.Status, "("); found {
		add(inBrackets[:strings.IndexByte(inBrackets+")", ')')])
	}
	slices.Sort(c.Names) // with those that links give
	add(c.Names...)
	networks := make([]string, 0, len(c.Networks.Networks))
	for name, n := range c.Networks.Networks {
		networks = append(networks, strings.Join([]string{name, n.NetworkID, n.IPAddress, n.GlobalIPv6Address}, "\x00"))
	}
	slices.Sort(networks)
	add(networks...)
	return entry{id: c.ID, mark: mark.String(), young: strings.Contains(c.Status, "second")}
}

// list asks for all containers.
func (f *follower) list(ctx context.Context) {
	f.listing = true
	clear(f.touched)
	f.wg.Go(func() {
		entries, err := f.w.engine.list(ctx)
		f.listed <- listing{entries: entries, err: err}
	})
}

// reconcile drops what is not in the list and has inspected what may have changed.
func (f *follower) reconcile(entries []entry) {
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
func (f *follower) suspects(entries []entry) []string {
	var ids []string
	n := len(entries)
	share := (n + shares - 1) / shares
	marks := make(map[string]string, n)
	for i, e := range entries {
		marks[e.id] = e.mark
		known := f.containers[e.id]
		mark, seen := f.marks[e.id]
		inTurn := (i+n-f.turn%n)%n < share
		if known == nil || known.Announced || !seen || mark != e.mark || e.young || inTurn {
			ids = append(ids, e.id)
		}
	}
	f.marks = marks
	f.turn += share
	return ids
}
