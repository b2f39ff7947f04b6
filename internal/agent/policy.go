package agent

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/policy"
	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/docker"
	"github.com/ambassadord/ambassadord/resolver/file"
)

// policyOf compiles what cfg says of who may reach what, for a daemon of those modes.
// registries are the servers that cfg and the environment configure.
func policyOf(cfg config.Config, modes []config.Mode, registries []string, host policy.Host) *policy.Policy {
	c := policy.Config{
		Rules: cfg.Policy.Rules, AllowLoopback: cfg.Policy.AllowLoopback, FileFolders: cfg.Policy.FileFolders,
		OwnAddrs: cfg.HostAddrs, Registries: registries, Host: host,
	}
	if slices.Contains(modes, config.Link) { // what the others listen on is in other namespaces, or at OwnAddrs
		c.OwnPorts = append(c.OwnPorts, cfg.Port)
	}
	for _, l := range cfg.Listeners {
		if _, text, err := net.SplitHostPort(l.Address); err == nil {
			if port, err := strconv.ParseUint(text, 10, 16); err == nil {
				c.OwnPorts = append(c.OwnPorts, uint16(port))
			}
		}
	}
	if port := dockerd.EnginePort(cfg.DockerHost); port != 0 {
		c.OwnPorts = append(c.OwnPorts, port)
	}
	return policy.New(c)
}

// policy is the one that holds now. It takes no lock.
func (a *agent) policy() *policy.Policy {
	if t := a.tuning.Load(); t != nil {
		return t.policy
	}
	return nil
}

// permit is binding.Layers.Permit: what p forbids whatever the image of the container, or
// its networks, which are not known yet.
func permit(p *policy.Policy) func(binding.Declarer, binding.Place, resolver.Target) error {
	return func(d binding.Declarer, place binding.Place, target resolver.Target) error {
		s := p.Scope(policy.Client{
			Container: d.Name, Labels: d.Labels, Image: d.Image, Project: d.Labels[dockerd.LabelProject],
			ByOperator: place == binding.InConfiguration, Partial: true,
		}, targetOf(target))
		if v, at := s.Target(); v.Denied() {
			return s.Deny(v, at)
		}
		return nil
	}
}

// isDenial reports whether p is the policy's.
func isDenial(p *binding.Problem) bool {
	if p == nil {
		return false
	}
	_, ok := errors.AsType[*policy.Denial](p)
	return ok
}

// scopeOf is what the policy says of what b declares for container, which is nil for a
// client that is none. It may wait for the engine to tell of the container's image, if a
// rule is about that.
func (a *agent) scopeOf(b *binding.Binding, container *dockerd.Container) *policy.Scope {
	return a.scope(b, container, true)
}

// scopeNow is scopeOf that does not wait: what is not known of an image then is unknown.
func (a *agent) scopeNow(b *binding.Binding, container *dockerd.Container) *policy.Scope {
	return a.scope(b, container, false)
}

func (a *agent) scope(b *binding.Binding, container *dockerd.Container, wait bool) *policy.Scope {
	p, target := a.policy(), targetOf(b.Target)
	target.Text = b.Text
	if b.Place == binding.InListener { // whose connections are, is not sure there
		return p.Scope(policy.Client{ByOperator: true, ByImage: policy.No}, target)
	}
	c := policy.Client{ByOperator: b.Place == binding.InConfiguration}
	if container != nil {
		c.Container, c.Labels, c.Image, c.Project = container.Name, container.Labels, container.Image, container.Labels[dockerd.LabelProject]
		c.Networks, c.NetworksKnown = a.networksOf(container), !container.Announced
		if p.AsksImages() && !c.ByOperator && (wait || a.imageKnown(p, container)) {
			c.ByImage = byImage(b, a.imageOf(container))
		}
	}
	return p.Scope(c, target)
}

// networksOf are the names of the networks that container is on, by itself or by the
// container whose network namespace it shares.
func (a *agent) networksOf(container *dockerd.Container) []string {
	owner := container
	if a.docker != nil {
		if s := a.docker.Snapshot(); s != nil {
			if o := s.NetnsOwner(container); o != nil {
				owner = o
			}
		}
	}
	names := make([]string, len(owner.Networks))
	for i, n := range owner.Networks {
		names[i] = n.Name
	}
	return names
}

// byImage reports whether image itself declares b.
func byImage(b *binding.Binding, image *dockerd.Image) policy.Known {
	if image == nil {
		return policy.Unknown
	}
	declares := b.Place == binding.InLabel && b.Key != "" && image.Labels[b.Key] == b.Text ||
		b.Place == binding.InEnvironment && slices.Contains(image.Env, b.Key+"="+b.Text)
	if declares {
		return policy.Yes
	}
	return policy.No
}

// imagePatience is how long a connection waits for what its container's image declares.
const imagePatience = 2 * time.Second

// imageOf is the image of container, nil if the engine does not tell in time.
func (a *agent) imageOf(container *dockerd.Container) *dockerd.Image {
	if a.docker == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), imagePatience)
	defer cancel()
	id := container.ImageID
	if id == "" { // it was only announced
		now, err := a.docker.Inspect(ctx, container.ID)
		if err != nil {
			return nil
		}
		id = now.ImageID
	}
	image, err := a.docker.Image(ctx, id)
	if err != nil {
		a.log.Debug("cannot tell what an image declares itself", "container", container.Name, "image", container.Image, "error", err)
		return nil
	}
	return image
}

