package explain

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/rulescmd"
	"github.com/ambassadord/ambassadord/internal/status"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

const (
	// mostSockets bounds how many sockets of each protocol are looked at: a container may have any
	// number.
	mostSockets = 1 << 16
	// mostListeners is how many of them are named.
	mostListeners = 4
)

// look looks into the container's network namespace, and dials from there if that is asked for.
func (a *asker) look(ctx context.Context, c *dockerd.Container) {
	owner := a.snapshot.NetnsOwner(c)
	if !c.Running || owner == nil || owner.NetworkMode == "host" {
		return
	}
	began := time.Now()
	ns, err := a.sources.Docker.OpenNamespace(ctx, owner)
	if err != nil {
		a.e.blind("the container's network namespace", asRoot(err))
		return
	}
	defer ns.Close()
	opening := time.Since(began)
	if err := a.sockets(ns); err != nil {
		a.e.blind("the container's sockets", asRoot(err))
		return
	}
	a.rules(ctx, ns)
	if a.e.Asked.Dial {
		a.dial(ctx, ns, opening)
	}
}

// sockets looks for the container's own at the port, and at the namespace's counters.
func (a *asker) sockets(ns *netns.Namespace) error {
	in, port := &a.e.Inside, a.e.Asked.Port
	ours := slices.Contains(a.e.Daemon.Modes, string(config.Listen))
	seen := 0
	err := ns.EachSocket("tcp", func(s netns.Socket) bool {
		// In mode listen the daemon's own sockets are at the loopback addresses.
		if s.Listens && s.Local.Port() == port && (!ours || !s.Local.Addr().IsLoopback()) && len(in.Listens) < mostListeners {
			in.Listens = append(in.Listens, s.Local.String())
		}
		seen++
		return seen < mostSockets
	})
	if err != nil {
		return err
	}
	seen = 0
	err = ns.EachSocket("udp", func(s netns.Socket) bool {
		if s.Remote.Port() == port {
			in.UDP++
		}
		seen++
		return seen < mostSockets
	})
	if err != nil {
		return err
	}
	in.Looked = true
	for protocol, of := range map[string]struct {
		name string
		to   *uint64
	}{"Tcp": {"AttemptFails", &in.TCPFailed}, "Udp": {"NoPorts", &in.UDPUnheard}} {
		counters, err := ns.Counters(protocol)
		if err != nil {
			return err
		}
		*of.to = counters[of.name]
	}
	return nil
}

// rules looks for the rule that leads the port to the daemon.
func (a *asker) rules(ctx context.Context, ns *netns.Namespace) {
	shown, err := rulescmd.ShowIn(ctx, ns)
	if err != nil {
		a.e.blind("the rules in the container's network namespace", asRoot(err))
		return
	}
	in := &a.e.Inside
	in.Rules = true
	listening, err := ns.ListeningPorts()
	if err != nil {
		a.e.blind("who listens in the container's network namespace", asRoot(err))
		return
	}
	for _, one := range shown {
		hooked := slices.ContainsFunc(one.Rules, func(r rulescmd.ShownRule) bool { return r.Kind == netrules.KindJump })
		for _, r := range one.Rules {
			if r.Kind != netrules.KindRedirect || r.Port != a.e.Asked.Port {
				continue
			}
			if in.Rule == nil {
				in.Rule = &Rule{Text: short(r.Text), Listen: r.Listen, Served: listening[r.Listen], Hooked: true, Counted: one.Unlisted == nil}
			}
			in.Rule.Hooked = in.Rule.Hooked && hooked
			in.Rule.Packets += r.Counters.Packets // of both families
		}
	}
}

const (
	// dialPatience is how long a dial may take until an endpoint has answered: longer than the daemon
	// waits for one where nothing else is configured.
	dialPatience = 10 * time.Second
	// freshView is how old what the daemon says may be: its snapshots are shared for so long.
	freshView = 600 * time.Millisecond
	// alonePatience is how long a connection has to stay open where no daemon can say what became of it.
	alonePatience = 2 * time.Second
)

