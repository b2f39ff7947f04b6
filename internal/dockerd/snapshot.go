package dockerd

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/ambassadord/ambassadord/internal/containerproc"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/sandbox"
)

const (
	containerMode = "container:"
	maxNetnsHops  = 8
)

// Snapshot is every container of the engine, running or not, at one moment. It
// never changes. A container that did not change between two snapshots is the
// same pointer in both.
type Snapshot struct {
	containers  []*Container // sorted by ID
	byName      func() map[string]*Container
	unconfirmed map[string]struct{} // by ID; see Unconfirmed
}

// NewSnapshot makes a snapshot of containers, which belong to it from then on.
func NewSnapshot(containers ...*Container) *Snapshot {
	list := slices.Clone(containers)
	slices.SortFunc(list, func(a, b *Container) int { return strings.Compare(a.ID, b.ID) })
	return &Snapshot{containers: list, byName: sync.OnceValue(func() map[string]*Container {
		names := make(map[string]*Container, len(list))
		for _, c := range slices.Backward(list) { // of two of one name, which an engine does not have, the first
			names[c.Name] = c
		}
		return names
	})}
}

// Containers are all of them, sorted by ID. The slice must not be changed.
func (s *Snapshot) Containers() []*Container { return slices.Clip(s.containers) }

// Get is the container with that full ID, or nil.
func (s *Snapshot) Get(id string) *Container {
	if i, ok := s.search(id); ok {
		return s.containers[i]
	}
	return nil
}

// ByName is the container with that name, without a leading slash, or nil.
func (s *Snapshot) ByName(name string) *Container { return s.byName()[name] }

// NetnsOwner is the container whose network namespace c lives in: c itself
// unless its network mode is "container:ID", which is followed up to 8 hops. It
// is nil when a container on that way is gone.
func (s *Snapshot) NetnsOwner(c *Container) *Container {
	for range maxNetnsHops + 1 {
		if c == nil {
			return nil
		}
		ref, shared := strings.CutPrefix(c.NetworkMode, containerMode)
		if !shared {
			return c
		}
		c = s.Find(ref)
	}
	return nil
}

// Left says of a container that it is still in the network namespace that another one had.
type Left struct {
	// Container is the one that had joined it.
	Container *Container
	// Owner is whose it was; nil if that container is gone.
	Owner *Container
}

// Left reports whether c is left in the network namespace that another container had before
// it ended or was started again. Where the processes are out of our sight the engine's
// times tell.
func (s *Snapshot) Left(c *Container) (l Left, left bool) {
	if !c.Running || !c.Joins() {
		return l, false
	}
	l = Left{Container: c, Owner: s.NetnsOwner(c)}
	switch {
	case !c.Shares(l.Owner):
		return l, true
	case c.Netns != 0 && l.Owner.Netns != 0:
		return l, false
	}
	return l, !c.StartedAt.IsZero() && l.Owner.StartedAt.After(c.StartedAt)
}

// Why says what has happened, of the container and its owner.
func (l Left) Why() string {
	ref, _ := strings.CutPrefix(l.Container.NetworkMode, containerMode)
	if l.Owner == nil {
		return fmt.Sprintf("container %.12s, whose network it joined, is gone", ref)
	}
	what := "has ended"
	if l.Owner.Running {
		what = "was started again after it, and has another one"
	}
	return fmt.Sprintf("container %s, whose network it joined, %s", l.Owner.Name, what)
}

// Fix is what to do about it.
func (l Left) Fix() string {
	switch {
	case l.Owner == nil:
		return "create it anew: it cannot be started again as it is"
	case !l.Owner.Running:
		return fmt.Sprintf("docker start %s && docker restart %s", l.Owner.Name, l.Container.Name)
	}
	return "docker restart " + l.Container.Name
}

