package agent

import (
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/resolver"
)

// declared counts what the clients of the last table have bound. It goes through the
// bindings of those alone that have changed: an event is about one container, and there may
// be thousands, with a thousand ports each.
type declared struct {
	clients   map[string]*identity.Client // by container ID
	upstreams map[upstreamKey]int
	targets   map[string]*declaredTarget // by text
}

// declaredTarget is a target and how many bindings lead there.
type declaredTarget struct {
	target   resolver.Target
	bindings int
}

// follow makes d what table says, and reports whether the targets are others than before.
func (d *declared) follow(table *identity.Table) (changed bool) {
	if d.clients == nil {
		d.clients, d.upstreams, d.targets = map[string]*identity.Client{}, map[upstreamKey]int{}, map[string]*declaredTarget{}
	}
	// Those that are new are counted first, lest a target that stays is dropped between.
	var gone []*identity.Client
	there := table.Clients()
	for _, c := range there {
		known := d.clients[c.Container.ID]
		if known == c {
			continue
		}
		d.clients[c.Container.ID] = c
		if known != nil {
			if known.Bindings.Same(c.Bindings) {
				continue
			}
			gone = append(gone, known)
		}
		changed = d.add(c) || changed
	}
	if len(there) < len(d.clients) {
		for id, known := range d.clients {
			if table.Client(id) == nil {
				delete(d.clients, id)
				gone = append(gone, known)
			}
		}
	}
	for _, c := range gone {
		changed = d.remove(c) || changed
	}
	return changed
}

func (d *declared) add(c *identity.Client) (changed bool) {
	for b := range c.Bindings.Each() {
		d.upstreams[upstreamKey{b.Text, b.Options}]++
		if b.Problem != nil {
			continue
		}
		t := d.targets[b.Text]
		if t == nil {
			t = &declaredTarget{target: b.Target}
			d.targets[b.Text] = t
			changed = true
		}
		t.bindings++
	}
	return changed
}

func (d *declared) remove(c *identity.Client) (changed bool) {
	for b := range c.Bindings.Each() {
		key := upstreamKey{b.Text, b.Options}
		if d.upstreams[key]--; d.upstreams[key] == 0 {
			delete(d.upstreams, key)
		}
		if b.Problem != nil {
			continue
		}
		t := d.targets[b.Text]
		if t.bindings--; t.bindings == 0 {
			delete(d.targets, b.Text)
			changed = true
		}
	}
	return changed
}

// appendTargets appends the targets that any client has bound, each once.
func (d *declared) appendTargets(targets []resolver.Target) []resolver.Target {
	for _, t := range d.targets {
		targets = append(targets, t.target)
	}
	return targets
}
