package identity

import (
	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/shorten"
)

// maxOverruled is how many declarations of one client that others overrule are told of one
// by one.
const maxOverruled = 16

// Overruled is a declaration that does not hold, because another container of the same
// network namespace declares the port as well, otherwise, and comes first.
type Overruled struct {
	// Client is who declared in vain.
	Client *Client
	// Problem says what, and who comes first.
	Problem *binding.Problem
}

// claim gives c the ports that it declares and nobody before it does, and notes those of
// which it says something else than who has them.
func (n *Namespace) claim(c *Client) {
	told, more := 0, 0
	for _, port := range c.Bindings.Ports() {
		first := n.ports[port]
		if first == nil {
			n.ports[port] = c
			continue
		}
		won, _ := first.Bindings.Lookup(port)
		lost, _ := c.Bindings.Lookup(port)
		switch {
		case won.Text == lost.Text && won.Options == lost.Options:
		case told < maxOverruled:
			told++
			n.Overruled = append(n.Overruled, Overruled{c, n.overruled(first, c, &won, &lost)})
		default:
			more++
		}
	}
	if more > 0 {
		n.Overruled = append(n.Overruled, Overruled{c, &binding.Problem{Origin: "container", Err: hint.Errorf(
			"give it a network of its own, or other ports", "%d more of its ports are declared by others of its network namespace", more)}})
	}
}

// overruled is why lost, of c, does not hold, and won, of first, does.
func (n *Namespace) overruled(first, c *Client, won, lost *binding.Binding) *binding.Problem {
	which := "which joined this network namespace before it"
	if first == n.Clients[0] {
		which = "which owns this network namespace"
	}
	how := "with the target " + shorten.Text(won.Text, 256)
	if won.Text == lost.Text {
		how = "with the same target and other options"
	}
	return &binding.Problem{Origin: lost.Origin, Err: hint.Errorf(
		"let one of the two declare the port, or give "+c.Container.Name+" a network of its own",
		"passed over: port %d is declared by container %s, %s, %s", won.Port, first.Container.Name, which, how)}
}
