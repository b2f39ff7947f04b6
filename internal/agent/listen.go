package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/handover"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/netrules/netns"
	"github.com/ambassadord/ambassadord/proxy"
	"github.com/ambassadord/ambassadord/resolver"
)

// accept serves listener, which is what socket says, until ctx ends. It is closed when
// closed is, which is then or when it could not be served.
func (a *agent) accept(ctx context.Context, socket handover.Socket, listener *net.TCPListener, router proxy.Router) (closed <-chan struct{}) {
	take, served, done := a.shelf.put(socket, listener), proxy.NewListener(listener), make(chan struct{})
	if socket.Namespace != (netns.ID{}) {
		served.Elsewhere()
	}
	remove := a.registry.Add(socket, served)
	a.accepting.Go(func() {
		defer close(done)
		defer take()
		defer remove()
		_ = a.server.Serve(ctx, served, router) // has logged what it returns
	})
	return done
}

// listenTCP listens on plain TCP: Go's default is MPTCP, which this data path
// does not want.
func listenTCP(ctx context.Context, address string) (*net.TCPListener, error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	listener, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		fix := ""
		switch {
		case errors.Is(err, syscall.EADDRINUSE):
			fix = "another process has this port: stop it, or choose another with --listen or PORT"
		case errors.Is(err, syscall.EACCES):
			fix = "ports below 1024 need CAP_NET_BIND_SERVICE: run as root, or choose another port"
		}
		return nil, hint.Wrap(fmt.Errorf("listen on %s: %w", address, plain(err)), fix)
	}
	return listener.(*net.TCPListener), nil
}

// plain strips the address from a network error whose text has it already.
func plain(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err
	}
	return err
}

// Check says what is wrong with cfg, as far as that can be known without
// touching anything.
func Check(cfg config.Config, parse func(string) (resolver.Target, error)) error {
	_, err := layersOf(cfg, parse)
	return errors.Join(cfg.Validate(), err)
}
