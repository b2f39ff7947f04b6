package agent

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ambassadord/ambassadord/internal/control"
	"github.com/ambassadord/ambassadord/internal/holders"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// unseenPatience is how long, all in all, is waited for a socket to be somebody's whom we
// see: a keeper holds what it was handed out of sight (see internal/keeper/ring.go) until
// its daemon is dead, and for a moment after a connection has ended.
const unseenPatience = time.Second

// carriers tells which connections other processes carry that came through rules of ours:
// a daemon that has handed over, or the keeper of one that was killed. The kernel
// translates them only while the rules are there. What says so is the sockets themselves,
// so a process that was killed claims nothing, and one in a container is known, too.
type carriers struct {
	mu      sync.Mutex
	held    holders.Index
	scanned bool
	until   time.Time // of unseenPatience; zero before it begins
	found   map[netns.ID]carried
}

// carried are connections that others carry in one network namespace.
type carried struct {
	connections int
	by          []string // the processes, each once
}

func (c carried) none() bool { return c.connections == 0 }

// String is "2 connections that process 17 (ambassadord) carries".
func (c carried) String() string {
	noun := "connections"
	if c.connections == 1 {
		noun = "connection"
	}
	verb := "carries"
	if len(c.by) > 1 {
		verb = "carry"
	}
	return fmt.Sprintf("%d %s that %s %s", c.connections, noun, strings.Join(c.by, " and "), verb)
}

// in looks into ns, nil being our own. ports are those that its rules lead to, beside those
// at which every daemon listens; inside says that all of them are of mode redirect, so that
// a process of the namespace itself is none of ours.
func (c *carriers) in(ctx context.Context, ns *netns.Namespace, inside bool, ports ...uint16) (carried, error) {
	id, err := idOf(ns)
	if err != nil {
		return carried{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		sockets, err := ns.Connections(func(addr netip.AddrPort) bool {
			port := addr.Port()
			return port >= firstListenPort && port <= lastListenPort || slices.Contains(ports, port)
		})
		if err != nil {
			return carried{}, err
		}
		if len(sockets) == 0 {
			delete(c.found, id)
			return carried{}, nil
		}
		if !c.scanned {
			c.held, c.scanned = holders.Scan(ctx), true
		}
		now, unseen := c.count(sockets, id, inside)
		if c.until.IsZero() {
			c.until = time.Now().Add(unseenPatience)
		}
		if unseen == 0 || ctx.Err() != nil || time.Now().After(c.until) {
			if c.found == nil {
				c.found = map[netns.ID]carried{}
			}
			c.found[id] = now
			return now, nil
		}
		c.scanned = false
		select {
		case <-time.After(unseenPatience / 50):
		case <-ctx.Done():
		}
	}
}

// count counts those of sockets that others carry, those whose holder is out of sight
// among them.
func (c *carriers) count(sockets []uint64, id netns.ID, inside bool) (all carried, unseen int) {
	for _, socket := range sockets {
		who := ""
		processes, seen := c.held[socket]
		if !seen {
			unseen++
			who = "a process out of our sight"
		}
		for _, p := range processes {
			// Ours, and our keeper's, are no others'.
			if p.Daemon && p.PID != os.Getpid() && p.Parent != os.Getpid() && (!inside || p.Namespace != id) {
				who = control.DescribeProcess(p.PID)
			}
		}
		if who == "" {
			continue
		}
		all.connections++
		if !slices.Contains(all.by, who) {
			all.by = append(all.by, who)
		}
	}
	return all, unseen
}

// sum is what was found by the last look into each namespace.
func (c *carriers) sum() (all carried, namespaces int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, one := range c.found {
		if one.none() {
			continue
		}
		namespaces++
		all.connections += one.connections
		for _, who := range one.by {
			if !slices.Contains(all.by, who) {
				all.by = append(all.by, who)
			}
		}
	}
	slices.Sort(all.by)
	return all, namespaces
}

func idOf(ns *netns.Namespace) (netns.ID, error) {
	if ns != nil {
		return ns.ID(), nil
	}
	own, err := netns.Current()
	if err != nil {
		return netns.ID{}, err
	}
	defer own.Close()
	return own.ID(), nil
}

// carriedBy is in for rules that lead to ports.
func (c *carriers) carriedBy(ctx context.Context, ns *netns.Namespace, ports map[uint16]netrules.Kind) (carried, error) {
	inside := len(ports) > 0
	var numbers []uint16
	for port, kind := range ports {
		inside = inside && kind == netrules.KindRedirect
		numbers = append(numbers, port)
	}
	return c.in(ctx, ns, inside, numbers...)
}

// mustStay reports whether the chains in ns, nil being our own, have to stay for what
// others carry. What cannot be known counts as yes. The agent's context has ended; each
// look bounds itself.
func (a *agent) mustStay(ns *netns.Namespace, inside bool, ports ...uint16) bool {
	now, err := a.carriers.in(context.Background(), ns, inside, ports...)
	if err != nil {
		a.log.Error("cannot see whether others carry connections; the chains stay", "error", err, "hint", "run: ambassadord rules remove")
		return true
	}
	return !now.none()
}

// sayWhoCarries tells for whom mustStay has left chains.
func (a *agent) sayWhoCarries() {
	all, namespaces := a.carriers.sum()
	if all.none() {
		return
	}
	a.log.Warn("chains stay, unhooked, for connections that another process carries; they go with the last of these",
		"connections", all.connections, "namespaces", namespaces, "by", strings.Join(all.by, ", "))
}
