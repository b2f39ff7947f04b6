package dockerd

import (
	"cmp"
	"context"
	"net/netip"
	"path"
	"slices"
	"strings"
	"sync"
)

// What an engine says of a container's networks does not tell whether this host is on them:
// the driver and the scope do, which are asked for network by network. They are those of its
// ID for ever.

const (
	// sandboxIDLen is how much of its ID names a container's network sandbox, in its
	// SandboxKey and in the name of its endpoint on GatewayBridge.
	sandboxIDLen = 12

	// mostNetworks bounds how many networks are remembered.
	mostNetworks = 4096
)

// networkKind is what a network is.
type networkKind struct{ driver, scope string }

// networkKinds remembers what networks are. The zero value is ready.
type networkKinds struct {
	mu  sync.Mutex
	all map[string]networkKind // by ID
}

func (k *networkKinds) get(id string) (networkKind, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	kind, ok := k.all[id]
	return kind, ok
}

func (k *networkKinds) put(id string, kind networkKind) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.all == nil || len(k.all) >= mostNetworks {
		k.all = map[string]networkKind{}
	}
	k.all[id] = kind
}

// forget drops what is remembered.
func (k *networkKinds) forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.all = nil
}

// fillNetworks adds to c what the engine says of its networks: what they are and, if c is on
// none by which its host can reach it, its end of GatewayBridge. Of a network that is gone, or
// of which the engine does not tell, the driver stays empty. An error is worth another try.
func (e *engine) fillNetworks(ctx context.Context, c *Container) error {
	if !c.Running {
		return nil
	}
	reached, distant := false, false
	for i := range c.Networks {
		n := &c.Networks[i]
		if !n.IPv4.IsValid() && !n.IPv6.IsValid() {
			continue
		}
		kind, err := e.kindOf(ctx, n)
		if err != nil {
			return err
		}
		n.Driver, n.Scope = kind.driver, kind.scope
		reached = reached || n.OnHost()
		distant = distant || n.Scope != "" && n.Scope != ScopeLocal
	}
	if reached || !distant || c.SandboxKey == "" {
		return nil
	}
	gateway, err := e.gateways.read(ctx, e)
	if err != nil {
		return err
	}
	end, ok := gateway.Containers[c.ID]
	if _, sandbox, _ := strings.Cut(end.Name, "_"); !ok || sandbox != shortSandbox(c) {
		return nil // an internal network has none
	}
	c.Networks = append(c.Networks, Network{
		Name: GatewayBridge, ID: gateway.ID, Driver: gateway.Driver, Scope: gateway.Scope,
		IPv4: prefixAddr(end.IPv4Address), IPv6: prefixAddr(end.IPv6Address),
	})
	slices.SortFunc(c.Networks, func(a, b Network) int { return cmp.Compare(a.Name, b.Name) })
	return nil
}

func shortSandbox(c *Container) string {
	name := path.Base(c.SandboxKey)
	return name[:min(sandboxIDLen, len(name))]
}

// prefixAddr is the address of an ADDRESS/LENGTH; what does not parse, "" above all, is none.
func prefixAddr(text string) netip.Addr {
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Addr{}
	}
	return p.Addr()
}

// kindOf is what n is.
func (e *engine) kindOf(ctx context.Context, n *Network) (networkKind, error) {
	if kind, known := e.kinds.get(n.ID); known {
		return kind, nil
	}
	details, err := e.network(ctx, cmp.Or(n.ID, n.Name))
	if err != nil {
		return networkKind{}, err
	}
	kind := networkKind{details.Driver, details.Scope}
	if n.ID != "" && n.ID != n.Name && details.ID == n.ID { // Podman's are their names, which others may have later
		e.kinds.put(n.ID, kind)
	}
	return kind, nil
}

// gatewayReads reads which containers are on GatewayBridge. The answer names all tasks of the host, and each
// of them asks when it is inspected: so those that ask meanwhile share the next reading. None
// gets one that began before it asked.
type gatewayReads struct {
	turn chan struct{} // has one element while no reading is on its way

	mu   sync.Mutex
	now  int // how many readings have begun
	last networkDetails
	of   int // the reading that last is of
}

func newGatewayReads() *gatewayReads {
	g := &gatewayReads{turn: make(chan struct{}, 1)}
	g.turn <- struct{}{}
	return g
}

func (g *gatewayReads) read(ctx context.Context, e *engine) (networkDetails, error) {
	g.mu.Lock()
	asked := g.now
	g.mu.Unlock()
	select {
	case <-g.turn:
	case <-ctx.Done():
		return networkDetails{}, context.Cause(ctx)
	}
	defer func() { g.turn <- struct{}{} }()
	g.mu.Lock()
	if g.of > asked {
		defer g.mu.Unlock()
		return g.last, nil
	}
	g.now++
	reading := g.now
	g.mu.Unlock()
	details, err := e.network(ctx, GatewayBridge)
	if err == nil {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.last, g.of = details, reading
	}
	return details, err
}
