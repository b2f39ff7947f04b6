package explain

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ambassadord/ambassadord/internal/admin"
	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/containerproc"
	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/internal/mode"
	"github.com/ambassadord/ambassadord/internal/ociruntime"
	"github.com/ambassadord/ambassadord/internal/privilege"
	"github.com/ambassadord/ambassadord/internal/rundir"
	"github.com/ambassadord/ambassadord/internal/settings"
	"github.com/ambassadord/ambassadord/internal/sources"
	"github.com/ambassadord/ambassadord/internal/status"
)

// Asked is a running daemon that can be asked: *operate.Daemon.
type Asked interface {
	Status(ctx context.Context) (status.View, []byte, error)
	Ready(ctx context.Context) (admin.Readiness, error)
	Endpoints(ctx context.Context) (admin.Decisions, []byte, error)
}

// Means are what Ask looks with.
type Means struct {
	// Config is where the engine and the registries are; where no daemon answers, it stands for the
	// daemon's.
	Config config.Config
	Daemon Asked
}

// enginePatience is how long the engine may take to tell of its containers.
const enginePatience = 5 * time.Second

// asker is one Ask.
type asker struct {
	Means
	e        *Explanation
	view     *status.View // the daemon's; nil where it does not answer
	snapshot *dockerd.Snapshot
	sources  *sources.Sources
	self     string
	target   string // the declared one, whole
}

// Ask looks at all that has to do with the question, and says what it means. The error is that there
// is no such container, or none that is meant for sure; it carries a hint.
func Ask(ctx context.Context, q Question, m Means) (*Explanation, error) {
	a := &asker{Means: m, e: &Explanation{Asked: q, Taken: time.Now()}}
	a.e.Asked.Container = short(q.Container)
	a.self, _ = containerproc.Self(ctx)
	stop, err := a.start(ctx)
	if err != nil {
		return nil, err
	}
	defer stop()
	a.askDaemon(ctx)
	a.askEngine(ctx)
	var c *dockerd.Container
	known := new(status.Container)
	switch {
	case a.snapshot != nil:
		if c, err = find(a.snapshot, q.Container); err != nil {
			return nil, err
		}
		known = a.declared(c)
		a.describe(ctx, c)
	case a.view != nil:
		if known, err = findKnown(a.view, q.Container); err != nil {
			return nil, err
		}
		a.e.Container = Container{Name: known.Name, ID: known.ID, Running: true, State: "unknown", Project: known.Project, Service: known.Service}
	}
	a.declaration(known)
	if c != nil {
		a.nearMisses(ctx, c, known)
	}
	a.endpoints(ctx, c)
	a.flows()
	if c != nil {
		a.hear(ctx)
		a.look(ctx, c)
	}
	a.e.conclude()
	return a.e, nil
}

// start makes the sources and runs what asks the engine, until stop is called.
func (a *asker) start(ctx context.Context) (stop func(), err error) {
	log := slog.New(slog.DiscardHandler) // what fails is in the explanation
	if a.sources, err = sources.Build(a.Config, a.self, nil, log); err != nil {
		return nil, err
	}
	background, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { _ = a.sources.Resolver.Run(background) }) // both return nil, when background ends
	running.Go(func() { _ = a.sources.Docker.Run(background) })
	return func() {
		cancel()
		running.Wait()
		a.sources.Close()
	}, nil
}

// askDaemon asks the daemon for all that it knows.
func (a *asker) askDaemon(ctx context.Context) {
	d := &a.e.Daemon
	if dir, err := rundir.Find(a.Config.RunDir); err == nil {
		d.Runs = dir.Held(dir.HostLock())
	}
	view, _, err := a.Daemon.Status(ctx)
	if err != nil {
		d.FailureView = status.Failed(err)
		return
	}
	a.view = &view
	d.Answers, d.Runs, d.Version, d.Modes = true, true, view.Daemon.Version, view.Daemon.Modes
	ready, err := a.Daemon.Ready(ctx)
	if err != nil {
		d.FailureView = status.Failed(err)
		return
	}
	d.Ready = ready.Ready
	for _, missing := range ready.NotReady {
		d.Missing = append(d.Missing, Unseen{What: missing.What, FailureView: status.FailureView{Error: short(missing.Why), Hint: short(missing.Hint)}})
	}
}

func (a *asker) askEngine(ctx context.Context) {
	patience, cancel := context.WithTimeout(ctx, enginePatience)
	defer cancel()
	snapshot, err := a.sources.Docker.Wait(patience, nil)
	if err != nil {
		why := cmp.Or(a.sources.Docker.Err(), err)
		a.e.Engine.FailureView = status.Failed(fmt.Errorf("the engine at %s: %w", a.sources.Docker.Endpoint(), why))
		a.e.Engine.Hint = cmp.Or(a.e.Engine.Hint, "is it running, and may this user ask it? Try: docker -H "+a.sources.Docker.Endpoint()+" ps")
		return
	}
	a.e.Engine.Answers, a.snapshot = true, snapshot
}

