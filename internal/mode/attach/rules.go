package attach

import (
	"cmp"
	"context"
	"slices"

	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/filter"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// Ports are the ports of n that mode redirect serves: those that its clients declare, and those that
// only containers declare which are yet to join it.
func Ports(n *identity.Namespace) []netrules.Port { return append(redirectPorts(n), comingPorts(n)...) }

// redirectPorts are the ports that n's clients declared, each with whose it is.
func redirectPorts(n *identity.Namespace) []netrules.Port {
	var ports []netrules.Port
	for _, b := range n.Bindings() {
		client, _, _ := n.Lookup(b.Port)
		ports = append(ports, redirectPort(client, b))
	}
	return ports
}

// comingPorts are the ports of n that only containers declare which are coming.
func comingPorts(n *identity.Namespace) []netrules.Port {
	if len(n.Coming) == 0 {
		return nil
	}
	return slices.DeleteFunc(startersPorts(n.Coming), func(p netrules.Port) bool { return len(n.ComingFor(p.Number)) == 0 })
}

// portsFor are the ports to redirect for n: of the containers that run, and of those that are coming.
func (at *attachment) portsFor(n *identity.Namespace) []netrules.Port {
	ports := redirectPorts(n)
	if at.Name == config.Listen {
		return ports
	}
	at.conceded.mu.Lock()
	defer at.conceded.mu.Unlock()
	for _, p := range comingPorts(n) {
		if c := at.conceded.all[p.Number]; c == nil || !slices.Equal(c.to, n.ComingFor(p.Number)) {
			ports = append(ports, p)
		}
	}
	return ports
}

func redirectPort(client *identity.Client, b binding.Binding) netrules.Port {
	return netrules.Port{
		Number:  b.Port,
		Comment: identity.OwnerText(client.Container) + " " + b.Origin,
	}
}

// redirectChains are the chains of mode redirect.
func redirectChains(families []netrules.Family, listen uint16, ports []netrules.Port) []netrules.Chain {
	chains := make([]netrules.Chain, len(families))
	for i, f := range families {
		chains[i] = netrules.Redirect(f, listen, ports)
	}
	return chains
}

func portsOf(ports []netrules.Port) []uint16 {
	out := make([]uint16, len(ports))
	for i, p := range ports {
		out[i] = p.Number
	}
	return out
}

const (
	// maxEarly is how many ports are redirected in a namespace whose owner is not known
	// yet: any container that may be about to start adds to them, and each that starts waits for
	// the rules.
	maxEarly = 512
	// maxEarlyLooks bounds how many declarations are looked at for that.
	maxEarlyLooks = 1 << 16
)

// startersPorts are the ports that any of clients declares, each with a client that does. Where
// they are more than maxEarly each client gets its first, then each its second, and so on:
// a client that declares many takes no place of one that declares few. Those that have just
// been created come first. A port that is left out is redirected once its container runs.
func startersPorts(clients []*identity.Client) []netrules.Port {
	clients = slices.Clone(clients)
	slices.SortStableFunc(clients, func(a, b *identity.Client) int {
		return cmp.Compare(rankOfStarter(a), rankOfStarter(b))
	})
	var ports []netrules.Port
	declared, looks := map[uint16]bool{}, 0
	for turn, more := 0, true; more; turn++ {
		more = false
		for _, c := range clients {
			own := c.Bindings.Ports()
			if turn >= len(own) {
				continue
			}
			if looks++; len(ports) >= maxEarly || looks > maxEarlyLooks {
				return ports
			}
			more = true
			if port := own[turn]; !declared[port] {
				declared[port] = true
				b, _ := c.Bindings.Lookup(port)
				ports = append(ports, redirectPort(c, b))
			}
		}
	}
	return ports
}

// rankOfStarter is 0 for a container that was just created, and 1 for others.
func rankOfStarter(c *identity.Client) int {
	if c.Container.Announced || c.Container.StartedAt.IsZero() {
		return 0
	}
	return 1
}

// applyRules redirects ports. When there are none any more, because a container
// that shared the namespace has left, the chain is only unhooked: emptying it
// would break the connections that came through it (see filter.Rules.Remove).
func (at *attachment) applyRules(ctx context.Context, served []netrules.Family, ports []netrules.Port) error {
	if len(ports) == 0 {
		at.rules.Forget()
		return at.Rules.Unhook(ctx, at.ns)
	}
	var kept filter.Kept
	var pinErr error
	err := at.ns.Visit(func(ns *netns.Namespace) (err error) {
		if at.unpin == nil {
			at.unpin, pinErr = at.Rules.Pin(ns)
		}
		kept, err = at.rules.Keep(ctx, ns, redirectChains(served, at.listen, ports)...)
		return err
	})
	at.tellUnpinned(pinErr)
	if err != nil || !kept.Looked { // or nothing was touched since the last look
		return err
	}
	owner := at.desired.Load().Owner
	for _, f := range served {
		at.unlisted.Tell(at.Log, f, kept.Unlisted[f], "cannot list all rules of a container", "client", owner.Name, "id", owner.ShortID())
	}
	at.tellUnpinned(kept.Unpinned)
	if kept.Repaired {
		at.Log.Warn("repaired the rules of a container", "client", owner.Name, "id", owner.ShortID(),
			"families", netrules.FamilyNames(netrules.FamiliesIn(kept.Changes)), "changes", len(kept.Changes))
	}
	return nil
}

// tellUnpinned says once that connections of a container may break: it keeps us from what
// would hold them. Its ports are served all the same.
func (at *attachment) tellUnpinned(err error) {
	if err == nil || at.unpinned {
		return
	}
	at.unpinned = true
	owner := at.desired.Load().Owner
	at.Log.Warn("connections of a container break when somebody flushes its rules", "client", owner.Name, "id", owner.ShortID(),
		"error", err, hint.Attr(err))
}
