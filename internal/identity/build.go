package identity

import (
	"cmp"
	"context"
	"maps"
	"math"
	"path"
	"slices"
	"time"

	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/resolver"
)

// Build makes the table of snapshot. A client that has not changed since previous, which may be
// nil, it takes from there, by pointer: it reads a container once, until it declares something
// else or layers are others. self, if not "", is our own container, which is nobody's
// client.
func Build(snapshot *dockerd.Snapshot, previous *Table, self string, layers *binding.Layers, parse func(string) (resolver.Target, error)) *Table {
	t, _ := Follow(context.Background(), math.MaxInt64, snapshot, previous, self, layers, parse)
	return t
}

// Follow is Build for one that others wait for. It reads containers that are new or have
// changed, those that declare least first, for patience at most or until ctx ends, but at
// least one; then it reports that there are more. A container that was put off is as it was
// in previous, or not there yet. So one that takes long to read delays itself.
func Follow(ctx context.Context, patience time.Duration, snapshot *dockerd.Snapshot, previous *Table, self string, layers *binding.Layers,
	parse func(string) (resolver.Target, error),
) (t *Table, complete bool) {
	t = &Table{
		byOwner: map[string]*Namespace{},
		clients: map[string]*Client{},
		resting: map[string]*Client{},

		bySandbox: map[string]*Namespace{},
	}
	r := reading{layers: layers, parse: parse, previous: previous, clients: map[string]*Client{}}
	for _, c := range snapshot.Containers() {
		if c.ID != self {
			r.take(c)
		}
	}
	complete = r.read(ctx, patience)
	r.ask(snapshot)

	var owners []*Client
	joined, coming := map[string][]*Client{}, map[string][]*Client{} // by the owner's ID
	behind := map[uint64][]*Client{}                                 // by the namespace's inode
	for _, c := range snapshot.Containers() {
		client := r.clients[c.ID]
		switch {
		case c.ID == self:
			t.bySandbox[path.Base(c.SandboxKey)] = nil
			continue
		case client == nil:
			continue
		case !c.Running:
			t.resting[c.ID] = client
			if owner := snapshot.NetnsOwner(c); owner != nil && owner != c && client.Bindings.Len() > 0 {
				coming[owner.ID] = append(coming[owner.ID], client)
			}
			continue
		}
		t.clients[c.ID] = client
		if left, is := snapshot.Left(c); is {
			t.left = append(t.left, left)
		}
		owner := snapshot.NetnsOwner(c)
		switch {
		case owner != nil && owner.ID == self:
		case owner == c:
			owners = append(owners, client)
		case c.Shares(owner):
			joined[owner.ID] = append(joined[owner.ID], client)
		case c.Netns != 0:
			behind[c.Netns] = append(behind[c.Netns], client)
		}
	}
	for _, owner := range owners {
		id := owner.Container.ID
		t.add(namespaceOf(owner, joined[id], coming[id], previous))
	}
	for _, left := range behind {
		slices.SortFunc(left, byStart)
		t.add(namespaceOf(left[0], left[1:], nil, previous))
	}
	t.index(snapshot.OwnNetworks(self))
	return t, complete
}

// reading makes clients of containers.
type reading struct {
	layers   *binding.Layers
	parse    func(string) (resolver.Target, error)
	previous *Table
	clients  map[string]*Client // by container ID
	unread   []*dockerd.Container
}

// take takes the client of c from the table before, or leaves c to be read.
func (r *reading) take(c *dockerd.Container) {
	known := r.previous.knows(c.ID)
	switch {
	case known == nil || known.stale || known.layers != r.layers:
		r.unread = append(r.unread, c)
	case known.Container == c:
		r.clients[c.ID] = known
	case r.sameDeclarer(known.Container, c):
		r.clients[c.ID] = &Client{Container: c, Bindings: known.Bindings, layers: known.layers}
	default:
		r.unread = append(r.unread, c)
	}
}

// sameDeclarer reports whether a and b declare the same. Of a container that was only
// announced the environment may not have been known; and the configuration may go by names.
func (r *reading) sameDeclarer(a, b *dockerd.Container) bool {
	byName := r.layers != nil && (len(r.layers.Clients) > 0 || r.layers.Permit != nil)
	return (a.Name == b.Name && a.Image == b.Image || !byName) && a.LeftOut == b.LeftOut && maps.Equal(a.Labels, b.Labels) && slices.Equal(a.Env, b.Env)
}

// read reads what take has left, and reports whether that was all of it.
func (r *reading) read(ctx context.Context, patience time.Duration) (complete bool) {
	if len(r.unread) > 1 {
		sizes := make(map[*dockerd.Container]int, len(r.unread))
		for _, c := range r.unread {
			sizes[c] = len(c.Labels) + len(c.Env)
		}
		slices.SortStableFunc(r.unread, func(a, b *dockerd.Container) int { return cmp.Compare(sizes[a], sizes[b]) })
	}
	complete = true
	began := time.Now()
	for i, c := range r.unread {
		if ctx.Err() != nil || i > 0 && time.Since(began) > patience {
			complete = false
			if known := r.previous.knows(c.ID); known != nil {
				r.clients[c.ID] = &Client{Container: c, Bindings: known.Bindings, layers: known.layers, stale: true}
			}
			continue
		}
		r.clients[c.ID] = &Client{Container: c, layers: r.layers, Bindings: binding.Read(
			binding.Declarer{Name: c.Name, Image: c.Image, Labels: c.Labels, Env: c.Env, LeftOut: c.LeftOut}, r.layers, r.parse)}
	}
	return complete
}

// ask has the targets of each client mean what that client means by their names, which its
// project and its networks decide. These may be others although nothing of its container is:
// they are those of the container whose network namespace it has joined.
func (r *reading) ask(snapshot *dockerd.Snapshot) {
	for id, c := range r.clients {
		if !c.Bindings.ByClient() {
			continue
		}
		if bindings := c.Bindings.For(snapshot.ScopeOf(c.Container).String()); !bindings.Same(c.Bindings) {
			r.clients[id] = &Client{Container: c.Container, Bindings: bindings, layers: c.layers, stale: c.stale}
		}
	}
}

// add makes n part of t.
func (t *Table) add(n *Namespace) {
	t.byOwner[n.Owner.ID] = n
	if n.Owner.SandboxKey != "" {
		t.bySandbox[path.Base(n.Owner.SandboxKey)] = n
	}
}

// byStart orders clients by when they were started.
func byStart(a, b *Client) int {
	return cmp.Or(a.Container.StartedAt.Compare(b.Container.StartedAt), cmp.Compare(a.Container.ID, b.Container.ID))
}

// namespaceOf is the namespace of owner, which joined have joined and coming are going to:
// that of previous if nothing has changed in it. coming are in order of their IDs.
func namespaceOf(owner *Client, joined, coming []*Client, previous *Table) *Namespace {
	slices.SortFunc(joined, byStart)
	clients := append([]*Client{owner}, joined...)
	if previous != nil {
		known := previous.byOwner[owner.Container.ID]
		if known != nil && slices.Equal(known.Clients, clients) && slices.Equal(known.Coming, coming) {
			return known
		}
	}
	n := &Namespace{Owner: owner.Container, Clients: clients, Coming: coming, ports: map[uint16]*Client{}}
	for _, c := range clients {
		n.claim(c)
	}
	return n
}