// declared is what is known of c's declarations: by the daemon, or else read as it would.
func (a *asker) declared(c *dockerd.Container) *status.Container {
	if a.view != nil {
		for i := range a.view.Containers {
			if a.view.Containers[i].ID == c.ShortID() {
				return &a.view.Containers[i]
			}
		}
	}
	have, _ := privilege.Effective() // none, where that cannot be known
	reader := settings.Reader{
		Parse: a.sources.Resolver.Parse, Modes: mode.Effective(a.Config.Modes, a.self != "", have, nil), Registries: a.sources.Registries, Host: new(settings.HostAddrs),
	}
	var layers *binding.Layers
	if s, err := reader.Read(a.Config); err == nil {
		layers = s.Layers
	} else {
		a.e.blind("the configuration", err)
	}
	seen := &status.Snapshot{}
	identity.Build(a.snapshot, nil, a.self, layers, a.sources.Resolver.Parse).Report(seen)
	for i := range seen.View().Containers {
		if one := &seen.Containers[i]; one.ID == c.ShortID() {
			return &seen.View().Containers[i] // without what may be a secret
		}
	}
	// It does not run: what it will declare.
	starting := *c
	starting.Running = true
	seen = &status.Snapshot{}
	identity.Build(dockerd.NewSnapshot(&starting), nil, a.self, layers, a.sources.Resolver.Parse).Report(seen)
	if all := seen.View().Containers; len(all) == 1 {
		return &all[0]
	}
	return &status.Container{Name: c.Name, ID: c.ShortID()}
}

// describe says what the engine knows of c.
func (a *asker) describe(ctx context.Context, c *dockerd.Container) {
	of := &a.e.Container
	*of = Container{
		Name: c.Name, ID: c.ShortID(), Running: c.Running, Health: c.Health, Project: c.Project(), Service: short(c.Service()), Image: short(c.Image),
		Started: c.StartedAt, Network: c.NetworkMode, State: stateOf(c),
	}
	owner := a.snapshot.NetnsOwner(c)
	if owner != nil {
		if owner != c {
			of.Owner, of.Network = owner.Name, owner.NetworkMode
		}
		for _, n := range owner.Networks {
			for _, addr := range []string{n.IPv4.String(), n.IPv6.String()} {
				if addr != "invalid IP" {
					of.Addresses = append(of.Addresses, addr+" on "+short(n.Name))
				}
			}
		}
	}
	if left, is := a.snapshot.Left(c); is {
		of.Left = &status.FailureView{Error: left.Why(), Hint: left.Fix()}
	}
	if kind := a.runtimes().OwnStack(ctx, c.Runtime); kind != "" {
		own := status.Failed(ociruntime.OwnStackError(short(c.Runtime), kind, cmp.Or(strings.Join(a.e.Daemon.Modes, ","), string(config.Redirect))))
		of.OwnStack = &own
	}
}

func (a *asker) runtimes() *ociruntime.Runtimes {
	return &ociruntime.Runtimes{Ask: a.sources.Docker.Runtimes, Log: slog.New(slog.DiscardHandler)}
}

func stateOf(c *dockerd.Container) string {
	switch {
	case !c.Running:
		return "not running"
	case c.Stopping:
		return "stopping"
	case c.Paused:
		return "paused"
	}
	return "running"
}

// declaration takes over what is declared for the port, and what was wrong with that.
func (a *asker) declaration(known *status.Container) {
	e := a.e
	e.Attached = known.Attached
	for _, b := range known.Bindings {
		e.Ports = append(e.Ports, b.Port)
		if b.Port != e.Asked.Port {
			continue
		}
		d := &Declaration{Origin: short(b.Origin), Target: short(b.Target), Meaning: short(b.Meaning), Overruled: short(b.Overruled), Denied: b.Denied}
		if b.Problem != "" {
			d.Error = short(strings.TrimPrefix(b.Problem, b.Origin+": "))
			for _, p := range known.Problems {
				if p.Origin == b.Origin && b.Problem == p.Origin+": "+p.Error {
					d.Hint = short(p.Hint)
				}
			}
		}
		e.Declaration, a.target = d, b.Target
		a.e.Target = a.knownTarget(b.Meaning)
	}
	slices.Sort(e.Ports)
}

// knownTarget is what the daemon knows of a target; nil if nothing.
func (a *asker) knownTarget(meaning string) *status.TargetView {
	if a.view == nil {
		return nil
	}
	for i := range a.view.Targets {
		if a.view.Targets[i].Meaning == meaning {
			return &a.view.Targets[i]
		}
	}
	return nil
}

