package dockerd

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ambassadord/ambassadord/internal/containerproc"
)

const (
	labelComposeService = "com.docker.compose.service"

	idLen      = 64
	shortIDLen = 12 // what docker ps prints
)

// Swarm's labels for the service of a task, and the ID of its node. Of a task they are the
// engine's own, which puts them over those of its service; any other container may have them.
const (
	LabelSwarm        = "com.docker.swarm."
	LabelSwarmService = LabelSwarm + "service.name"
	LabelSwarmNode    = LabelSwarm + "node.id"
)

const (
	// DriverBridge is the driver of networks whose bridge is on the engine's host.
	DriverBridge = "bridge"
	// ScopeLocal is the scope of networks that are on the engine's host alone.
	ScopeLocal = "local"
	// GatewayBridge is the network by which the host and the tasks of Swarm reach each other.
	GatewayBridge = "docker_gwbridge"
)

// maxDeclared is how many bytes of labels and environment are kept of a container.
const maxDeclared = 1 << 20

// Container is what the engine said of one container when it was last
// inspected. It must not be changed: snapshots share it.
type Container struct {
	// ID is the full ID, 64 hexadecimal digits.
	ID string
	// Name is unique on its host and has no leading slash.
	Name     string
	Hostname string
	// Image is the image as it was named when the container was created.
	Image string
	// ImageID is the image itself; "" while the container is only announced.
	ImageID string
	Labels  map[string]string
	// Env holds KEY=VALUE, in the engine's order.
	Env []string
	// LeftOut is how many labels and variables it has beside Labels and Env: the largest,
	// where together they are larger than a megabyte.
	LeftOut int
	// Task says that the engine itself has made it for a service of Swarm, and so that its
	// labels of Swarm are true. It is false while only Announced.
	Task bool
	// Announced says that only its creation's event is known: the ID, the name, the
	// image and the labels, the network mode a moment later at most, and the environment if
	// what the engine has saved of it is in sight. It is soon inspected.
	Announced bool
	// Running is false between two tries of a restart policy too. A paused
	// container is running.
	Running bool
	Paused  bool
	// Stopping says that the engine has sent a running container the signal to stop,
	// as docker stop does some time before it kills. One that runs on is believed
	// again a minute later.
	Stopping bool
	// StopSignal is the number of that signal; 0 is SIGTERM.
	StopSignal int
	// Health is "", "starting", "healthy" or "unhealthy"; "" without a health
	// check. It is what probes have shown, not the engine's word for a container that it
	// does not probe.
	Health string
	// HealthUnsure says that the engine calls it unhealthy although too few probes have
	// failed for that.
	HealthUnsure bool
	// PID is the main process in the engine's PID namespace, 0 unless running.
	PID int
	// SandboxKey is the path of the network namespace as the engine names it, ""
	// unless running and for "container:ID", whose owner has it.
	SandboxKey string
	// Seen says that PID was found among the processes of this host when the engine was asked.
	Seen bool
	// Netns is the inode of the network namespace that PID is in: with "container:ID" not
	// the other container's any more once that has been started again. It is 0 where it is
	// not Seen, or in the host's or our own.
	Netns uint64
	// Runtime is the name of what the engine starts it with, "runc", which Info explains.
	Runtime string
	// NetworkMode is "bridge", "default" (the same), "none", "host",
	// "container:ID" or the name of a network.
	NetworkMode string
	// Networks are those it is attached to, sorted by name. A container that is
	// not running has no addresses in them. GatewayBridge is among them where its host
	// reaches it by that alone.
	Networks []Network
	// Links are the --link of the default bridge; those of other networks are in
	// Network.Links.
	Links []Link
	// Published are the TCP ports that the host publishes for it, sorted.
	Published []Published
	// ExposedPorts are its TCP ports, sorted.
	ExposedPorts []uint16
	// NetRaw says that it was given CAP_NET_RAW, as by default, and so can send
	// packets with any source address.
	NetRaw bool
	// NetAdmin says that it was given CAP_NET_ADMIN, and so can take any address.
	NetAdmin bool
	// StartedAt is the engine's clock at the last start, zero if never started.
	StartedAt time.Time
}

