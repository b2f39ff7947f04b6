// Package policy says which client may dial which endpoint.
//
// The operator of a host writes Rules; who may reach what is decided by the first that
// matches, and by the default where none does. Declarations of containers and of the
// authors of their images are limited by the default: they do not reach the loopback, link-local and
// metadata addresses of this host, nor the sockets of the engine and of the daemon. Targets
// of the operator's own, of a listener or in the configuration file, are limited by Rules alone.
//
// A Policy never changes: a reload replaces it. It is asked in two steps. Scope is made of
// a client and a target, once for many connections; Scope.Check is asked about each
// endpoint when that is chosen, after every name has been resolved, so that neither a name
// nor an entry in a registry gets around it.
package policy

import (
	"net/netip"
	"slices"
	"strings"
)

// Host knows the machine that the daemon runs on.
type Host interface {
	// Has reports whether addr is an address of the daemon's own network namespace. It
	// must not wait.
	Has(addr netip.Addr) bool
}

// Config is what a Policy is made of. The zero value is the default policy, as far as
// that can be told without knowing the host.
type Config struct {
	// Rules are asked in their order.
	Rules []Rule
	// AllowLoopback lets containers' declarations reach the loopback of this host.
	AllowLoopback bool
	// FileFolders are those whose files containers may name as file:// targets; none
	// means DefaultFileFolder.
	FileFolders []string
	// OwnPorts are the TCP ports of this host at which the daemon or the engine listens.
	OwnPorts []uint16
	// OwnAddrs are addresses that are the daemon's whatever the port.
	OwnAddrs []netip.Addr
	// Registries are the servers that the operator has configured, HOST:PORT, as a target
	// may name them too. They are not limited.
	Registries []string
	// Host may be nil: then loopback alone is known to be this host's.
	Host Host
}

// DefaultFileFolder is where the files are that containers may name as targets.
const DefaultFileFolder = "/etc/ambassadord"

// EnginePorts are those that the Docker engine listens on where it listens on TCP at all
// (dockerd(8): 2375, with TLS 2376; 2377 is that of a swarm's managers).
var EnginePorts = []uint16{2375, 2376, 2377}

// Policy is a compiled Config. nil is the default policy.
type Policy struct {
	rules         []Rule
	allowLoopback bool
	folders       []string
	ownPorts      []uint16
	ownAddrs      []netip.Addr
	registries    map[string]bool
	host          Host
	asksImages    bool
}

// defaultPolicy is what a nil Policy is.
var defaultPolicy = New(Config{})

// New compiles c.
func New(c Config) *Policy {
	p := &Policy{
		rules: slices.Clone(c.Rules), allowLoopback: c.AllowLoopback, folders: slices.Clone(c.FileFolders),
		ownPorts: slices.Concat(EnginePorts, c.OwnPorts), ownAddrs: slices.Clone(c.OwnAddrs),
		registries: make(map[string]bool, len(c.Registries)), host: c.Host,
	}
	if len(p.folders) == 0 {
		p.folders = []string{DefaultFileFolder}
	}
	for _, r := range c.Registries {
		p.registries[canonicalServer(r)] = true
	}
	for i := range p.rules {
		p.asksImages = p.asksImages || len(p.rules[i].Declared) > 0
	}
	return p
}

// AsksImages reports whether some rule depends on what images declare themselves.
func (p *Policy) AsksImages() bool { return p.orDefault().asksImages }

func (p *Policy) orDefault() *Policy {
	if p == nil {
		return defaultPolicy
	}
	return p
}

// ConfiguredRegistry reports whether the operator has configured server, HOST:PORT.
func (p *Policy) ConfiguredRegistry(server string) bool {
	return p.orDefault().registries[canonicalServer(server)]
}

// canonicalServer makes servers comparable, as far as that goes without asking DNS.
func canonicalServer(server string) string {
	if _, rest, ok := strings.Cut(server, "://"); ok {
		server = rest
	}
	server = strings.TrimSuffix(strings.ToLower(server), "/")
	if rest, ok := strings.CutPrefix(server, "localhost:"); ok {
		server = "127.0.0.1:" + rest
	}
	return server
}

// Known is whether something holds that may not be known yet.
type Known uint8

// What may be known.
const (
	Unknown Known = iota
	No
	Yes
)

func known(yes bool) Known {
	if yes {
		return Yes
	}
	return No
}

// Client is who declares a target.
type Client struct {
	// Container is its name; "" for a client that is no container.
	Container string
	Labels    map[string]string
	Image     string // as it was named when the container was created
	Project   string // of Compose
	Networks  []string
	// NetworksKnown says that Networks are all; before a container runs they are not.
	NetworksKnown bool
	// ByOperator says that not the container declares the target, but the daemon's
	// configuration, for it: the default does not limit that.
	ByOperator bool
	// ByImage says whether the image's own labels or environment declare it.
	ByImage Known
	// Partial says that what is unknown will be known later: a Scope then refuses only
	// what it would refuse in any case.
	Partial bool
}

// Target is what is declared.
type Target struct {
	Text  string // as it was written
	Parts []Part
}

// Part is one thing that a target names: an item of a list, a link of a chain.
type Part struct {
	// Kind is its scheme: static, dns, srv, docker, consul, consul-service, …, etcd, file.
	Kind string
	// Name is the host, service, container, path in a registry or file that it names.
	Name string
	// Registry is the server that it names to be asked, HOST:PORT; "" for the configured.
	Registry string
	// Addr is where it leads without anybody being asked; the zero value is not known.
	Addr netip.AddrPort
}
