// Package refusal has the kernel refuse ports with the option refuse=early while their targets have
// no endpoint: a client's dial is then reset before the daemon accepts it, as if the client had
// dialled the endpoint itself. It follows the targets (early.go) and keeps what the kernel refuses
// in step with them (ports.go), by package netrules/refuse.
package refusal

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/internal/option"
	"github.com/ambassadord/ambassadord/netrules/netns"
	"github.com/ambassadord/ambassadord/netrules/refuse"
	"github.com/ambassadord/ambassadord/resolver"
)

// Targets says which endpoints a target has, and waits for others: *resolver.Resolver.
type Targets interface {
	Resolve(ctx context.Context, target resolver.Target, last *resolver.Resolution) (*resolver.Resolution, error)
}

// Early has the ports with refuse=early of one network namespace refused while their targets
// have no endpoint. New makes it; Update and Close are called by one goroutine.
type Early struct {
	targets Targets
	log     *slog.Logger
	watched map[uint16]*watchedPort
	warned  bool
	refused *keptPorts // nil while no port has the option
}

// New refuses no port yet. log is told which ports are refused, and why the kernel refuses none.
func New(targets Targets, log *slog.Logger) *Early { return &Early{targets: targets, log: log} }

// watchedPort is a port whose target is followed.
type watchedPort struct {
	text    string
	meaning string // binding.Binding.Meaning
	wait    time.Duration
	stop    context.CancelFunc
	done    chan struct{} // closed when no goroutine follows it any more
}

// Update follows the targets of those ports that n declares with the option, in place of those
// followed before, until ctx ends or Close is called. ns is the network namespace of n. Where the
// kernel can refuse none, the log has the reason once, and the next call tries again.
func (e *Early) Update(ctx context.Context, ns *netns.Namespace, n *identity.Namespace) {
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
		e.Close()
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
		if err != nil { // the ports are served all the same; the next look tries again
			if !e.warned {
				e.warned = true
				fix := "leave the option out, or give the daemon CAP_NET_ADMIN, and the container none"
				if errors.Is(err, refuse.ErrUnsupported) {
					fix = "leave the option out, or use a newer kernel"
				}
				e.log.Warn("ports with refuse=early are refused late", "client", n.Owner.Name, "id", n.Owner.ShortID(), "error", err, "hint", fix)
			}
			return
		}
		e.refused = keep(ports, open, e.log.With("client", n.Owner.Name, "id", n.Owner.ShortID()))
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
			followTarget(following, e.targets, refused, &b)
		}()
	}
}

func (w *watchedPort) end() {
	w.stop()
	<-w.done
}

// followTarget has b's port refused when its target has had no endpoint for as long as a
// connection would wait, and no longer than that lasts.
func followTarget(ctx context.Context, targets Targets, refused *keptPorts, b *binding.Binding) {
	var since time.Time // when it had none for the first time; zero while it has some
	for {
		asked := time.Now()
		resolution, err := targets.Resolve(ctx, b.Target, nil)
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

// Close refuses nothing any more. It may be called again.
func (e *Early) Close() {
	for port, w := range e.watched {
		w.end()
		delete(e.watched, port)
	}
	if e.refused != nil {
		e.refused.end()
		e.refused = nil
	}
}