// Network is a container's end of one network.
type Network struct {
	Name string
	ID   string
	// Driver and Scope are what kind of network it is: "bridge" and "local" is one that is on
	// the engine's host. They are "" where the container has no address, and where the engine
	// does not tell.
	Driver, Scope string
	// IPv4 and IPv6 are not valid while the container has none there.
	IPv4, IPv6 netip.Addr
	// Aliases are the names it answers to in Docker's DNS, as the engine gives them.
	Aliases []string
	// Links are other containers by the names this one calls them on this network.
	Links []Link
}

// OnHost reports whether n is a bridge of the engine's host, so that the host is on it, too.
func (n *Network) OnHost() bool { return n.Driver == DriverBridge && n.Scope == ScopeLocal }

// Published is a container's port and where on its host that can be reached.
type Published struct {
	Port uint16
	At   netip.AddrPort
}

// Link is another container and what it is called from here.
type Link struct {
	// Container is a name or an ID, as it was given.
	Container string
	Alias     string
}

// Service is the container's Compose service, else its Swarm service if it is a task, else "".
func (c *Container) Service() string {
	if s := c.Labels[labelComposeService]; s != "" || !c.Task {
		return s
	}
	return c.Labels[LabelSwarmService]
}

// ShortID is the ID as docker ps prints it.
func (c *Container) ShortID() string {
	return c.ID[:min(shortIDLen, len(c.ID))]
}

// Project is the container's Compose project, else "".
func (c *Container) Project() string {
	if p := c.Labels[LabelProject]; len(p) <= maxProject {
		return p
	}
	return ""
}

// OneOff reports whether "docker compose run" has started the container: Compose labels it
// as the service too, but it is a shell or a task of a user, not an instance.
func (c *Container) OneOff() bool { return strings.EqualFold(c.Labels[labelComposeOneOff], "true") }

// Joins reports whether c joins the network namespace of another container.
func (c *Container) Joins() bool { return strings.HasPrefix(c.NetworkMode, containerMode) }

// Shares reports whether c, which joined the network namespace of owner, is surely or
// likely in the one that owner has now. A container that is started again gets a new
// one, and those that had joined it stay in the old one.
func (c *Container) Shares(owner *Container) bool {
	if owner == nil || !owner.Running {
		return false
	}
	return c.Netns == owner.Netns || c.Netns == 0 || owner.Netns == 0
}

// seeProcess notes what can be seen of c's main process.
func (c *Container) seeProcess() {
	inode := containerproc.Netns(strconv.Itoa(c.PID))
	if c.PID <= 0 || !containerproc.IsOf(c.PID, c.ID) { // after the look, which was at the container's then
		return
	}
	c.Seen = true
	if inode != containerproc.Netns("self") && inode != containerproc.Netns("1") {
		c.Netns = inode
	}
}

// ended reports whether c can be seen to have ended, or to have been started again, since it was
// inspected: no process of its ID is in its network namespace any more.
func (c *Container) ended() bool {
	return c.Seen && c.Netns != 0 && containerproc.HasLeft(c.PID, c.Netns)
}

// keepDeclared leaves the largest labels and variables out until what stays is within
// maxDeclared: what somebody has written by hand is small.
func (c *Container) keepDeclared() {
	type item struct {
		size  int
		label string // "" for a variable
		at    int
	}
	total := 0
	for key, value := range c.Labels {
		total += len(key) + len(value)
	}
	for _, text := range c.Env {
		total += len(text)
	}
	if total <= maxDeclared {
		return
	}
	items := make([]item, 0, len(c.Labels)+len(c.Env))
	for key, value := range c.Labels {
		items = append(items, item{size: len(key) + len(value), label: key, at: -1})
	}
	for i, text := range c.Env {
		items = append(items, item{size: len(text), at: i})
	}
	slices.SortFunc(items, func(a, b item) int {
		return cmp.Or(cmp.Compare(b.size, a.size), cmp.Compare(a.label, b.label), cmp.Compare(a.at, b.at))
	})
	without := map[int]bool{}
	for _, i := range items {
		if total <= maxDeclared {
			break
		}
		total -= i.size
		c.LeftOut++
		if i.at < 0 {
			delete(c.Labels, i.label)
		} else {
			without[i.at] = true
		}
	}
	kept := make([]string, 0, len(c.Env)-len(without))
	for i, text := range c.Env {
		if !without[i] {
			kept = append(kept, text)
		}
	}
	c.Env = kept
}
