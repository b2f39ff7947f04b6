package dockerd

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/ambassadord/ambassadord/internal/containerproc"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/sandbox"
)

// What an engine has said before it went away is what is known, and may be wrong: containers
// end and start without a word, and addresses change hands, most of all when an engine
// starts again that ends its containers with itself. So every container is doubted from
// the loss of the engine on, until it was inspected anew.

// doubting returns a snapshot of the same containers of which those are doubted.
func (s *Snapshot) doubting(ids map[string]struct{}) *Snapshot {
	doubting := *s
	doubting.doubted = ids
	return &doubting
}

// all are the IDs of all containers.
func (s *Snapshot) all() map[string]struct{} {
	ids := make(map[string]struct{}, len(s.containers))
	for _, c := range s.containers {
		ids[c.ID] = struct{}{}
	}
	return ids
}

// Doubts is of how many containers the engine has yet to say that they are as they were
// before it was lost.
func (s *Snapshot) Doubts() int { return len(s.doubted) }

// Current reports whether what is known of c the engine has said since it was last lost.
func (s *Snapshot) Current(c *Container) bool {
	_, doubted := s.doubted[c.ID]
	return !doubted
}

// Holds says why what is dialled at may not be, or not be any more, the container id, at one
// of its addresses or a published port; nil if it surely is. Of a container that is doubted
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