// Find resolves ref in the engine's own order: full ID, name, then the start of
// an ID that only one container has. It is nil where there is none.
func (s *Snapshot) Find(ref string) *Container {
	ref = strings.TrimPrefix(ref, "/")
	if ref == "" {
		return nil
	}
	if c := s.Get(ref); c != nil {
		return c
	}
	if c := s.ByName(ref); c != nil {
		return c
	}
	i, _ := s.search(ref)
	match := func(i int) bool { return i < len(s.containers) && strings.HasPrefix(s.containers[i].ID, ref) }
	if match(i) && !match(i+1) {
		return s.containers[i]
	}
	return nil
}

func (s *Snapshot) search(id string) (int, bool) {
	return slices.BinarySearchFunc(s.containers, id, func(c *Container, id string) int { return strings.Compare(c.ID, id) })
}

// What an engine has said before it went away is what is known, and may be wrong: containers
// end and start without a word, and addresses change hands, most of all when an engine
// starts again that ends its containers with itself. So every container is unconfirmed from
// the loss of the engine on, until it was inspected anew.

// withUnconfirmed returns a snapshot of the same containers of which those are unconfirmed.
func (s *Snapshot) withUnconfirmed(ids map[string]struct{}) *Snapshot {
	other := *s
	other.unconfirmed = ids
	return &other
}

// ids are those of all containers.
func (s *Snapshot) ids() map[string]struct{} {
	ids := make(map[string]struct{}, len(s.containers))
	for _, c := range s.containers {
		ids[c.ID] = struct{}{}
	}
	return ids
}

// Unconfirmed is of how many containers the engine has yet to say that they are as they were
// before it was lost.
func (s *Snapshot) Unconfirmed() int { return len(s.unconfirmed) }

// Current reports whether what is known of c the engine has said since it was last lost.
func (s *Snapshot) Current(c *Container) bool {
	_, unconfirmed := s.unconfirmed[c.ID]
	return !unconfirmed
}

// Holds says why what is dialled at may not be, or not be any more, the container id, at one
// of its addresses or a published port; nil if it surely is. Of a container that is unconfirmed
// that is so as long as its process and its network namespace can be seen to live on.
func (s *Snapshot) Holds(id string, at netip.AddrPort) error {
	c := s.Get(id)
	if c == nil {
		return fmt.Errorf("container %.12s is gone", id)
	}
	owner := s.NetnsOwner(c)
	if !c.Running || owner == nil || !owner.Running || !reachable(c, owner, at) {
		return fmt.Errorf("container %s is not at %s any more", c.Name, at)
	}
	switch current := s.Current(c) && s.Current(owner); {
	case current && (c.ended() || owner.ended()): // the engine's word of it has yet to come
		return fmt.Errorf("container %s has ended", c.Name)
	case current, lives(c, owner):
		return nil
	}
	return hint.Errorf("is the engine running? Until it answers, --pid host or its folder of network namespaces would show who lives on",
		"the engine is away, or has yet to say that container %s is still at %s, which may be another's by now", c.Name, at)
}

// reachable reports whether c, whose network namespace is owner's, was last known to be
// dialled there.
func reachable(c, owner *Container, at netip.AddrPort) bool {
	addr := at.Addr().Unmap()
	if owner.NetworkMode == "host" && addr.IsLoopback() {
		return true
	}
	for i := range owner.Networks {
		if n := &owner.Networks[i]; n.IPv4 == addr || n.IPv6 == addr {
			return true
		}
	}
	for i := range c.Published {
		if c.Published[i].At.Port() == at.Port() {
			return true
		}
	}
	return false
}

// lives reports whether c can be seen to live on in the network namespace of owner, without
// the engine. Neither a process in a container's cgroup nor a namespace by the engine's name
// for it, which no other ever has, is ever another's.
func lives(c, owner *Container) bool {
	process := c.Seen && containerproc.IsOf(c.PID, c.ID)
	switch {
	case c.Seen && !process:
		return false
	case owner.NetworkMode == "host" || owner.SandboxKey == "":
		return process && c.Shares(owner)
	case sandbox.Mounted(owner.SandboxKey):
		return true
	}
	// It is unmounted when the owner has ended, unless its folder is out of our sight.
	_, err := os.Stat(filepath.Dir(owner.SandboxKey))
	return err != nil && process && owner.Seen && containerproc.IsOf(owner.PID, owner.ID)
}
