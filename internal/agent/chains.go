package agent

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/netrules"
)

// redirectPorts are the ports that n's clients declared, each with whose it is.
func redirectPorts(n *identity.Namespace) []netrules.Port {
	var ports []netrules.Port
	for _, b := range n.Bindings() {
		client, _, _ := n.Lookup(b.Port)
		ports = append(ports, redirectPort(client, b))
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

func chainsText(chains []netrules.Chain) string {
	var b strings.Builder
	for _, c := range chains {
		fmt.Fprintf(&b, "%s %s", c.Family, c)
	}
	return b.String()
}

// familiesIn are those that changes are about.
func familiesIn(changes []netrules.Change) []netrules.Family {
	var found []netrules.Family
	for _, f := range netrules.Families() {
		if slices.ContainsFunc(changes, func(c netrules.Change) bool { return c.Family == f }) {
			found = append(found, f)
		}
	}
	return found
}

func portsOf(ports []netrules.Port) []uint16 {
	out := make([]uint16, len(ports))
	for i, p := range ports {
		out[i] = p.Number
	}
	return out
}

func familyNames(families []netrules.Family) []string {
	names := make([]string, len(families))
	for i, f := range families {
		names[i] = f.String()
	}
	return names
}
