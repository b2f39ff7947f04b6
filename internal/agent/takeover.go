package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/ambassadord/ambassadord/internal/abstract"
	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/control"
	"github.com/ambassadord/ambassadord/internal/handover"
	"github.com/ambassadord/ambassadord/internal/hint"
)

const (
	// adoptionPatience is how long the engine may take to say who is there, and the
	// guard to bind them, until a takeover is given up.
	adoptionPatience = 30 * time.Second
	// leftoverPatience is how long sockets are kept for containers that are just
	// starting, before those that nobody has taken are closed.
	leftoverPatience = ownerPatience
	// successionPatience is for how long we try to take the place of a daemon that has ended
	// the conversation: it may carry its connections to their end, or have ended already.
	successionPatience = 10 * time.Minute
	// goneEvery is how often we look whether the old daemon is there.
	goneEvery = 100 * time.Millisecond
	// goneFor bounds one wait for its end, after which we build everything anew and ask it
	// again: it is of an older version, and broke off for another reason, or yet another
	// daemon has taken over from it.
	goneFor = time.Minute
)

// takeOver receives the sockets of the daemon that runs, if one does. From then on, and
// until adopted, that daemon serves: its rules are not to be touched.
func (a *agent) takeOver(ctx context.Context) (*handover.Session, error) {
	if !a.cfg.TakeOver {
		return nil, nil
	}
	c, err := a.predecessor(ctx)
	if err != nil {
		return nil, fmt.Errorf("take over: %w", err)
	}
	if c == nil {
		if a.succeeding { // said when we serve
			return nil, nil
		}
		a.log.Info("no other daemon is there to take over from")
		return nil, nil
	}
	if a.inherited == nil {
		a.inherited = handover.NewSet()
	}
	session, err := handover.Begin(ctx, c, a.cfg.Program, a.inherited)
	if err != nil {
		return nil, fmt.Errorf("take over: %w", err)
	}
	a.gate = make(chan struct{})
	return session, nil
}

// predecessor reaches the daemon that has one of our addresses; nil if there is none. One
// that is older than the folder is looked for at the abstract names that it has, and
// believed only with evidence.
func (a *agent) predecessor(ctx context.Context) (*control.Conn, error) {
	addresses := a.controlAddresses()
	if a.dir != nil {
		for _, address := range addresses {
			c, err := control.Dial(a.dir.Path(a.dir.Socket(address)))
			if !errors.Is(err, control.ErrNobody) {
				return c, err
			}
		}
	}
	for _, address := range addresses {
		c, err := abstract.Dial(ctx, abstract.Control(address))
		if squatter := (*abstract.Squatter)(nil); errors.As(err, &squatter) {
			a.log.Warn("not taking over from a process that may be anybody's", "error", err,
				"hint", "if it is an older ambassadord in a container, stop it first; else end it")
			continue
		}
		if !errors.Is(err, abstract.ErrNobody) {
			return c, err
		}
	}
	return nil, nil
}

// awaitGone returns when no daemon has our addresses, or in a while. It is called after serve.
func (a *agent) awaitGone(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, goneFor)
	defer cancel()
	for a.held(ctx) {
		select {
		case <-time.After(goneEvery):
		case <-ctx.Done():
			return
		}
	}
}

// held reports whether a daemon has one of our addresses, in the folder or, if it is older
// than that, at an abstract name.
func (a *agent) held(ctx context.Context) bool {
	addresses := a.controlAddresses()
	if a.dir != nil {
		if a.needsLock() && a.dir.Held(a.dir.HostLock()) {
			return true
		}
		for _, address := range addresses {
			if control.Held(a.dir, a.dir.Socket(address)) {
				return true
			}
		}
	}
	if a.needsLock() && abstract.Runs(ctx) {
		return true
	}
	return slices.ContainsFunc(addresses, func(address string) bool {
		return abstract.Daemon(ctx, abstract.Control(address)) == nil
	})
}

// owns reports whether the rules are ours to change: there is no other daemon, or it
// has let go.
func (a *agent) owns() bool {
	if a.gate == nil {
		return true
	}
	select {
	case <-a.gate:
		return true
	default:
		return false
	}
}

// own waits until owns, and reports whether that came before ctx or ending ended.
func (a *agent) own(ctx context.Context, ending <-chan struct{}) bool {
	if a.owns() {
		return true
	}
	select {
	case <-a.gate:
		return true
	case <-ending:
	case <-ctx.Done():
	}
	return false
}

// adopt makes the handover true once we accept on every socket that we have a use for.
// On an error the old daemon serves on.
func (a *agent) adopt(ctx context.Context, session *handover.Session) error {
	began := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, adoptionPatience, fmt.Errorf("it took more than %s", adoptionPatience))
	defer cancel()
	if err := a.learnWhoIsThere(ctx, session); err != nil {
		return err
	}
	a.awaitWatch(ctx) // who watches until then ends when we accept
	for _, m := range a.running {
		if err := m.adopted(ctx); err != nil {
			return fmt.Errorf("take over: %w", err)
		}
	}
	if err := session.Accepting(); err != nil {
		return fmt.Errorf("take over: %w", err)
	}
	if err := session.Finish(); err != nil {
		a.log.Warn("took over, but not all", "error", err, hint.Attr(err))
	}
	close(a.gate)
	a.hostLock.Claim(a.log)
	a.log.Info("took over", "sockets", a.adoptedSockets.Load(), "took", time.Since(began).Round(time.Millisecond).String())
	return nil
}

// learnWhoIsThere returns when the containers that are there have been followed.
func (a *agent) learnWhoIsThere(ctx context.Context, session *handover.Session) error {
	look := time.NewTicker(goneEvery)
	defer look.Stop()
	for {
		select {
		case <-a.followed:
			return nil
		case <-look.C:
			if session.Gone() {
				return errors.New("take over: learn who is there: there was no time for it")
			}
		case <-ctx.Done():
			err := context.Cause(ctx)
			if a.docker != nil && a.docker.Err() != nil {
				err = errors.Join(err, a.docker.Err())
			}
			return fmt.Errorf("take over: learn who is there: %w", err)
		}
	}
}

// inherit takes a socket of the daemon before us; nil if there is none that fits.
func (a *agent) inherit(socket handover.Socket, fits func(netip.AddrPort) bool) *net.TCPListener {
	l := a.inherited.Take(socket, fits)
	if l != nil {
		a.adoptedSockets.Add(1)
	}
	return l
}

// listenFixed listens at address, or goes on doing so where the daemon before us did.
func (a *agent) listenFixed(ctx context.Context, role handover.Role, address string) (*net.TCPListener, error) {
	for _, before := range []handover.Role{role, handover.Fixed, handover.Link} {
		if l := a.inherit(handover.Socket{Role: before}, handover.At(address)); l != nil {
			return l, nil
		}
	}
	return listenTCP(ctx, address)
}

// controlAddresses say at which sockets our predecessor may be, and our successor will
// look: "" is the host's, the others are where a daemon listens. A daemon with several
// listeners has a socket for each, so that its successor finds it although some of them
// have changed.
func (a *agent) controlAddresses() []string {
	var all []string
	if a.needsLock() {
		all = append(all, "")
	}
	if a.hasMode(config.Link) {
		all = append(all, linkAddress(a.cfg.Port))
	}
	for _, l := range a.cfg.Listeners {
		all = append(all, l.Address)
	}
	return all
}
