// Package identity answers "who is connecting, and what did it declare?".
//
// Identity goes by network namespace: containers that share one (--network
// container:X) share its address and its loopback, so they share an identity
// too, and a port belongs to whichever of them declared it: the namespace's
// owner first, then those that joined it, in the order of their starts. One that is
// started again gets another namespace. Those that had joined the old one stay there, and
// have that to themselves. A Table is an immutable snapshot of all of them, made from one
// engine snapshot.
package identity

import (
	"cmp"
	"iter"
	"maps"
	"net/netip"
	"path"
	"slices"
	"strings"

	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/dockerd"
)

// Client is a running container and what it declared. It never changes; while nothing of
// its container does, it is the same pointer in the next table.
type Client struct {
	Container *dockerd.Container
	Bindings  binding.Set
	layers    *binding.Layers // with which Bindings were read
	stale     bool            // Bindings are those of before: there was no time to read them
}

// Namespace is one network namespace and the clients in it.
type Namespace struct {
	// Owner is the container whose namespace it is; see LeftBehind.
	Owner *dockerd.Container
	// Clients are the owner and those that joined it: the owner first, then in the order
	// in which they were started.
	Clients []*Client
	// Coming are those that declare something, do not run, and are in it as soon as they
	// are started, in order of their IDs. Their declarations do not hold before.
	Coming []*Client
	// Overruled are the declarations in it that do not hold: a port is that of the first of
	// Clients who declares it.
	Overruled []Overruled
	ports     map[uint16]*Client
}

// Lookup returns who declared port and how. Without such a declaration the
// client is the owner and the binding is false.
func (n *Namespace) Lookup(port uint16) (*Client, binding.Binding, bool) {
	c, ok := n.ports[port]
	if !ok {
		return n.Clients[0], binding.Binding{}, false
	}
	b, ok := c.Bindings.Lookup(port)
	return c, b, ok
}

// Equal reports whether n and other hold the same containers in the same state, under
// the same configuration. A container that has not changed is the same pointer in the
// next snapshot.
func (n *Namespace) Equal(other *Namespace) bool {
	same := func(a, b *Client) bool {
		return a == b || a.Container == b.Container && a.layers == b.layers && a.stale == b.stale && (a.Bindings.Same(b.Bindings) || a.Bindings.Len() == 0 && b.Bindings.Len() == 0)
	}
	return n.Owner == other.Owner && slices.EqualFunc(n.Clients, other.Clients, same) && slices.EqualFunc(n.Coming, other.Coming, same)
}

// ComingFor are those of Coming that declare port, if nobody declares it who runs.
func (n *Namespace) ComingFor(port uint16) []*Client {
	if n.ports[port] != nil {
		return nil
	}
	var all []*Client
	for _, c := range n.Coming {
		if _, ok := c.Bindings.Lookup(port); ok {
			all = append(all, c)
		}
	}
	return all
}

// LeftBehind reports whether n is a namespace that the container whose it was has no
// more: it has ended or been started again, and Owner, which had joined it, is still there.
func (n *Namespace) LeftBehind() bool { return n.Owner.Joins() }

// Bindings lists what is declared in the namespace, by port.
func (n *Namespace) Bindings() []binding.Binding {
	var all []binding.Binding
	for _, port := range slices.Sorted(maps.Keys(n.ports)) {
		if b, ok := n.ports[port].Bindings.Lookup(port); ok {
			all = append(all, b)
		}
	}
	return all
}

// Table is who is there at one moment.
type Table struct {
	byOwner map[string]*Namespace
	byAddr  map[netip.Addr]*Namespace
	clients map[string]*Client
	resting map[string]*Client // containers that are not running, by ID
	// bySandbox holds nil for a namespace that is nobody's: our own.
	bySandbox map[string]*Namespace
	left      []dockerd.Left
}

// Left lists the running containers that are left in a network namespace that another
// container had, by their IDs.
func (t *Table) Left() []dockerd.Left { return t.left }

// Namespaces lists every namespace, by the owner's container ID.
func (t *Table) Namespaces() []*Namespace {
	out := make([]*Namespace, 0, len(t.byOwner))
	for _, id := range slices.Sorted(maps.Keys(t.byOwner)) {
		out = append(out, t.byOwner[id])
	}
	return out
}

