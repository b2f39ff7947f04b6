package docker

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/internal/answer"
)

// firstTimeout is how long Watch waits for the first snapshot. A healthy engine
// gives it in well under a second.
const firstTimeout = 2 * time.Second

// matchCost is how many bytes of an answer a look through all containers counts for where a
// client has only so many of them: a thousand looks a second.
const matchCost = 4 << 10

// Containers is where snapshots come from; *dockerd.Watcher is one.
type Containers interface {
	// Changed is closed at the next change of what Snapshot or Err return.
	Changed() <-chan struct{}
	// Snapshot is the latest one, nil before the first.
	Snapshot() *dockerd.Snapshot
	// Err is why there may be none, or why it may be old; nil while the engine is
	// connected.
	Err() error
	// Endpoint is the engine's address, for people.
	Endpoint() string
}

// Options say where the daemon itself is.
type Options struct {
	// Self is the ID of our own container, "" when we run in none. It never
	// matches a target, and its networks are preferred.
	Self string
	// Addrs lists the addresses of our interfaces, with the lengths of their prefixes.
	// Default: net.InterfaceAddrs.
	Addrs func() ([]net.Addr, error)
	// Tasks asks Swarm for the tasks of a service: dockerd.Watcher.Tasks. Default: none
	// is known, as in no swarm.
	Tasks func(ctx context.Context, service string) ([]dockerd.Task, error)
}

// Source answers docker:// and swarm:// targets. It is a resolver.Source. Of a query that is ByClient it
// takes the Client for a dockerd.Scope.
type Source struct {
	containers Containers
	self       string
	addrs      func() ([]net.Addr, error)
	askTasks   func(ctx context.Context, service string) ([]dockerd.Task, error)
	subnets    atomic.Pointer[subnetsSeen]
}

// subnetsSeen are the subnets of our interfaces, seen after a snapshot was.
type subnetsSeen struct {
	snapshot *dockerd.Snapshot
	subnets  []netip.Prefix
}

var _ resolver.ByClient = (*Source)(nil)

// New returns a Source that reads snapshots from containers.
func New(containers Containers, opts Options) *Source {
	s := &Source{containers: containers, self: opts.Self, addrs: opts.Addrs, askTasks: opts.Tasks}
	if s.addrs == nil {
		s.addrs = net.InterfaceAddrs
	}
	if s.askTasks == nil {
		s.askTasks = func(context.Context, string) ([]dockerd.Task, error) { return nil, dockerd.ErrNotManager }
	}
	return s
}

// Check reports what is wrong with q, with a hint.
func (s *Source) Check(q resolver.Query) error {
	_, err := parse(q)
	return err
}

// ByClient reports whether q is about a name that is looked for in the client's project and
// on its networks first.
func (s *Source) ByClient(q resolver.Query) bool {
	asked, err := parse(q)
	return err == nil && q.Scheme != SchemeSwarm && asked.name != "" && asked.project == ""
}

// Watch publishes who serves q, again at every change. It fails if q is wrong,
// and if the engine has shown nothing yet 2 s after the call. An engine lost later
// is an answer's Err: its watcher looks for it, and once it is back tells so.
func (s *Source) Watch(ctx context.Context, q resolver.Query, publish func(resolver.Answer)) error {
	asked, err := parse(q)
	if err != nil {
		return err
	}
	scope := dockerd.ParseScope(q.Client)
	publish = answer.OnChange(publish)
	first := time.NewTimer(firstTimeout)
	defer first.Stop()
	overdue := first.C
	engine := remoteHost(s.containers.Endpoint())
	var here *bool
	var last *dockerd.Snapshot
	var again <-chan time.Time // tells that what a snapshot does not tell may have changed
	service := &tasks{ask: s.askTasks, service: asked.name}
	for lost, due := false, false; ; {
		changed := s.containers.Changed() // before what may change
		snapshot, failure := s.containers.Snapshot(), s.containers.Err()
		if snapshot != nil {
			overdue = nil
			if here == nil {
				here = new(s.isHere(ctx, engine))
			}
			if snapshot != last || due || lost && failure == nil {
				if resolver.AllowanceOf(ctx).Spend(ctx, matchCost) != nil {
					return nil // ctx has ended
				}
				from := locate(snapshot, s.self, engine, *here, s.subnetsFor(snapshot))
				if q.Scheme == SchemeSwarm {
					a, in := service.match(ctx, snapshot, asked, from)
					publish(a)
					again = time.After(in)
				} else {
					publish(match(snapshot, asked, scope, from))
				}
				lost, due = false, false
			}
			if failure != nil && !lost {
				publish(resolver.Answer{Err: failure})
				lost = true
			}
			last = snapshot
		}
		select {
		case <-changed:
		case <-again:
			due, again = true, nil
		case <-overdue:
			return s.nothingKnown()
		case <-ctx.Done():
			return nil
		}
	}
}

