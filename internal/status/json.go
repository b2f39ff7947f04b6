package status

import (
	"encoding/json"
	"net/netip"
	"strconv"
	"time"

	"github.com/ambassadord/ambassadord/internal/balance"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/option"
	"github.com/ambassadord/ambassadord/proxy"
	"github.com/ambassadord/ambassadord/proxy/limit"
	"github.com/ambassadord/ambassadord/resolver"
)

// MarshalJSON is the snapshot for other programs, as its View.
func (s *Snapshot) MarshalJSON() ([]byte, error) { return json.Marshal(s.View()) }

// View is the snapshot as other programs see it, without what may be a secret (redact.go).
func (s *Snapshot) View() View {
	return View{
		Taken: s.Taken, Took: s.Took.String(), Daemon: daemonOf(&s.Daemon),
		Listeners: each(s.Listeners, listenerOf), Containers: each(s.Containers, containerOf), Targets: each(s.Targets, targetOf),
		Pools: each(s.Pools, poolOf), Connections: each(s.Connections, connectionOf), Limits: each(s.Limits, limitOf),
		Failures: each(s.Failures, lastFailureOf),
	}
}

// View is a Snapshot in JSON. Fields that the log has, too, are called as there; those of
// resolve -o json, as there. Durations and errors are texts, a time that is not known and
// a text that is empty are left out, and so are functions, and pointers into a part. A list is
// never null. Fields are added, not changed.
type View struct {
	Taken       time.Time        `json:"taken"`
	Took        string           `json:"took"`
	Daemon      DaemonView       `json:"daemon"`
	Listeners   []ListenerView   `json:"listeners"`
	Containers  []Container      `json:"containers"`
	Targets     []TargetView     `json:"targets"`
	Pools       []PoolView       `json:"pools"`
	Connections []ConnectionView `json:"connections"`
	Limits      []LimitView      `json:"limits"`
	Failures    []LastFailure    `json:"failures"`
}

// each converts a list.
func each[From, To any](from []From, convert func(*From) To) []To {
	to := make([]To, len(from))
	for i := range from {
		to[i] = convert(&from[i])
	}
	return to
}

// FailureView is an error, "" in both where there is none.
type FailureView struct {
	Error string `json:"error,omitempty"`
	Hint  string `json:"hint,omitempty"`
}

func failureOf(err error) FailureView {
	if err == nil {
		return FailureView{}
	}
	return FailureView{Error: Redacted(err.Error()), Hint: Redacted(hint.Of(err))}
}

// Failed is err as other programs see it.
func Failed(err error) FailureView { return failureOf(err) }

func (f FailureView) redacted() FailureView {
	return FailureView{Error: Redacted(f.Error), Hint: Redacted(f.Hint)}
}

// text is d, "" for 0.
func text(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return d.String()
}

// printed is a text that may have any bytes, with escapes where they are no letters.
func printed(s string) string {
	quoted := strconv.Quote(s)
	return quoted[1 : len(quoted)-1]
}

// DaemonView has the engine's failure as its error.
type DaemonView struct {
	Version  string   `json:"version"`
	Modes    []string `json:"modes"`
	Ready    bool     `json:"ready"`
	Follows  bool     `json:"follows"`
	HandOver string   `json:"hand_over"`
	FailureView
	Config ConfigurationView `json:"config"`
}

// ConfigurationView has why the last one that was to be read does not hold as its error.
type ConfigurationView struct {
	Read time.Time `json:"read,omitzero"`
	FailureView
}

func daemonOf(d *Daemon) DaemonView {
	modes := make([]string, len(d.Modes))
	for i, m := range d.Modes {
		modes[i] = string(m)
	}
	return DaemonView{
		Version: d.Program, Modes: modes, Ready: d.Ready, Follows: d.Follows, HandOver: d.HandOver, FailureView: failureOf(d.Engine),
		Config: ConfigurationView{Read: d.Config.Read, FailureView: failureOf(d.Config.Refused)},
	}
}

// ListenerView is a Listener in JSON.
type ListenerView struct {
	Address string         `json:"address"`
	Listens netip.AddrPort `json:"listens"`
	Target  string         `json:"target"`
	// Options are by their names, as one would write them.
	Options map[string]string `json:"options"`
}

func listenerOf(l *Listener) ListenerView {
	options := map[string]string{}
	for _, o := range option.All() {
		options[o.Name] = RedactedOption(o.Name, o.In(l.Options))
	}
	return ListenerView{Address: l.Address, Listens: l.Listens, Target: Redacted(l.Target), Options: options}
}

