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

// MarshalJSON is the snapshot for other programs. Fields that the log has, too, are called as
// there; those of resolve -o json, as there. Durations and errors are texts, a time that is not known and
// a text that is empty are left out, and so are functions, and pointers into a part. A list is
// never null. Fields are added, not changed.
func (s *Snapshot) MarshalJSON() ([]byte, error) {
	return json.Marshal(snapshotJSON{
		Taken: s.Taken, Took: s.Took.String(), Daemon: daemonOf(&s.Daemon),
		Listeners: each(s.Listeners, listenerOf), Containers: each(s.Containers, containerOf), Targets: each(s.Targets, targetOf),
		Pools: each(s.Pools, poolOf), Connections: each(s.Connections, connectionOf), Limits: each(s.Limits, limitOf),
	})
}

type snapshotJSON struct {
	Taken       time.Time        `json:"taken"`
	Took        string           `json:"took"`
	Daemon      daemonJSON       `json:"daemon"`
	Listeners   []listenerJSON   `json:"listeners"`
	Containers  []Container      `json:"containers"`
	Targets     []targetJSON     `json:"targets"`
	Pools       []poolJSON       `json:"pools"`
	Connections []connectionJSON `json:"connections"`
	Limits      []limitJSON      `json:"limits"`
}

// each converts a list.
func each[From, To any](from []From, convert func(*From) To) []To {
	to := make([]To, len(from))
	for i := range from {
		to[i] = convert(&from[i])
	}
	return to
}

// failureJSON is an error, "" in both where there is none.
type failureJSON struct {
	Error string `json:"error,omitempty"`
	Hint  string `json:"hint,omitempty"`
}

