package attach

import (
	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/netrules"
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
