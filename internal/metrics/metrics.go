// Package metrics counts what becomes of connections, and shows that, with what else the daemon knows
// of itself, in the exposition format of Prometheus.
//
// Counters.Done is told of each connection at its end (proxy.Record), Counters.Handler serves
// GET /metrics. A scrape asks two things: the proxy.Server what the connections that go on have moved
// since the scrape before (proxy.Server.Moved), which is added to the counters, and the daemon for its
// status.Snapshot, of which the gauges are made. A byte is counted once, at a scrape or at the end of its
// connection, so the counters have all of them exactly and never go back.
//
// There is one sum of all connections, and a series for each client and target. The series are bounded in
// number (clients.go), and go when nobody declares what they count; the sum stays. families.go has every
// metric with its meaning, of which docs/metrics.md is made. carry.go takes the counters to the next daemon.
package metrics

import (
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"

	"github.com/ambassadord/ambassadord/internal/status"
	"github.com/ambassadord/ambassadord/proxy"
)

// Options are what a Counters is made for.
type Options struct {
	// Series is how many series of clients and targets there may be in a family, and how many of any
	// other label whose values containers choose. What is more is counted as "_other".
	Series int
	// Endpoints tells endpoints apart, too.
	Endpoints bool
	Log       *slog.Logger
}

// Counters are what is counted of connections. Make them with New. Done may be called from many goroutines.
type Counters struct {
	options Options
	total   total
	clients seriesTable

	collecting sync.Mutex // held by what asks the Server, of which there may be one
}

// New returns counters at zero.
func New(o Options) *Counters {
	c := &Counters{options: o}
	c.clients.init(o)
	return c
}

// Done counts a connection that has ended; it is for a proxy.Server's Done. It takes no lock and
// allocates nothing, unless the connection is among the first of its client to its target.
func (c *Counters) Done(r proxy.Record) {
	s := c.clients.of(&r.Route, r.Endpoint.Addr)
	if !r.Told.Connection {
		answered := r.Endpoint.Addr.IsValid()
		c.total.opens(answered, r.Attempts, r.Held)
		s.opens(answered, r.Attempts, r.Held)
	}
	up, down := r.Up-r.Told.Up, r.Down-r.Told.Down
	why := reasonIndex(r.Err)
	c.total.moves(up, down)
	c.total.closes(why)
	c.total.duration.observe(r.Duration)
	s.moves(up, down)
	s.closes(why)
}

// moved counts what connections that go on have moved.
func (c *Counters) moved(some []proxy.Moved) {
	for i := range some {
		m := &some[i]
		s := c.clients.of(m.Route, m.Endpoint)
		if m.First {
			c.total.opens(true, m.Attempts, m.Held)
			s.opens(true, m.Attempts, m.Held)
		}
		c.total.moves(m.Up, m.Down)
		s.moves(m.Up, m.Down)
	}
}

// Source is what a scrape asks. Both functions may take a while, but wait for nothing outside the process.
type Source struct {
	// Moved is proxy.Server.Moved.
	Moved func(some func([]proxy.Moved))
	// Snapshot is what the daemon knows; the metrics need no Connections of it.
	Snapshot func() *status.Snapshot
}

// mostScrapes is how many may be under way; others are told 503 (Service Unavailable).
const mostScrapes = 4

// Handler serves the metrics, for GET /metrics. It is to be called once for each Counters: what a
// connection has moved is told of once.
func (c *Counters) Handler(from Source) http.Handler {
	process := prometheus.NewRegistry()
	process.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	ours := &collector{counters: c, from: from, now: time.Now}
	all := prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
		of, err := process.Gather()
		families, _ := ours.Gather() // which cannot fail
		return append(families, of...), err
	})
	return promhttp.HandlerFor(all, promhttp.HandlerOpts{
		ErrorLog:            slog.NewLogLogger(c.options.Log.Handler(), slog.LevelWarn),
		ErrorHandling:       promhttp.ContinueOnError, // the rest is worth having
		MaxRequestsInFlight: mostScrapes,
	})
}