func failureOf(err error) failureJSON {
	if err == nil {
		return failureJSON{}
	}
	return failureJSON{Error: err.Error(), Hint: hint.Of(err)}
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

// daemonJSON has the engine's failure as its error.
type daemonJSON struct {
	Version  string   `json:"version"`
	Modes    []string `json:"modes"`
	Ready    bool     `json:"ready"`
	Follows  bool     `json:"follows"`
	HandOver string   `json:"hand_over"`
	failureJSON
}

func daemonOf(d *Daemon) daemonJSON {
	modes := make([]string, len(d.Modes))
	for i, m := range d.Modes {
		modes[i] = string(m)
	}
	return daemonJSON{
		Version: d.Program, Modes: modes, Ready: d.Ready, Follows: d.Follows, HandOver: d.HandOver, failureJSON: failureOf(d.Engine),
	}
}

type listenerJSON struct {
	Address string         `json:"address"`
	Listens netip.AddrPort `json:"listens"`
	Target  string         `json:"target"`
	// Options are by their names, as one would write them.
	Options map[string]string `json:"options"`
}

func listenerOf(l *Listener) listenerJSON {
	options := map[string]string{}
	for _, o := range option.All() {
		options[o.Name] = o.In(l.Options)
	}
	return listenerJSON{Address: l.Address, Listens: l.Listens, Target: l.Target, Options: options}
}

func containerOf(c *Container) Container {
	one := *c
	if one.Bindings == nil {
		one.Bindings = []Binding{}
	}
	return one
}

type targetJSON struct {
	Meaning string `json:"meaning"`
	Clients int    `json:"clients"`
	// Choice counts from 1; 0 while no choice of the target has endpoints.
	Choice    int            `json:"choice"`
	Endpoints []endpointJSON `json:"endpoints"`
	Sources   []sourceJSON   `json:"sources"`
	failureJSON
}

type sourceJSON struct {
	Source    string         `json:"source"`
	Choice    int            `json:"choice"`
	Endpoints []endpointJSON `json:"endpoints"`
	LeftOut   []leftOutJSON  `json:"left_out"`
	Notes     []string       `json:"notes,omitempty"`
	Answered  time.Time      `json:"answered,omitzero"`
	Failing   time.Time      `json:"failing,omitzero"`
	Unwatched bool           `json:"unwatched"`
	failureJSON
}

// endpointJSON is an endpoint of a source or of a pool.
type endpointJSON struct {
	Address   string `json:"address"`
	Name      string `json:"name,omitempty"`
	Priority  uint16 `json:"priority"`
	Weight    uint16 `json:"weight"`
	Health    string `json:"health,omitempty"`
	Distance  string `json:"distance,omitempty"`
	Published bool   `json:"published,omitempty"`
	Holder    string `json:"holder,omitempty"`
}

type leftOutJSON struct {
	Name      string `json:"name,omitempty"`
	Address   string `json:"address,omitempty"`
	Why       string `json:"why"`
	Unhealthy bool   `json:"unhealthy"`
}

func targetOf(t *Target) targetJSON {
	return targetJSON{
		Meaning: t.Meaning, Clients: t.Clients, Choice: t.Status.Choice + 1, failureJSON: failureOf(t.Status.Err),
		Endpoints: each(t.Status.Endpoints, endpointOf), Sources: each(t.Status.Queries, sourceOf),
	}
}

func sourceOf(q *resolver.QueryStatus) sourceJSON {
	return sourceJSON{
		Source: q.Query.String(), Choice: q.Choice + 1, Endpoints: each(q.Endpoints, endpointOf), LeftOut: each(q.LeftOut, leftOutOf),
		Notes: q.Notes, Answered: q.Answered, Failing: q.Failing, Unwatched: q.Unwatched, failureJSON: failureOf(q.Err),
	}
}

func endpointOf(e *resolver.Endpoint) endpointJSON {
	return endpointJSON{
		Address: e.String(), Name: e.Name, Priority: e.Priority, Weight: e.Weight, Health: e.Health,
		Distance: e.Distance.String(), Published: e.Published, Holder: e.Holder,
	}
}

func leftOutOf(l *resolver.LeftOut) leftOutJSON {
	return leftOutJSON{Name: l.Name, Address: l.Addr, Why: l.Why, Unhealthy: l.Unhealthy}
}

type poolJSON struct {
	Target  string       `json:"target"`
	Options choosingJSON `json:"options"`
	Out     int          `json:"out"`
	Panic   bool         `json:"panic"`
	Members []memberJSON `json:"members"`
}

// choosingJSON is how a pool chooses. A field that is left out has the default.
type choosingJSON struct {
	Policy      string     `json:"policy,omitempty"`
	PreferNear  bool       `json:"prefer_near"`
	SlowStart   string     `json:"slow_start,omitempty"`
	EjectAfter  int        `json:"eject_after"`
	EjectFor    string     `json:"eject_for,omitempty"`
	EjectForMax string     `json:"eject_for_max,omitempty"`
	EjectMost   int        `json:"eject_most"`
	Check       *probeJSON `json:"check,omitempty"`
}

type probeJSON struct {
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

type memberJSON struct {
	endpointJSON
	Choice         int         `json:"choice"` // counts from 1, as that of a target
	WeightInEffect float64     `json:"weight_in_effect"`
	Out            bool        `json:"out"`
	Health         *healthJSON `json:"health"`
}

// healthJSON is what the host knows of an address, of all pools.
type healthJSON struct {
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
	Checks       []checkJSON `json:"checks"`
	Pools        int         `json:"pools"`
}

type checkJSON struct {
	Check   *probeJSON `json:"check"`
	Verdict string     `json:"verdict"`
	Since   time.Time  `json:"since,omitzero"`
	Last    time.Time  `json:"last,omitzero"`
	Why     string     `json:"why,omitempty"`
}

func poolOf(p *balance.PoolStatus) poolJSON {
	o := &p.Options
	choosing := choosingJSON{
		Policy: string(o.Policy), PreferNear: o.PreferNear, SlowStart: text(o.SlowStart), EjectAfter: o.EjectAfter,
		EjectFor: text(o.EjectFor), EjectForMax: text(o.EjectForMax), EjectMost: o.EjectMost,
	}
	if o.Check != (balance.Check{}) {
		choosing.Check = probeOf(&o.Check)
	}
	return poolJSON{Target: p.Target, Options: choosing, Out: p.Out, Panic: p.Panic, Members: each(p.Members, memberOf)}
}

func probeOf(c *balance.Check) *probeJSON {
	return &probeJSON{
		Kind: string(c.Kind), Port: c.Port, Path: c.Path, Host: c.Host, Preface: printed(c.Preface), Send: printed(c.Send),
		Expect: printed(c.Expect), Interval: text(c.Interval), Timeout: text(c.Timeout), Jitter: c.Jitter, Rise: c.Rise, Fall: c.Fall,
	}
}

func memberOf(m *balance.MemberStatus) memberJSON {
	return memberJSON{
		endpointJSON: endpointJSON{
			Address: m.Addr.String(), Name: m.Name, Priority: m.Priority, Weight: m.Weight, Distance: m.Distance.String(),
			Published: m.Published, Holder: m.Holder,
		},
		Choice: m.Choice + 1, WeightInEffect: m.WeightInEffect, Out: m.Out, Health: healthOf(&m.Health),
	}
}

func healthOf(h *balance.EndpointStatus) *healthJSON {
	return &healthJSON{
		Address: h.Addr.String(), Holder: h.Holder, Open: h.Open, Opening: h.Opening, Failures: h.Failures, Why: h.Why,
		Ejections: h.Ejections, Ejected: h.Ejected, EjectedSince: h.EjectedSince, EjectedUntil: h.EjectedUntil, Probing: h.Probing,
		Recovered: h.Recovered, Checks: each(h.Checks, checkOf), Pools: h.Pools,
	}
}

func checkOf(c *balance.CheckStatus) checkJSON {
	return checkJSON{Check: probeOf(&c.Check), Verdict: c.Verdict, Since: c.Since, Last: c.Last, Why: c.Why}
}

// connectionJSON is a connection that goes on, by the words of its line in the log.
type connectionJSON struct {
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

func connectionOf(c *proxy.Carried) connectionJSON {
	one := connectionJSON{
		Source: c.Source.String(), Endpoint: c.Endpoint.Addr.String(), EndpointName: c.Endpoint.Name, Attempts: c.Attempts,
		Accepted: c.Accepted, Held: c.Held.String(), BytesUp: c.Up, BytesDown: c.Down,
	}
	if r := c.Route; r != nil {
		one.Client, one.ID, one.Service, one.Port, one.Target = r.Client.Name, r.Client.ID, r.Client.Service, r.Port, r.Target
	}
	return one
}

type limitJSON struct {
	Limit   string `json:"limit"`
	Most    int    `json:"most"` // open at once; 0 is no limit
	Rate    int    `json:"rate"` // in a second; 0 is no limit
	Queue   int    `json:"queue"`
	Reserve int    `json:"reserve"`
	Open    int    `json:"open"`
	Waiting int    `json:"waiting"`
}

func limitOf(l *limit.Status) limitJSON {
	return limitJSON{
		Limit: l.What, Most: l.Bounds.Open, Rate: l.Bounds.Rate, Queue: l.Bounds.Queue, Reserve: l.Bounds.Reserve, Open: l.Open, Waiting: l.Waiting,
	}
}