func containerOf(c *Container) Container {
	one := *c
	one.Bindings = each(c.Bindings, func(b *Binding) Binding {
		shown := *b
		shown.Target, shown.Meaning, shown.Origin = Redacted(b.Target), Redacted(b.Meaning), Redacted(b.Origin)
		shown.Problem, shown.Overruled = Redacted(b.Problem), Redacted(b.Overruled)
		if b.Denied != nil {
			shown.Denied = each(b.Denied, func(d *Denied) Denied { return Denied{Endpoint: d.Endpoint, FailureView: d.FailureView.redacted()} })
		}
		return shown
	})
	if c.Attached != nil {
		attached := *c.Attached
		attached.FailureView = attached.FailureView.redacted()
		one.Attached = &attached
	}
	if c.Problems != nil {
		one.Problems = each(c.Problems, func(p *Problem) Problem {
			return Problem{Origin: Redacted(p.Origin), Error: Redacted(p.Error), Hint: Redacted(p.Hint)}
		})
	}
	return one
}

// TargetView is a Target in JSON.
type TargetView struct {
	Meaning string `json:"meaning"`
	Clients int    `json:"clients"`
	// Choice counts from 1; 0 while no choice of the target has endpoints.
	Choice    int            `json:"choice"`
	Endpoints []EndpointView `json:"endpoints"`
	Sources   []SourceView   `json:"sources"`
	FailureView
}

// SourceView is what one source says of a target.
type SourceView struct {
	Source    string         `json:"source"`
	Choice    int            `json:"choice"`
	Endpoints []EndpointView `json:"endpoints"`
	LeftOut   []LeftOutView  `json:"left_out"`
	Notes     []string       `json:"notes,omitempty"`
	Answered  time.Time      `json:"answered,omitzero"`
	Failing   time.Time      `json:"failing,omitzero"`
	Unwatched bool           `json:"unwatched"`
	FailureView
}

// EndpointView is an endpoint of a source or of a pool.
type EndpointView struct {
	Address   string `json:"address"`
	Name      string `json:"name,omitempty"`
	Priority  uint16 `json:"priority"`
	Weight    uint16 `json:"weight"`
	Health    string `json:"health,omitempty"`
	Distance  string `json:"distance,omitempty"`
	Published bool   `json:"published,omitempty"`
	Holder    string `json:"holder,omitempty"`
}

// LeftOutView is an instance that a source named and that is no endpoint.
type LeftOutView struct {
	Name      string `json:"name,omitempty"`
	Address   string `json:"address,omitempty"`
	Why       string `json:"why"`
	Unhealthy bool   `json:"unhealthy"`
}

func targetOf(t *Target) TargetView {
	return TargetView{
		Meaning: Redacted(t.Meaning), Clients: t.Clients, Choice: t.Status.Choice + 1, FailureView: failureOf(t.Status.Err),
		Endpoints: each(t.Status.Endpoints, endpointOf), Sources: each(t.Status.Queries, sourceOf),
	}
}

func sourceOf(q *resolver.QueryStatus) SourceView {
	return SourceView{
		Source: Redacted(q.Query.String()), Choice: q.Choice + 1, Endpoints: each(q.Endpoints, endpointOf), LeftOut: each(q.LeftOut, leftOutOf),
		Notes: allRedacted(q.Notes), Answered: q.Answered, Failing: q.Failing, Unwatched: q.Unwatched, FailureView: failureOf(q.Err),
	}
}

func endpointOf(e *resolver.Endpoint) EndpointView {
	return EndpointView{
		Address: e.String(), Name: e.Name, Priority: e.Priority, Weight: e.Weight, Health: e.Health,
		Distance: e.Distance.String(), Published: e.Published, Holder: e.Holder,
	}
}

func leftOutOf(l *resolver.LeftOut) LeftOutView {
	return LeftOutView{Name: l.Name, Address: l.Addr, Why: Redacted(l.Why), Unhealthy: l.Unhealthy}
}

// PoolView is how the endpoints of a target are chosen from, with one set of options.
type PoolView struct {
	Target  string       `json:"target"`
	Options ChoosingView `json:"options"`
	Out     int          `json:"out"`
	Panic   bool         `json:"panic"`
	Members []MemberView `json:"members"`
}

