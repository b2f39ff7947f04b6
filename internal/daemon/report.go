package daemon

import (
	"slices"

	"github.com/ambassadord/ambassadord/internal/route"
	"github.com/ambassadord/ambassadord/internal/status"
)

// snapshot is what the daemon knows now.
func snapshot(d *daemon) *status.Snapshot {
	return status.Take(d.clients.Load(), reporter{d})
}

// reporter reports on the process itself, and on the parts that know nothing of status.
type reporter struct{ *daemon }

// Report is part of status.Reporter.
func (d reporter) Report(s *status.Snapshot) {
	s.Daemon = status.Daemon{
		Modes: slices.Clone(d.modes), Program: d.cfg.Program, Follows: d.turn.Follows(), HandOver: d.giver.now().String(), Engine: d.hold.Away(),
	}
	select {
	case <-d.readied:
		s.Daemon.Ready = true
	default:
	}
	d.listeners.Report(s)
	route.Report(d.routes, s, d.sources.Resolver, d.reader.Parse)
	s.Pools = d.balancer.Pools()
	s.Connections = d.server.Carried()
}
