package daemon

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/ambassadord/ambassadord/internal/admin"
	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/endpoints"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/mode"
	"github.com/ambassadord/ambassadord/internal/route"
	"github.com/ambassadord/ambassadord/internal/status"
	"github.com/ambassadord/ambassadord/proxy"
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
	d.attached.Report(s)
	d.failed.Report(s)
}

// known are the endpoints of all targets, and their names, by what sources say now. One that was never dialled
// is an operator's to drain, too: before its first connection.
func (d reporter) known(tell func(target string, addr netip.AddrPort, name string)) {
	s := new(status.Snapshot)
	route.Report(d.routes, s, d.sources.Resolver, d.reader.Parse)
	for i := range s.Targets {
		for _, one := range s.Targets[i].Status.Endpoints {
			if one.Addr.IsValid() {
				tell(s.Targets[i].Meaning, one.Addr, one.Name)
			}
		}
	}
}

// newAdmin makes the admin interface of d; nil where it is to serve none.
func newAdmin(d *daemon) (*admin.Server, error) {
	of := &d.cfg.Admin
	c := admin.Config{
		Path: of.Path, Group: of.Group, Program: d.cfg.Program, Log: d.log, NotReady: reporter{d}.notReady,
		View: func() status.View { return snapshot(d).View() }, Metrics: d.metrics,
	}
	d.endpoints.Known = reporter{d}.known
	c.Actions = &admin.Actions{
		Decided:  func() []admin.DecidedEndpoint { return decidedOf(d.endpoints.List()) },
		Decide:   func(o admin.EndpointOrder) ([]admin.DecidedEndpoint, error) { return decide(d, o) },
		LogLevel: func(level slog.Level) { setLogLevel(d, level) }, Stop: d.hooks.Stop,
		Close: func(match func(*status.ConnectionView) bool) int { return closeThose(d.server, match) },
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

var errOperator = proxy.Fail(proxy.OperatorClosed, hint.Errorf("the operator of this host knows why", "an operator has closed the connection"))

// closeThose resets the connections that match. Which ones these are is found out beside the loops: to look at what a
// container has declared may take a while.
func closeThose(s *proxy.Server, match func(*status.ConnectionView) bool) int {
	type connection struct {
		source   netip.AddrPort
		accepted time.Time
	}
	those := map[connection]bool{}
	for _, c := range s.Carried() {
		if v := status.ConnectionOf(&c); match(&v) {
			those[connection{c.Source, c.Accepted}] = true
		}
	}
	if len(those) == 0 {
		return 0
	}
	return s.Cut(func(c *proxy.Carried) bool { return those[connection{c.Source, c.Accepted}] }, errOperator)
}

// decide does what an operator says of endpoints. A daemon that takes over has read by then what was decided before,
// and would write over what is decided meanwhile.
func decide(d *daemon, o admin.EndpointOrder) ([]admin.DecidedEndpoint, error) {
	if !d.giver.has(serving, closed) {
		return nil, hint.Errorf("ask again in a moment", "another daemon is taking over")
	}
	done, err := d.endpoints.Do(endpoints.Order{Endpoint: o.Endpoint, Action: endpoints.Action(o.Action), For: o.For, Weight: o.Weight, Unknown: o.Unknown})
	return decidedOf(done), err
}

func decidedOf(all []endpoints.Decided) []admin.DecidedEndpoint {
	view := make([]admin.DecidedEndpoint, len(all))
	for i, d := range all {
		view[i] = admin.DecidedEndpoint{Address: d.Address, DecidedView: status.DecidedView{State: string(d.State), Until: d.Until, Weight: d.Weight, Since: d.Since}}
	}
	return view
}

// setLogLevel sets the level of the log until the next reload.
func setLogLevel(d *daemon, level slog.Level) {
	cfg := d.settings.Load().Config
	cfg.LogLevel = level
	if d.hooks.Applied != nil {
		d.hooks.Applied(cfg)
	}
	d.log.Log(context.Background(), level, "an operator has set the level of the log", "level", level.String())
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