// dial connects to the port as the container would, sends nothing, and sees what becomes of it.
func (a *asker) dial(ctx context.Context, ns *netns.Namespace, opening time.Duration) {
	to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), a.e.Asked.Port)
	if a.byAddress() {
		for _, addr := range a.Config.HostAddrs {
			if addr.Is4() {
				to = netip.AddrPortFrom(addr, to.Port())
			}
		}
	}
	d := &Dial{Address: to.String()}
	a.e.Dial = d
	step := func(took time.Duration, format string, args ...any) {
		d.Steps = append(d.Steps, DialStep{fmt.Sprintf(format, args...), took.Round(10 * time.Microsecond).String()})
	}
	step(opening, "opened the container's network namespace")
	ctx, cancel := context.WithTimeout(ctx, dialPatience)
	defer cancel()
	began := time.Now()
	conn, err := ns.DialTCP(ctx, to)
	if err != nil {
		step(time.Since(began), "connect failed")
		d.FailureView = status.FailureView{Error: short(err.Error()), Hint: "nobody listens there, and no rule leads it to the daemon"}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			d.Hint = "look at the rules in the container's network namespace: ambassadord rules show"
		}
		return
	}
	defer conn.Close()
	step(time.Since(began), "connected from %s", conn.LocalAddr())
	a.follow(ctx, d, conn, began, step)
}

// byAddress reports whether containers dial a fixed address, since the daemon enters no namespace.
func (a *asker) byAddress() bool {
	modes := a.e.Daemon.Modes
	return slices.Contains(modes, string(config.Host)) && !slices.Contains(modes, string(config.Redirect)) && !slices.Contains(modes, string(config.Listen))
}

// follow watches a connection that sends nothing until it is known what became of it: an endpoint has
// answered, which the daemon says or the endpoint's first byte, or the connection has ended.
func (a *asker) follow(ctx context.Context, d *Dial, conn *net.TCPConn, began time.Time, step func(time.Duration, string, ...any)) {
	first := make([]byte, 1)
	connected, looked := time.Now(), time.Now()
	for {
		_ = conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond)) // of a socket of ours, which is open
		_, err := conn.Read(first)
		took := time.Since(began)
		switch {
		case err == nil:
			step(took, "the endpoint's first byte came")
			d.OK = true
			return
		case !errors.Is(err, os.ErrDeadlineExceeded):
			what := "closed, without a byte"
			if errors.Is(err, syscall.ECONNRESET) {
				what = "reset"
			}
			step(took, "the connection was %s", what)
			d.Error, d.Hint = "the connection was "+what, "look at the daemon's log"
			a.learn(ctx, d, conn.LocalAddr().String(), looked)
			return
		case ctx.Err() != nil:
			d.Error = fmt.Sprintf("no endpoint has answered within %s, and the connection is held", dialPatience)
			d.Hint = "the option wait says for how long: docs/options.md"
			return
		case a.view == nil && time.Since(connected) > alonePatience:
			step(took, "it stays open")
			d.OK = true
			return
		case a.view != nil && time.Since(looked) > freshView:
			looked = time.Now()
			view, _, err := a.Daemon.Status(ctx)
			if err != nil {
				continue
			}
			for i := range view.Connections {
				if c := &view.Connections[i]; c.Source == conn.LocalAddr().String() && c.Port == a.e.Asked.Port {
					held, _ := time.ParseDuration(c.Held) // when we heard of it says nothing
					step(held, "endpoint %s answered the daemon", c.Endpoint)
					d.OK = true
					return
				}
			}
		}
	}
}

// learn asks the daemon why a connection from source has ended.
func (a *asker) learn(ctx context.Context, d *Dial, source string, looked time.Time) {
	if a.view == nil {
		return
	}
	select { // what the daemon said last may be from before the end
	case <-time.After(freshView - min(freshView, time.Since(looked)/2)):
	case <-ctx.Done():
	}
	view, _, err := a.Daemon.Status(ctx)
	if err != nil {
		return
	}
	for i := range view.Failures {
		f := &view.Failures[i]
		if f.ID == a.e.Container.ID && f.Port == a.e.Asked.Port {
			a.e.failed(f)
			if f.Source == source {
				d.Reason, d.FailureView = f.Reason, status.FailureView{Error: short(f.Error), Hint: short(f.Hint)}
			}
			return
		}
	}
}