// ChoosingView is how a pool chooses. A field that is left out has the default.
type ChoosingView struct {
	Policy      string     `json:"policy,omitempty"`
	PreferNear  bool       `json:"prefer_near"`
	SlowStart   string     `json:"slow_start,omitempty"`
	EjectAfter  int        `json:"eject_after"`
	EjectFor    string     `json:"eject_for,omitempty"`
	EjectForMax string     `json:"eject_for_max,omitempty"`
	EjectMost   int        `json:"eject_most"`
	Check       *ProbeView `json:"check,omitempty"`
}

// ProbeView is an active check, without the bytes that it sends.
type ProbeView struct {
	Kind     string `json:"kind"`
	Port     uint16 `json:"port,omitempty"`
	Path     string `json:"path,omitempty"`
	Host     string `json:"host,omitempty"`
	Preface  string `json:"preface,omitempty"`
	Send     string `json:"send,omitempty"`
	Expect   string `json:"expect,omitempty"`
	Interval string `json:"interval,omitempty"`
	Timeout  string `json:"timeout,omitempty"`
	Jitter   int    `json:"jitter,omitempty"`
	Rise     int    `json:"rise,omitempty"`
	Fall     int    `json:"fall,omitempty"`
}

// MemberView is an endpoint in a pool.
type MemberView struct {
	EndpointView
	Choice         int     `json:"choice"` // counts from 1, as that of a target
	WeightInEffect float64 `json:"weight_in_effect"`
	Out            bool    `json:"out"`
	// Decided is what an operator has decided of it: drained, ejected, or a weight.
	Decided *DecidedView `json:"decided,omitempty"`
	Health  *HealthView  `json:"health"`
}

// HealthView is what the host knows of an address, of all pools.
type HealthView struct {
	Address      string      `json:"address"`
	Holder       string      `json:"holder,omitempty"`
	Open         int         `json:"open"`
	Opening      int         `json:"opening"`
	Failures     int         `json:"failures"`
	Why          string      `json:"why,omitempty"`
	Ejections    int         `json:"ejections"`
	Ejected      bool        `json:"ejected"`
	EjectedSince time.Time   `json:"ejected_since,omitzero"`
	EjectedUntil time.Time   `json:"ejected_until,omitzero"`
	Probing      bool        `json:"probing"`
	Recovered    time.Time   `json:"recovered,omitzero"`
	Checks       []CheckView `json:"checks"`
	Pools        int         `json:"pools"`
}

// CheckView is what an active check has found.
type CheckView struct {
	Check   *ProbeView `json:"check"`
	Verdict string     `json:"verdict"`
	Since   time.Time  `json:"since,omitzero"`
	Last    time.Time  `json:"last,omitzero"`
	Why     string     `json:"why,omitempty"`
}

func poolOf(p *balance.PoolStatus) PoolView {
	o := &p.Options
	choosing := ChoosingView{
		Policy: string(o.Policy), PreferNear: o.PreferNear, SlowStart: text(o.SlowStart), EjectAfter: o.EjectAfter,
		EjectFor: text(o.EjectFor), EjectForMax: text(o.EjectForMax), EjectMost: o.EjectMost,
	}
	if o.Check != (balance.Check{}) {
		choosing.Check = probeOf(&o.Check)
	}
	return PoolView{Target: Redacted(p.Target), Options: choosing, Out: p.Out, Panic: p.Panic, Members: each(p.Members, memberOf)}
}

func probeOf(c *balance.Check) *ProbeView {
	return &ProbeView{
		Kind: string(c.Kind), Port: c.Port, Path: redactedPath(c.Path), Host: c.Host, Preface: printed(c.Preface), Send: length(c.Send),
		Expect: length(c.Expect), Interval: text(c.Interval), Timeout: text(c.Timeout), Jitter: c.Jitter, Rise: c.Rise, Fall: c.Fall,
	}
}

func memberOf(m *balance.MemberStatus) MemberView {
	return MemberView{
		EndpointView: EndpointView{
			Address: m.Addr.String(), Name: m.Name, Priority: m.Priority, Weight: m.Weight, Distance: m.Distance.String(),
			Published: m.Published, Holder: m.Holder,
		},
		Choice: m.Choice + 1, WeightInEffect: m.WeightInEffect, Out: m.Out, Decided: decidedOf(&m.Override), Health: healthOf(&m.Health),
	}
}

