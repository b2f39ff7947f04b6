package balance

import (
	"context"
	"log/slog"
)

// Reporter is the client of a connection, who reports what becomes of an endpoint.
type Reporter struct {
	// Key tells clients apart: a container's ID, an address.
	Key string
	// Name is for people.
	Name string
}

// Use is an endpoint that was chosen for a connection. It counts as one of the
// endpoint's connections from then on. Exactly one of Failed, Cancelled and Opened
// follows, and Closed after Opened.
type Use struct {
	*shared
	mark     uint64    // the health's when it was chosen
	probe    *ejection // set when it is the probe of that ejection
	reporter *Reporter // nil when it is not known
	deaths   uint32    // how often the check had found the endpoint dead when it was chosen
}

// shared is what all connections to a member have in common, which outlives the membership.
// It is not to be changed. Each connection holds a Use for as long as it lasts.
type shared struct {
	Endpoint
	pool   *Pool
	health *health
	check  *checker // nil when the pool has none
}

// End says how a connection that was opened ended, as far as the endpoint's health
// is concerned.
type End int

const (
	// Silent says that no byte came from the endpoint, and it did not reset the connection
	// either: the client left, or the protocol goes one way. It proves nothing; a
	// process that is frozen looks like that, since its kernel answers for it.
	Silent End = iota
	// Answered says that at least one byte came from the endpoint.
	Answered
	// Reset says that the endpoint reset the connection before any byte of its own.
	Reset
)

// Failed says that the endpoint could not be dialled. A failure that is not the
// endpoint's doing (Config.OwnFault) counts as Cancelled. A dial that was given less time than an
// answer takes should be reported as Cancelled too.
func (u Use) Failed(err error) {
	if err == nil || u.pool.registry.ours(err) {
		u.Cancelled()
		return
	}
	u.health.load.Add(-1)
	u.tell(u.health.fail(u.mark, &u.pool.options, u.pool.registry.now(), err.Error(), report{byDial: true, from: u.reporter}))
}

// Cancelled says that it was given up without a verdict: a hedge lost, the client
// left.
func (u Use) Cancelled() {
	u.health.load.Add(-1)
	if u.probe != nil {
		u.probe.probe.Store(0) // the next connection is the probe
	}
}

// Opened says that the endpoint answered the dial.
func (u Use) Opened() {
	u.health.open.Add(1)
	u.tell(u.health.opened(u.mark, u.pool.registry.now()))
}

// Closed says how the connection ended.
func (u Use) Closed(end End) {
	u.health.open.Add(-1)
	u.health.load.Add(-1)
	switch end {
	case Silent:
	case Answered:
		u.tell(u.health.answered(u.mark, u.pool.registry.now()))
	case Reset:
		u.tell(u.health.fail(u.mark, &u.pool.options, u.pool.registry.now(), "reset before any byte", report{from: u.reporter}))
	}
}

// tell logs what became of the endpoint.
func (u Use) tell(c change) {
	if c.what == "" {
		return
	}
	level, lasting := slog.LevelWarn, "for"
	if c.what == recovered {
		level, lasting = slog.LevelInfo, "after"
	}
	attributes := []any{"endpoint", u.Addr.String(), "name", u.Name,
		"target", u.pool.target, "why", c.why, "failures", c.failures, lasting, c.lasts.String()}
	if u.reporter != nil {
		attributes = append(attributes, "reported_by", u.reporter.Name, "reporter_id", u.reporter.Key)
	}
	u.pool.registry.log.Log(context.Background(), level, c.what, attributes...)
}
