package daemon

import (
	"slices"
	"time"

	"github.com/ambassadord/ambassadord/internal/admin"
	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/mode"
	"github.com/ambassadord/ambassadord/internal/route"
	"github.com/ambassadord/ambassadord/internal/status"
)

// snapshot is what the daemon knows now.
func snapshot(d *daemon) *status.Snapshot {
	s := stateOf(d)
	s.Connections = d.server.Carried()
	s.Took = time.Since(s.Taken)
	return s
}

// stateOf is snapshot without the connections, of which there are many.
func stateOf(d *daemon) *status.Snapshot { return status.Take(d.clients.Load(), reporter{d}) }

// reporter reports on the process itself, and on the parts that know nothing of status.
type reporter struct{ *daemon }

// Report is part of status.Reporter.
func (d reporter) Report(s *status.Snapshot) {
	s.Daemon = status.Daemon{
		Modes: slices.Clone(d.modes), Program: d.cfg.Program, Follows: d.turn.Follows(), HandOver: d.giver.now().String(), Engine: d.hold.Away(), Config: d.reloads.configuration(),
	}
	s.Daemon.Ready = isClosed(d.readied)
	d.listeners.Report(s)
	route.Report(d.routes, s, d.sources.Resolver, d.reader.Parse)
	s.Pools = d.balancer.Pools()
}

// newAdmin makes the admin interface of d; nil where it is to serve none.
func newAdmin(d *daemon) (*admin.Server, error) {
	of := &d.cfg.Admin
	c := admin.Config{
		Path: of.Path, Group: of.Group, Program: d.cfg.Program, Log: d.log, NotReady: reporter{d}.notReady,
		View: func() status.View { return snapshot(d).View() }, Metrics: d.metrics,
	}
	if d.hooks.Events != nil {
		c.Events = d.hooks.Events
	}
	if c.Path == config.AdminAuto {
		c.Path, c.Quiet = admin.DefaultPath(), !d.hostWide()
	}
	if of.Listen != "" {
		c.TCP = &admin.TCP{Address: of.Listen, TokenFile: of.TokenFile, Cert: of.Cert, Key: of.Key, ClientCA: of.ClientCA}
	}
	return admin.New(c)
}

// takenOver tells the process that we have taken over from, if we have, from others.
func takenOver(have bool, process int) func(pid int) bool {
	if !have {
		return nil
	}
	return func(pid int) bool { return pid == process }
}

// notReady lists what we wait for, or lack, to serve all that we can.
func (d reporter) notReady() []admin.Unready {
	var all []admin.Unready
	containers := d.any(func(mode.Row) bool { return true })
	if away := d.hold.Away(); away != nil && containers { // without modes it only puts names into the log
		all = append(all, admin.Unready{What: "engine", Why: away.Error(), Hint: hint.Of(away)})
	}
	if !isClosed(d.follower.followed) && containers {
		all = append(all, admin.Unready{What: "containers", Why: "the containers of this host are not known yet"})
	}
	if !isClosed(d.readied) {
		all = append(all, admin.Unready{What: "service", Why: "the daemon is starting"})
	}
	switch {
	case d.giver.hasGiven():
		all = append(all, admin.Unready{What: "handover", Why: "another daemon has taken over, and this one carries its connections to their end"})
	case d.giver.isEnding():
		all = append(all, admin.Unready{What: "end", Why: "the daemon is stopping"})
	}
	return all
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
