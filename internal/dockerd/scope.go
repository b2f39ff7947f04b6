package dockerd

import (
	"net/url"
	"slices"
)

// LabelProject is Compose's label for the project of a container.
const LabelProject = "com.docker.compose.project"

const (
	labelComposeOneOff = "com.docker.compose.oneoff"

	// maxProject is how many bytes the name of a Compose project may have. Compose's own are
	// names of folders; a longer label is no project's.
	maxProject = 255
)

// Scope is what decides, of several containers or services that have a name, which of them a
// client means by it. The zero value is the scope of the host, and of a client that has
// neither a project nor a network of its own.
type Scope struct {
	// Project is the client's own Compose project, "" without one.
	Project string
	// Networks are the names of its own networks, sorted. They do not include those on which
	// there is everybody.
	Networks []string
}

const (
	scopeProject = "project"
	scopeNetwork = "network"
)

// String is s as ParseScope reads it, without spaces; "" for the zero value.
func (s Scope) String() string {
	v := url.Values{scopeNetwork: s.Networks}
	if s.Project != "" {
		v.Set(scopeProject, s.Project)
	}
	return v.Encode()
}

// ParseScope reads what String has written. Anything else is the scope of the host.
func ParseScope(text string) Scope {
	v, err := url.ParseQuery(text)
	if err != nil {
		return Scope{}
	}
	return Scope{Project: v.Get(scopeProject), Networks: v[scopeNetwork]}
}

// ScopeOf is the scope of c: its own project, and the networks of the container in whose
// network namespace it is.
func (s *Snapshot) ScopeOf(c *Container) Scope {
	scope := Scope{Project: c.Project()}
	owner := s.NetnsOwner(c)
	if owner == nil {
		return scope
	}
	networks := owner.Networks
	if owner.Announced && !owner.Joins() { // until it is inspected the first of them is known
		networks = []Network{{Name: owner.NetworkMode}}
	}
	for i := range networks {
		if n := &networks[i]; !n.everybodys() {
			scope.Networks = append(scope.Networks, n.Name)
		}
	}
	slices.Sort(scope.Networks)
	return scope
}

// Shares reports whether c is on one of the networks of s.
func (s Scope) Shares(snapshot *Snapshot, c *Container) bool {
	owner := snapshot.NetnsOwner(c)
	return owner != nil && slices.ContainsFunc(owner.Networks, func(n Network) bool {
		return !n.everybodys() && slices.Contains(s.Networks, n.Name)
	})
}

// everybodys reports whether n is one of the networks on which a container is unless
// its maker says otherwise, or that connects no containers: to be on it too says nothing.
func (n *Network) everybodys() bool {
	switch n.Name {
	case "", "default", "bridge", "host", "none", "podman", "ingress", GatewayBridge:
		return true
	}
	return false
}

// OwnNetworks are the IDs of the networks that the container named self, which is our own, is
// on; nil where it is not known, or there is none.
func (s *Snapshot) OwnNetworks(self string) map[string]bool {
	c := s.Get(self)
	if c == nil {
		return nil
	}
	owner := s.NetnsOwner(c)
	if owner == nil {
		return nil
	}
	ids := make(map[string]bool, len(owner.Networks))
	for i := range owner.Networks {
		ids[owner.Networks[i].ID] = true
	}
	return ids
}
