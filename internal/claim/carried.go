package claim

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// Carriers are the processes that carry connections which their daemon has left: the kernel
// translates these only while the rules are there by which they came.
type Carriers []Carrier

// Of is what is carried that needs one thing.
func (c Carriers) Of(need Need) Carried {
	var all Carried
	for _, one := range c {
		if connections, needed := one.Count(need); needed {
			all.Add(Carried{connections, connections == 0 || one.Everything, []string{one.Who}})
		}
	}
	return all
}

// In is what is carried that needs rules of either family in a namespace.
func (c Carriers) In(id netns.ID) Carried {
	all := c.Of(Need{id, netrules.IPv4})
	all.Add(c.Of(Need{id, netrules.IPv6}))
	return all
}

// Carried are connections that others carry.
type Carried struct {
	Connections int
	Uncertain   bool     // there may be more, or they may need something else
	By          []string // the processes, each once
}

// None reports whether nobody carries any.
func (c Carried) None() bool { return len(c.By) == 0 }

// Add adds more.
func (c *Carried) Add(more Carried) {
	c.Connections += more.Connections
	c.Uncertain = c.Uncertain || more.Uncertain
	for _, who := range more.By {
		if !slices.Contains(c.By, who) {
			c.By = append(c.By, who)
		}
	}
}

// String is "2 connections that process 17 (ambassadord) carries".
func (c Carried) String() string {
	what, verb := fmt.Sprintf("%d connections", c.Connections), "carries"
	switch c.Connections {
	case 0:
		what = "connections"
	case 1:
		what = "1 connection"
	}
	if c.Uncertain && c.Connections > 0 {
		what = "up to " + what
	}
	if len(c.By) > 1 {
		verb = "carry"
	}
	return fmt.Sprintf("%s that %s %s", what, strings.Join(c.By, " and "), verb)
}