// imageKnown reports whether imageOf would not wait, or is not asked.
func (a *agent) imageKnown(p *policy.Policy, container *dockerd.Container) bool {
	return !p.AsksImages() || a.docker == nil || a.docker.KnowsImage(container.ImageID)
}

// targetOf is a target as the policy looks at it.
func targetOf(t resolver.Target) policy.Target {
	out := policy.Target{Text: t.String()}
	for q := range t.Queries() {
		out.Parts = append(out.Parts, partOf(q))
	}
	return out
}

func partOf(q resolver.Query) policy.Part {
	p := policy.Part{Kind: q.Scheme, Name: q.Host}
	switch q.Scheme {
	case resolver.SchemeDNS, resolver.SchemeSRV:
		p.Registry = q.Server
	case resolver.SchemeStatic:
		if addr, err := netip.ParseAddr(q.Host); err == nil {
			p.Addr = netip.AddrPortFrom(addr, q.Port)
		}
	case file.Scheme:
		p.Name = "/" + q.Path
	case docker.Scheme, docker.SchemeSwarm:
		if p.Name == "" {
			p.Name = q.Params
		}
	case "consul", "etcd":
		p.Name, p.Registry = q.Path, serverOf(q)
	}
	return p
}

// serverOf is the HOST:PORT that a query of a key-value store names, "" if it names none.
func serverOf(q resolver.Query) string {
	if q.Host == "" {
		return ""
	}
	port := q.Port
	if port == 0 {
		port = map[string]uint16{"consul": 8500, "etcd": 2379}[q.Scheme]
	}
	return net.JoinHostPort(q.Host, strconv.Itoa(int(port)))
}

// hostAddrs are the addresses of our own network namespace. The zero value is ready.
type hostAddrs struct {
	known   atomic.Pointer[knownAddrs]
	reading sync.Mutex
}

type knownAddrs struct {
	all  map[netip.Addr]struct{}
	read time.Time
}

// addrsHoldFor is how long what was read of them is believed to be all.
const addrsHoldFor = time.Second

// Has reports whether addr is one of them. It asks the kernel, at most once a second.
func (h *hostAddrs) Has(addr netip.Addr) bool {
	known := h.known.Load()
	if known == nil || time.Since(known.read) > addrsHoldFor {
		known = h.read(known)
	}
	_, ok := known.all[addr]
	return ok
}

func (h *hostAddrs) read(old *knownAddrs) *knownAddrs {
	if old == nil {
		h.reading.Lock()
	} else if !h.reading.TryLock() {
		return old // somebody is at it
	}
	defer h.reading.Unlock()
	if now := h.known.Load(); now != old {
		return now
	}
	next := &knownAddrs{all: map[netip.Addr]struct{}{}, read: time.Now()}
	addrs, err := net.InterfaceAddrs()
	if err != nil && old != nil {
		next.all = old.all // it is no less true than before
	}
	for _, a := range addrs {
		if prefix, ok := a.(*net.IPNet); ok {
			if addr, ok := netip.AddrFromSlice(prefix.IP); ok {
				next.all[addr.Unmap()] = struct{}{}
			}
		}
	}
	h.known.Store(next)
	return next
}

// audits logs what audit rules are about, each case once in a while.
type audits struct {
	mu    sync.Mutex
	of    map[string]*audited // by the client's name
	swept time.Time           // when those of before were last forgotten
}

// audited is what one client was seen to reach since began.
type audited struct {
	began time.Time
	cases map[audit]struct{}
}

// audit is one client's reaching one endpoint.
type audit struct {
	target string
	addr   netip.AddrPort
}

const (
	// auditEvery is how often one case is logged.
	auditEvery = time.Minute
	// mostAudits bounds the cases of one client in that time, so that it hides no other's.
	mostAudits = 64
	// mostAudited bounds the clients that are remembered.
	mostAudited = 4096
)

// isNew reports whether client was not seen to reach that lately, and remembers it.
func (n *audits) isNew(client string, one audit, now time.Time) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	a := n.of[client]
	switch {
	case a != nil && now.Sub(a.began) < auditEvery:
	case a == nil && !n.room(now):
		return false
	default:
		a = &audited{began: now, cases: map[audit]struct{}{}}
		n.of[client] = a
	}
	if _, known := a.cases[one]; known || len(a.cases) >= mostAudits {
		return false
	}
	a.cases[one] = struct{}{}
	return true
}

// room reports whether another client may be remembered. It looks for those that need not
// be once a second at most.
func (n *audits) room(now time.Time) bool {
	if n.of == nil {
		n.of = map[string]*audited{}
	}
	if len(n.of) >= mostAudited && now.Sub(n.swept) >= time.Second {
		n.swept = now
		maps.DeleteFunc(n.of, func(_ string, a *audited) bool { return now.Sub(a.began) >= auditEvery })
	}
	return len(n.of) < mostAudited
}

// note logs that v has let the client of scope reach addr, unless it was logged lately.
func (n *audits) note(log *slog.Logger, scope *policy.Scope, v policy.Verdict, addr netip.AddrPort) {
	client, target := scope.ClientName(), scope.TargetText()
	if !n.isNew(client, audit{target, addr}, time.Now()) {
		return
	}
	log.Info("audited by the policy", "client", client, "target", target, "endpoint", addr.String(), "decided_by", v.String())
}
