package route

import (
	"maps"
	"slices"

	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/resolver"
)

// declared counts what the clients of the last table have bound. It goes through the
// bindings of those alone that have changed: an event is about one container, and there may
// be thousands, with a thousand ports each.
type declared struct {
	clients  map[string]*identity.Client // by container ID
	sets     map[setKey]int
	meanings map[string]int            // of what they have bound
	owned    map[string]resolver.Owned // by container ID
}

// follow makes d what table says, and reports whether some client's targets are others than
// before.
func (d *declared) follow(table *identity.Table) (changed bool) {
	if d.clients == nil {
		d.clients, d.sets = map[string]*identity.Client{}, map[setKey]int{}
		d.meanings, d.owned = map[string]int{}, map[string]resolver.Owned{}
	}
	// Those that are new are counted first, lest a target that stays is dropped between.
	var gone []*identity.Client
	there := table.Clients()
	for _, c := range there {
		id := c.Container.ID
		known := d.clients[id]
		if known == c {
			continue
		}
		d.clients[id] = c
		if known != nil {
			if known.Bindings.Same(c.Bindings) {
				continue
			}
			gone = append(gone, known)
		}
		_, had := d.owned[id]
		delete(d.owned, id)
		d.add(c)
		_, has := d.owned[id]
		changed = changed || had || has
	}
	if len(there) < len(d.clients) {
		for id, known := range d.clients {
			if table.Client(id) == nil {
				delete(d.clients, id)
				_, had := d.owned[id]
				delete(d.owned, id)
				changed = changed || had
				gone = append(gone, known)
			}
		}
	}
	for _, c := range gone {
		d.remove(c)
	}
	return changed
}

func (d *declared) add(c *identity.Client) {
	owned := resolver.Owned{Owner: c.Container.Name}
	for b := range c.Bindings.Each() {
		d.sets[setKey{b.Meaning(), b.Options}]++
		if b.Problem != nil {
			continue
		}
		d.meanings[b.Meaning()]++
		owned.Targets = append(owned.Targets, b.Target)
	}
	if len(owned.Targets) > 0 {
		d.owned[c.Container.ID] = owned
	}
}

func (d *declared) remove(c *identity.Client) {
	for b := range c.Bindings.Each() {
		key := setKey{b.Meaning(), b.Options}
		if d.sets[key]--; d.sets[key] == 0 {
			delete(d.sets, key)
		}
		if b.Problem != nil {
			continue
		}
		if d.meanings[b.Meaning()]--; d.meanings[b.Meaning()] == 0 {
			delete(d.meanings, b.Meaning())
		}
	}
}

// byOwner lists what each client has bound, in the order of their container IDs: what the
// targets of one cost is counted against it.
func (d *declared) byOwner() []resolver.Owned {
	all := make([]resolver.Owned, 0, len(d.owned))
	for _, id := range slices.Sorted(maps.Keys(d.owned)) {
		all = append(all, d.owned[id])
	}
	return all
}