func healthOf(h *balance.EndpointStatus) *HealthView {
	return &HealthView{
		Address: h.Addr.String(), Holder: h.Holder, Open: h.Open, Opening: h.Opening, Failures: h.Failures, Why: Redacted(h.Why),
		Ejections: h.Ejections, Ejected: h.Ejected, EjectedSince: h.EjectedSince, EjectedUntil: h.EjectedUntil, Probing: h.Probing,
		Recovered: h.Recovered, Checks: each(h.Checks, checkOf), Pools: h.Pools,
	}
}

func checkOf(c *balance.CheckStatus) CheckView {
	return CheckView{Check: probeOf(&c.Check), Verdict: c.Verdict, Since: c.Since, Last: c.Last, Why: Redacted(c.Why)}
}

// ConnectionView is a connection that goes on, by the words of its line in the log.
type ConnectionView struct {
	Client       string    `json:"client"`
	ID           string    `json:"id,omitempty"`
	Service      string    `json:"service,omitempty"`
	Source       string    `json:"source"`
	Port         uint16    `json:"port"`
	Target       string    `json:"target,omitempty"`
	Endpoint     string    `json:"endpoint"`
	EndpointName string    `json:"endpoint_name,omitempty"`
	Attempts     int       `json:"attempts"`
	Accepted     time.Time `json:"accepted"`
	Held         string    `json:"held"`
	BytesUp      int64     `json:"bytes_up"`
	BytesDown    int64     `json:"bytes_down"`
}

// ConnectionOf is a connection in JSON.
func ConnectionOf(c *proxy.Carried) ConnectionView { return connectionOf(c) }

func connectionOf(c *proxy.Carried) ConnectionView {
	one := ConnectionView{
		Source: c.Source.String(), Endpoint: c.Endpoint.Addr.String(), EndpointName: c.Endpoint.Name, Attempts: c.Attempts,
		Accepted: c.Accepted, Held: c.Held.String(), BytesUp: c.Up, BytesDown: c.Down,
	}
	if r := c.Route; r != nil {
		one.Client, one.ID, one.Service, one.Port, one.Target = r.Client.Name, r.Client.ID, r.Client.Service, r.Port, Redacted(r.Target)
	}
	return one
}

// LimitView is a limit of connections, and how much of it is used.
type LimitView struct {
	Limit   string `json:"limit"`
	Most    int    `json:"most"` // open at once; 0 is no limit
	Rate    int    `json:"rate"` // in a second; 0 is no limit
	Queue   int    `json:"queue"`
	Reserve int    `json:"reserve"`
	Open    int    `json:"open"`
	Waiting int    `json:"waiting"`
}

func limitOf(l *limit.Status) LimitView {
	return LimitView{
		Limit: l.What, Most: l.Bounds.Open, Rate: l.Bounds.Rate, Queue: l.Bounds.Queue, Reserve: l.Bounds.Reserve, Open: l.Open, Waiting: l.Waiting,
	}
}

// LastFailure is the last connection of a client to a port that failed, by the words of its line in
// the log, and how many have since the daemon knows of some.
type LastFailure struct {
	Client    string    `json:"client"`
	ID        string    `json:"id,omitempty"`
	Source    string    `json:"source"`
	Port      uint16    `json:"port"`
	Target    string    `json:"target,omitempty"`
	Count     int       `json:"count"`
	First     time.Time `json:"first"`
	Last      time.Time `json:"last"`
	Served    time.Time `json:"served,omitzero"`
	Reason    string    `json:"reason"`
	Endpoint  string    `json:"endpoint,omitempty"`
	Attempts  int       `json:"attempts"`
	Held      string    `json:"held"`
	BytesUp   int64     `json:"bytes_up"`
	BytesDown int64     `json:"bytes_down"`
	FailureView
}

func lastFailureOf(f *Failure) LastFailure {
	one := LastFailure{
		Client: f.Client, ID: f.ID, Source: f.Source.String(), Port: f.Port, Target: Redacted(f.Target), Count: f.Count, First: f.First, Last: f.Last, Served: f.Served,
		Reason: string(f.Reason), Attempts: f.Attempts, Held: f.Held.String(), BytesUp: f.Up, BytesDown: f.Down,
		FailureView: FailureView{Error: Redacted(f.Error), Hint: Redacted(f.Hint)},
	}
	if f.Endpoint.IsValid() {
		one.Endpoint = f.Endpoint.String()
	}
	return one
}
