package daemon

import (
	"context"
	"fmt"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/mode"
	"github.com/ambassadord/ambassadord/internal/mode/attach"
	"github.com/ambassadord/ambassadord/internal/mode/host"
	"github.com/ambassadord/ambassadord/internal/mode/link"
	"github.com/ambassadord/ambassadord/internal/sourceguard"
)

// startModes starts what p.modes names: a new mode is a case here. It returns those that were
// started also with an error.
func startModes(ctx context.Context, p *parts, readied <-chan struct{}) (running []mode.Mode, err error) {
	for _, name := range p.modes {
		var m mode.Mode
		switch name {
		case config.Redirect, config.Listen:
			m = attach.Start(ctx, attach.Config{
				Name: name, Settings: p.settings, Clients: &p.clients, Routes: p.routes, Hold: &p.hold, Sockets: p.sockets, Turn: &p.turn,
				Rules: p.rules, Targets: p.sources.Resolver, Engine: p.engine, Runtimes: &p.runtimes, Preparer: p.cfg.Preparer,
				MustStay: p.staying.MustStay, Leftovers: &p.leftovers, Attached: &p.attached, Ready: readied, Log: p.log,
			})
		case config.Host:
			m, err = host.Start(ctx, host.Config{
				Addrs: p.cfg.HostAddrs, Sockets: p.sockets, Own: p.own(name), Guard: p.guard(), Routing: p.routing(),
			})
		case config.Link:
			m, err = link.Start(ctx, link.Config{
				Port: p.cfg.Port, Sockets: p.sockets, Own: p.own(name), Guard: p.guard(), Routing: p.routing(),
			})
		default:
			err = fmt.Errorf("mode %s is in the table of modes, and nothing starts it", name)
		}
		if err != nil {
			return running, err
		}
		running = append(running, m)
	}
	return running, nil
}

// guard is for the modes that know clients by their source addresses, as routing is. They are
// not without an engine.
func (p *parts) guard() sourceguard.Config {
	return sourceguard.Config{
		Settings: p.settings, Turn: &p.turn, Namespaces: p.engine, OwnStack: p.runtimes.OwnStack,
		Allowed: mode.MayGuard(p.circumstances(), p.have), Log: p.log,
	}
}

func (p *parts) routing() sourceguard.Routing {
	return sourceguard.Routing{Clients: &p.clients, Routes: p.routes, Hold: &p.hold, Engine: p.engine, Settings: p.settings}
}
