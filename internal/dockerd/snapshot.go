package dockerd

import (
	"slices"
	"strings"
	"sync"
)

const (
	containerMode = "container:"
	maxNetnsHops  = 8
)

// Snapshot is every container of the engine, running or not, at one moment. It
// never changes. A container that did not change between two snapshots is the
// same pointer in both.
type Snapshot struct {
	containers []*Container // sorted by ID
	byName     func() map[string]*Container
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
		c = s.find(ref)
	}
	return nil
}

// Joins reports whether c joins the network namespace of another container.
func (c *Container) Joins() bool { return strings.HasPrefix(c.NetworkMode, containerMode) }

// Shares reports whether c, which joined the network namespace of owner, is surely or
// likely in the one that owner has now. A container that is started again gets a new
// one, and those that had joined it stay in the old one.
func (c *Container) Shares(owner *Container) bool {
	if owner == nil || !owner.Running {
		return false
	}
	return c.Netns == owner.Netns || c.Netns == 0 || owner.Netns == 0
}

// find resolves ref in the engine's own order: full ID, name, then the start of
// an ID that only one container has.
func (s *Snapshot) find(ref string) *Container {
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
