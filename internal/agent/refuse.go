package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/internal/option"
	"github.com/ambassadord/ambassadord/netrules/netns"
	"github.com/ambassadord/ambassadord/netrules/refuse"
)

// earlyRefusals has the ports with refuse=early of one namespace refused while their targets
// have no endpoint. The zero value refuses none. update and close are called by one
// goroutine, that of the attachment.
type earlyRefusals struct {
	watched map[uint16]*watchedPort
	warned  bool
	refused *refusals // nil while no port has the option
}

// watchedPort is a port whose target is followed.
type watchedPort struct {
	text    string
	meaning string // binding.Binding.Meaning
	wait    time.Duration
	stop    context.CancelFunc
	done    chan struct{} // closed when nobody follows it any more
}

// update follows the targets of those ports of n that have the option, until the daemon ends
// its work there or close is called. An error means that it is to be called again.
func (e *earlyRefusals) update(ctx context.Context, a *agent, ns *netns.Namespace, n *identity.Namespace) {
	wanted := map[uint16]binding.Binding{}
	for _, b := range n.Bindings() {
		if b.Problem == nil && b.Options.Refuse == option.RefuseEarly {
			wanted[b.Port] = b
		}
	}
	for port, w := range e.watched {
		if b, ok := wanted[port]; !ok || b.Meaning() != w.meaning || b.Options.Wait != w.wait {
			w.end()
			delete(e.watched, port)
			e.refused.want(port, w.text, false)
		}
	}
	if len(wanted) == 0 {
		e.close()
		return
	}
	if e.refused == nil {
		open := func() (portSet, error) {
			ports, err := refuse.Open(ns)
			if err != nil {
				return nil, err // not a nil *refuse.Ports
			}
			return ports, nil
		}
		ports, err := open()
		if err != nil { // what is declared is served all the same; the next look tries again
			if !e.warned {
				e.warned = true
				fix := "leave the option out, or give the daemon CAP_NET_ADMIN, and the container none"
				if errors.Is(err, refuse.ErrUnsupported) {
					fix = "leave the option out, or use a newer kernel"
				}
				a.log.Warn("ports with refuse=early are refused late", "client", n.Owner.Name, "id", n.Owner.ShortID(), "error", err, "hint", fix)
			}
			return
		}
		e.refused = keepRefusals(ports, open, a.log.With("client", n.Owner.Name, "id", n.Owner.ShortID()))
	}
	for port, b := range wanted {
		if e.watched[port] != nil {
			continue
		}
		if e.watched == nil {
			e.watched = map[uint16]*watchedPort{}
		}
		following, stop := context.WithCancel(ctx)
		w := &watchedPort{text: b.Text, meaning: b.Meaning(), wait: b.Options.Wait, stop: stop, done: make(chan struct{})}
		e.watched[port] = w
		refused := e.refused
		go func() {
			defer close(w.done)
			followTarget(following, a, refused, &b)
		}()
	}
}

func (w *watchedPort) end() {
	w.stop()
	<-w.done
}

// followTarget has b's port refused when its target has had no endpoint for as long as a
// connection would wait, and no longer than that lasts.
func followTarget(ctx context.Context, a *agent, refused *refusals, b *binding.Binding) {
	var since time.Time // when it had none for the first time; zero while it has some
	for {
		asked := time.Now()
		resolution, err := a.resolver.Resolve(ctx, b.Target, nil)
		if ctx.Err() != nil || resolution == nil {
			return
		}
		left := time.Duration(0) // for ever
		if err == nil {
			since = time.Time{}
			refused.want(b.Port, b.Text, false)
		} else {
			if since.IsZero() {
				since = asked
			}
			if left = b.Options.Wait - time.Since(since); left <= 0 {
				left = 0
				refused.want(b.Port, b.Text, true)
			}
		}
		waiting, stop := ctx, context.CancelFunc(func() {})
		if left > 0 {
			waiting, stop = context.WithTimeout(ctx, left)
		}
		resolution.Changed(waiting)
		stop()
	}
}

// close refuses nothing any more. It may be called again.
func (e *earlyRefusals) close() {
	for port, w := range e.watched {
		w.end()
		delete(e.watched, port)
	}
	if e.refused != nil {
		e.refused.end()
		e.refused = nil
	}
}

// errNoEarlyRefusal says where refuse=early can be had.
var errNoEarlyRefusal = hint.Wrap(errors.New("refuse=early is offered in modes redirect and listen alone: elsewhere a port is no client's own"),
	"leave it out, or have the container served by mode redirect or listen")

// withoutEarlyRefusal makes refuse=early a mistake where it cannot be had: in modes host and
// link all clients dial one address, whose ports are not one client's, and the listeners are
// no client's. The error is about what the operator has set.
func withoutEarlyRefusal(listeners []config.Listener, layers *binding.Layers, modes []config.Mode) error {
	var own []option.Layer
	for _, l := range listeners {
		own = append(own, l.Options)
	}
	if slices.ContainsFunc(modes, func(m config.Mode) bool { return m == config.Redirect || m == config.Listen }) {
		return noneEarly(own)
	}
	limits := maps.Clone(layers.Limits)
	if limits == nil {
		limits = option.Limited{}
	}
	limits["refuse"] = option.Limit{Missing: errNoEarlyRefusal.Error(), Fix: hint.Of(errNoEarlyRefusal)}
	layers.Limits = limits
	own = append(own, layers.Defaults...)
	for _, l := range layers.Targets {
		own = append(own, l)
	}
	for _, c := range layers.Clients {
		for _, p := range c.Ports {
			own = append(own, p.Options)
		}
	}
	return noneEarly(own)
}

// noneEarly refuses refuse=early in what the operator has set.
func noneEarly(own []option.Layer) error {
	for _, l := range own {
		for _, s := range l {
			if s.Name == "refuse" && s.Text == string(option.RefuseEarly) {
				return fmt.Errorf("%s: %w", s.Origin, errNoEarlyRefusal)
			}
		}
	}
	return nil
}
