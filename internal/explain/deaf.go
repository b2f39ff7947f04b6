package explain

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/shorten"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// mostHeard is of how many endpoints the sockets are looked at.
const mostHeard = 16

// hear looks whether somebody listens at the endpoints that are containers of this host. Of others, and of
// those whose namespace cannot be entered, only a dial says that.
func (a *asker) hear(ctx context.Context) {
	all := a.e.Endpoints
	for i := range all[:min(len(all), mostHeard)] {
		one := &all[i]
		at, err := netip.ParseAddrPort(one.Address)
		if err != nil || one.Published {
			continue
		}
		c := a.holder(one.Name, at.Addr())
		if c == nil || a.runtimes().OwnStack(ctx, c.Runtime) != "" { // whose sockets are not the host's
			continue
		}
		ns, err := a.sources.Docker.OpenNamespace(ctx, c)
		if err != nil {
			continue
		}
		if heard, err := listeners(ns); err == nil {
			one.Deaf = deaf(c.Name, at, heard)
		}
		ns.Close()
	}
}

// holder is the running container that has addr, and whose name is name where that is known.
func (a *asker) holder(name string, addr netip.Addr) *dockerd.Container {
	for _, c := range a.snapshot.Containers() {
		owner := a.snapshot.NetnsOwner(c)
		if !c.Running || owner == nil || owner.NetworkMode == "host" || name != "" && c.Name != name {
			continue
		}
		if slices.ContainsFunc(owner.Networks, func(n dockerd.Network) bool { return n.IPv4 == addr || n.IPv6 == addr }) {
			return owner
		}
	}
	return nil
}

// listeners are the addresses at which somebody listens in a namespace.
func listeners(ns *netns.Namespace) (all []netip.AddrPort, err error) {
	seen := 0
	err = ns.EachSocket("tcp", func(s netns.Socket) bool {
		if s.Listens {
			all = append(all, netip.AddrPortFrom(s.Local.Addr().Unmap(), s.Local.Port()))
		}
		seen++
		return seen < mostSockets
	})
	if err == nil && seen == mostSockets {
		err = fmt.Errorf("more than %d sockets", mostSockets)
	}
	return all, err
}

// deaf says at what the container called name listens, where a connection to at finds nobody; else "".
func deaf(name string, at netip.AddrPort, heard []netip.AddrPort) string {
	var here, elsewhere []string
	for _, l := range heard {
		addr := l.Addr()
		switch {
		case l.Port() != at.Port():
			if !addr.IsLoopback() {
				elsewhere = append(elsewhere, l.String())
			}
		case addr == at.Addr().Unmap(), addr.IsUnspecified() && (addr.Is6() || at.Addr().Unmap().Is4()):
			return ""
		default:
			here = append(here, l.String())
		}
	}
	slices.Sort(elsewhere)
	elsewhere = slices.Compact(elsewhere)
	switch {
	case len(here) > 0:
		return fmt.Sprintf("%s listens at port %d by %s alone, where no connection from outside of it comes", short(name), at.Port(), some(here))
	case len(elsewhere) > 0:
		return fmt.Sprintf("in %s nobody listens at port %d, but at %s", short(name), at.Port(), some(elsewhere))
	}
	return fmt.Sprintf("in %s nobody listens at any port that is reached from outside of it", short(name))
}

func some(all []string) string {
	text := strings.Join(all[:min(len(all), mostListeners)], ", ")
	if more := len(all) - mostListeners; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// refused reports whether the last connection failed because an endpoint refused it, as one does where nobody listens.
// One that is silent has more in its way.
func refused(e *Explanation) bool {
	return e.Failure != nil && strings.Contains(e.Failure.Error, "refused")
}

// nobodyListens says that endpoints are containers in which nobody listens there. That alone may be what
// a rule in the endpoint's own namespace makes good; with a connection that failed it is the cause.
func nobodyListens(e *Explanation) (State, string, string) {
	n, first := 0, (*Endpoint)(nil)
	for i := range e.Endpoints {
		if one := &e.Endpoints[i]; one.Deaf != "" {
			if n++; first == nil {
				first = one
			}
		}
	}
	if first == nil {
		return "", "", ""
	}
	text := fmt.Sprintf("at endpoint %s nobody listens: %s", first.Address, first.Deaf)
	fix := "write the port at which it listens into the target, or start what is to listen there"
	if first.Name != "" {
		fix += ": docker logs " + short(first.Name)
	}
	if strings.Contains(first.Deaf, " alone, ") {
		fix = "let it listen at 0.0.0.0, or at the address of its container, instead"
	}
	if n < len(e.Endpoints) {
		text += fmt.Sprintf(" (as with %d of %s)", n, shorten.Count(len(e.Endpoints), "endpoint", "endpoints"))
	} else if state, _, _ := lastFailure(e); state == Broken && refused(e) {
		return Broken, text, fix
	}
	return Doubtful, text, fix
}