// endpoints asks the sources of a target that no daemon watches, and says of each endpoint whether it
// is dialled.
func (a *asker) endpoints(ctx context.Context, c *dockerd.Container) {
	e := a.e
	if d := e.Declaration; d != nil && d.Error == "" && e.Target == nil && c != nil {
		patience, cancel := context.WithTimeout(ctx, a.Config.ResolveTimeout+time.Second)
		defer cancel()
		if t, err := a.sources.Resolver.Parse(a.target); err != nil { // by what it may be by now
			e.blind("the target", err)
		} else {
			if t.ByClient() {
				t = t.For(a.snapshot.ScopeOf(c).String())
			}
			answer, err := a.sources.Resolver.Status(patience, t)
			if err == nil || errors.Is(err, context.DeadlineExceeded) {
				view := (&status.Snapshot{Targets: []status.Target{{Meaning: d.Meaning, Status: answer}}}).View()
				e.Target = &view.Targets[0]
			} else {
				e.blind("the target", err)
			}
		}
	}
	if e.Target == nil {
		return
	}
	var members map[string]status.MemberView
	if a.view != nil {
		members = a.view.Members(e.Target.Meaning)
		if all, _, err := a.Daemon.Endpoints(ctx); err == nil { // one that was not dialled yet is in no pool
			decided(members, all.Endpoints)
		}
	}
	for _, one := range e.Target.Endpoints {
		e.Endpoints = append(e.Endpoints, endpointOf(one, members, e.Declaration.Denied, e.Taken))
	}
}

// decided adds what an operator has decided of endpoints that are in no pool.
func decided(members map[string]status.MemberView, all []admin.DecidedEndpoint) {
	for i := range all {
		if m := members[all[i].Address]; m.Decided == nil {
			m.Decided = &all[i].DecidedView
			members[all[i].Address] = m
		}
	}
}

// byOperator is why an endpoint is drained or ejected by an operator's word.
const byOperator = "an operator has decided so"

// endpointOf says whether one is dialled, and why not.
func endpointOf(one status.EndpointView, members map[string]status.MemberView, denied []status.Denied, now time.Time) Endpoint {
	e := Endpoint{EndpointView: one, State: "used"}
	if m, ok := members[one.Address]; ok && m.Health != nil {
		h := m.Health
		e.Open, e.Failures, e.WhyFails = h.Open, h.Failures, short(h.Why)
		switch {
		case m.Out && h.Ejected:
			e.State, e.Why, e.Until = "ejected", short(h.Why), h.EjectedUntil
		case m.Out:
			e.State, e.Why = "down", short(h.Why)
		}
		for _, c := range h.Checks {
			if c.Verdict == "down" && m.Out {
				e.State, e.Why = "down", "its check fails: "+short(c.Why)
			}
		}
	}
	if d := members[one.Address].Decided; d != nil && d.State != "" && (d.Until.IsZero() || d.Until.After(now)) {
		e.State, e.Why, e.Until = d.State, byOperator, d.Until
	}
	for _, d := range denied {
		if d.Endpoint == one.Address {
			e.State, e.Why = "denied", short(d.Error)
		}
	}
	return e
}

// flows takes over connections, limits and the last failure, of which only the daemon knows.
func (a *asker) flows() {
	e := a.e
	e.Limits = []Limit{}
	if a.view == nil {
		return
	}
	byClient, byTarget := map[string]int{}, map[string]int{}
	for i := range a.view.Connections {
		c := &a.view.Connections[i]
		byClient[c.Client]++
		if e.Declaration != nil && c.Target == a.target {
			byTarget[c.Client]++
		}
		if c.ID == e.Container.ID && c.Port == e.Asked.Port {
			e.Open++
			if c.Accepted.After(e.served) {
				e.served = c.Accepted
			}
		}
	}
	for _, l := range a.view.Limits {
		switch {
		case l.Limit == "the daemon":
			e.Limits = append(e.Limits, Limit{l, holders(byClient)})
		case e.Declaration != nil && l.Limit == "target "+a.target:
			e.Limits = append(e.Limits, Limit{l, holders(byTarget)})
		case strings.Contains(l.Limit, e.Container.Name) && strings.HasSuffix(l.Limit, fmt.Sprintf(" by port %d", e.Asked.Port)):
			e.Limits = append(e.Limits, Limit{l, holders(map[string]int{e.Container.Name: e.Open})})
		}
	}
	for i := range a.view.Failures {
		if f := &a.view.Failures[i]; f.ID == e.Container.ID && f.Port == e.Asked.Port {
			e.failed(f)
			if f.Served.After(e.served) {
				e.served = f.Served
			}
			break
		}
	}
}

// failed takes over the last failure, whose error begins with the reason, which stands beside it.
func (e *Explanation) failed(f *status.LastFailure) {
	f.Error = strings.TrimPrefix(f.Error, f.Reason+": ")
	e.Failure = f
}

// mostHolders is how many clients are named of those that share a limit.
const mostHolders = 3

func holders(open map[string]int) []Holder {
	all := []Holder{}
	for client, n := range open {
		if n > 0 {
			all = append(all, Holder{cmp.Or(client, "listeners"), n})
		}
	}
	slices.SortFunc(all, func(a, b Holder) int { return cmp.Or(cmp.Compare(b.Open, a.Open), cmp.Compare(a.Client, b.Client)) })
	return all[:min(len(all), mostHolders)]
}

// asRoot is err with the hint of what a look into a namespace takes, where it has none.
func asRoot(err error) error {
	if hint.Of(err) != "" {
		return err
	}
	return hint.Wrap(err, "run it as root, on the host (or in a container with --pid host and the engine's folder of network namespaces)")
}