// Owned returns the namespace of the container with that ID, nil if it has none.
func (t *Table) Owned(id string) *Namespace { return t.byOwner[id] }

// At returns the namespace that has addr, nil when none has it or when two claim
// it: an address that is not surely one client's is nobody's.
func (t *Table) At(addr netip.Addr) *Namespace { return t.byAddr[addr.Unmap()] }

// Client returns the client with that container ID, nil if there is none.
func (t *Table) Client(id string) *Client { return t.clients[id] }

// Clients lists every client, by container ID.
func (t *Table) Clients() []*Client {
	out := make([]*Client, 0, len(t.clients))
	for _, id := range slices.Sorted(maps.Keys(t.clients)) {
		out = append(out, t.clients[id])
	}
	return out
}

// Sandbox returns the namespace that the engine mounts under that name, the last
// part of a SandboxKey, and whether some container has it. It is nil for our own.
func (t *Table) Sandbox(name string) (n *Namespace, known bool) {
	n, known = t.bySandbox[name]
	return n, known
}

// SandboxFolder returns where the engine mounts the network namespaces of
// containers, as the one that was started last shows; "" while none does.
func (t *Table) SandboxFolder() string {
	var last *dockerd.Container
	for _, n := range t.byOwner {
		c := n.Owner
		if c.SandboxKey != "" && c.NetworkMode != "host" && (last == nil || c.StartedAt.After(last.StartedAt)) {
			last = c
		}
	}
	if last == nil {
		return ""
	}
	return path.Dir(last.SandboxKey)
}

// Starters lists the clients that declare something and may be about to get a
// network namespace of their own: those that are not running, and those whose
// namespace is not mounted any more, because they have ended since the engine was
// asked and may be started again. They come in order of their IDs.
func (t *Table) Starters(mounted func(path string) bool) []*Client {
	var starters []*Client
	for _, c := range t.resting {
		if c.Container.NetworkMode != "host" && !c.Container.Joins() && c.Bindings.Len() > 0 {
			starters = append(starters, c)
		}
	}
	for _, n := range t.byOwner {
		if n.Owner.SandboxKey != "" && n.Owner.NetworkMode != "host" && n.Clients[0].Bindings.Len() > 0 && !mounted(n.Owner.SandboxKey) {
			starters = append(starters, n.Clients[0])
		}
	}
	slices.SortFunc(starters, func(a, b *Client) int { return strings.Compare(a.Container.ID, b.Container.ID) })
	return starters
}

// Declared yields every binding of port, whoever declares it, running or not.
func (t *Table) Declared(port uint16) iter.Seq[binding.Binding] {
	return func(yield func(binding.Binding) bool) {
		for _, clients := range []map[string]*Client{t.clients, t.resting} {
			for _, c := range clients {
				if b, ok := c.Bindings.Lookup(port); ok && !yield(b) {
					return
				}
			}
		}
	}
}

// Declares reports whether the container of that ID, running or not, declares anything.
func (t *Table) Declares(id string) bool {
	c := t.knows(id)
	return c != nil && c.Bindings.Len() > 0
}

// Has reports whether there is a container of that ID, running or not.
func (t *Table) Has(id string) bool { return t.knows(id) != nil }

// knows returns the client with that container ID, running or not, nil if there
// is none or no table.
func (t *Table) knows(id string) *Client {
	if t == nil {
		return nil
	}
	return cmp.Or(t.clients[id], t.resting[id])
}

// index fills byAddr, leaving out what two namespaces claim, and addresses of networks that we
// are not on: nothing comes to us from there, and what has such an address is somebody else in
// the LAN. ours are the IDs of the networks that our own container is on.
func (t *Table) index(ours map[string]bool) {
	claims := map[netip.Addr]int{}
	t.byAddr = map[netip.Addr]*Namespace{}
	for _, n := range t.byOwner {
		if n.Owner.NetworkMode == "host" {
			continue
		}
		for _, network := range n.Owner.Networks {
			if !network.OnHost() && network.Driver != "" && !ours[network.ID] {
				continue
			}
			for _, addr := range []netip.Addr{network.IPv4, network.IPv6} {
				if addr.IsValid() {
					claims[addr]++
					t.byAddr[addr] = n
				}
			}
		}
	}
	for addr, n := range claims {
		if n > 1 {
			delete(t.byAddr, addr)
		}
	}
}
