// Package report holds what bench/peers has measured, draws conclusions from it and
// renders it: as text, as a part of docs/performance.md, as a chart.
//
// Single figures on one machine vary by a quarter, so nothing here compares two means:
// contestants are compared within a round, where all ran under the same conditions, and
// what is told is the median of those ratios over all rounds, and their middle half.
package report

import (
	"slices"
	"time"
)

// Direct and the others are names of contestants that verdicts are about.
const (
	Direct  = "direct"
	Ours    = "ambassadord"
	Before  = "ambassadord-before" // another build of the same daemon
	Plain   = "plain"
	HAProxy = "haproxy"
	Nginx   = "nginx"
	Rinetd  = "rinetd"
)

// proxiesInC are whom parity is measured against.
func proxiesInC() []string { return []string{HAProxy, Nginx, Rinetd} }

// Place is where a part was measured.
type Place string

// The places.
const (
	Private      Place = "private"      // a network namespace of its own
	Host         Place = "host"         // the host's
	Unprivileged Place = "unprivileged" // a private one, each proxy a user of its own, idle connections beside
)

// Result is a whole run.
type Result struct {
	Machine  Machine
	Began    time.Time
	Command  string
	Rounds   int
	Duration time.Duration
	Samples  []Sample
	Idle     []Idle
	Starts   []Start
	Notes    []string // who was left out, and why
}

// Machine is where it ran.
type Machine struct {
	CPU, Kernel, Go, Commit string
	Cores                   int
	Memory                  int64 // bytes
	Peers                   []Peer
}

// Peer is a contestant and what it is.
type Peer struct{ Name, Version, Setup string }

// Sample is one measurement of one contestant in one round. Units are GB for bulk
// measures and operations for the others.
type Sample struct {
	Place      Place
	Measure    string
	Contestant string
	Round      int
	Rate       float64 // units a second
	CPU        float64 // seconds of the proxy's time a unit
	P50        float64 `json:",omitempty"` // seconds
	P99        float64 `json:",omitempty"`
	P999       float64 `json:",omitempty"`
	Failed     int     `json:",omitempty"` // connections
	Error      string  `json:",omitempty"` // why there is no figure
}

// Idle is what idle connections of a fresh process cost, for each connection.
type Idle struct {
	Contestant string
	Conns      int // asked for
	Held       int // that carried another exchange at the end
	// Memory is bytes of the process tree, without what it has in memory of files: pages of
	// the program that were not needed before are no connection's.
	Memory      float64
	Sockets     float64 // bytes in buffers of all sockets, the client's and the backend's too
	Descriptors float64
	Pipes       float64 // ends of pipes
	// What became of it when more came than its descriptors were good for.
	Overrun *Overrun `json:",omitempty"`
	Error   string   `json:",omitempty"`
}

// Overrun is what came of opening more connections than there are descriptors for.
type Overrun struct {
	Asked, Held         int
	Survived, Recovered bool
}

// Start is a start of a contestant that nothing else ran beside.
type Start struct {
	Contestant string
	Ready      float64 // seconds to the first exchange
	RSS        float64 // bytes, idle
	CPU        float64 // of a core, idle
}

// Metric is one of the figures of a sample.
type Metric struct {
	Name string
	of   func(Sample) float64
	more bool // more is better
}

// Rate is units a second.
func Rate() Metric { return Metric{"rate", func(s Sample) float64 { return s.Rate }, true} }

// CPU is the proxy's time a unit.
func CPU() Metric { return Metric{"CPU", func(s Sample) float64 { return s.CPU }, false} }

// P99 is the latency that one in a hundred exceeds.
func P99() Metric { return Metric{"p99", func(s Sample) float64 { return s.P99 }, false} }

// series is a contestant's figures by round; rounds without one are missing.
func (r *Result) series(place Place, measure, contestant string, m Metric) map[int]float64 {
	byRound := map[int]float64{}
	for _, s := range r.Samples {
		if s.Place == place && s.Measure == measure && s.Contestant == contestant && s.Error == "" {
			if v := m.of(s); v > 0 {
				byRound[s.Round] = v
			}
		}
	}
	return byRound
}

// Median is the spread of a contestant's figures over the rounds.
func (r *Result) Median(place Place, measure, contestant string, m Metric) Spread {
	var values []float64
	for _, v := range r.series(place, measure, contestant, m) {
		values = append(values, v)
	}
	return SpreadOf(values)
}

// Ratio is the spread of a to b, paired within rounds.
func (r *Result) Ratio(place Place, measure, a, b string, m Metric) Spread {
	return SpreadOf(r.ratios(place, measure, a, b, m))
}

func (r *Result) ratios(place Place, measure, a, b string, m Metric) (ratios []float64) {
	other := r.series(place, measure, b, m)
	for round, v := range r.series(place, measure, a, m) {
		if w, ok := other[round]; ok {
			ratios = append(ratios, v/w)
		}
	}
	return ratios
}

// Best is the one of some contestants with the best median, or none. The best of each
// round would be favoured by noise.
func (r *Result) Best(place Place, measure string, among []string, m Metric) (string, bool) {
	best, name := 0.0, ""
	for _, c := range among {
		s := r.Median(place, measure, c, m)
		if s.N == 0 {
			continue
		}
		if name == "" || m.more && s.Median > best || !m.more && s.Median < best {
			best, name = s.Median, c
		}
	}
	return name, name != ""
}

// Contestants are those with samples at a place, in the order they were given.
func (r *Result) Contestants(place Place) (names []string) {
	for _, p := range r.Machine.Peers {
		if slices.ContainsFunc(r.Samples, func(s Sample) bool { return s.Place == place && s.Contestant == p.Name }) {
			names = append(names, p.Name)
		}
	}
	return names
}

// Measures are those with samples at a place, in the order of their first.
func (r *Result) Measures(place Place) (names []string) {
	for _, s := range r.Samples {
		if s.Place == place && !slices.Contains(names, s.Measure) {
			names = append(names, s.Measure)
		}
	}
	slices.SortFunc(names, func(a, b string) int { return slices.Index(Measures(), a) - slices.Index(Measures(), b) })
	return names
}