// Advice is what to do about a name that DNS does not give, if it is that of a container, or of a
// service: to write it as a target of this source. It is "" otherwise.
func (s *Source) Advice(q resolver.Query) string {
	snapshot := s.containers.Snapshot()
	if q.Server != "" || snapshot == nil || strings.Contains(q.Host, ".") {
		return ""
	}
	if !slices.ContainsFunc(snapshot.Containers(), func(c *dockerd.Container) bool { return c.Name == q.Host || isInstance(c, q.Host) }) {
		return ""
	}
	port := "PORT"
	if q.Port != 0 {
		port = strconv.Itoa(int(q.Port))
	}
	return fmt.Sprintf("there is a container or a service of that name, which DNS does not know: write docker://%s:%s", q.Host, port)
}

// nothingKnown is why there has been no snapshot for too long.
func (s *Source) nothingKnown() error {
	if err := s.containers.Err(); err != nil {
		return fmt.Errorf("no containers known: %w", err)
	}
	return hint.Errorf("is the engine running? Try: docker -H "+s.containers.Endpoint()+" ps",
		"no containers known: the Docker engine at %s has not answered for %v", s.containers.Endpoint(), firstTimeout)
}

// remoteHost is the host of an engine that is reached through the network, "" for
// this host's own.
func remoteHost(endpoint string) string {
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme == "unix" {
		return ""
	}
	host := u.Hostname()
	if ip, err := netip.ParseAddr(host); host == "localhost" || err == nil && ip.IsLoopback() {
		return ""
	}
	return host
}

// lookupTimeout is how long a lookup of the engine's host may take.
const lookupTimeout = time.Second

// isHere says whether the engine's host is ours. A name that cannot be looked up is another's.
func (s *Source) isHere(ctx context.Context, engine string) bool {
	if engine == "" {
		return true
	}
	ours := s.ourSubnets()
	isOurs := func(ip netip.Addr) bool {
		return slices.ContainsFunc(ours, func(p netip.Prefix) bool { return p.Addr().WithZone("") == ip.Unmap().WithZone("") })
	}
	if ip, err := netip.ParseAddr(engine); err == nil {
		return isOurs(ip)
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", engine)
	return err == nil && slices.ContainsFunc(found, func(ip netip.Addr) bool { return ip.Unmap().IsLoopback() || isOurs(ip) })
}

// subnetsFor are the subnets of our interfaces, not older than snapshot: an engine makes a
// network's bridge before the first container on it.
func (s *Source) subnetsFor(snapshot *dockerd.Snapshot) []netip.Prefix {
	if seen := s.subnets.Load(); seen != nil && seen.snapshot == snapshot {
		return seen.subnets
	}
	subnets := s.ourSubnets()
	s.subnets.Store(&subnetsSeen{snapshot, subnets})
	return subnets
}

// ourSubnets are the addresses of our interfaces, with the lengths of their prefixes.
func (s *Source) ourSubnets() []netip.Prefix {
	addrs, err := s.addrs()
	if err != nil {
		return nil
	}
	return prefixes(addrs)
}
