package metrics

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/ambassadord/ambassadord/proxy"
)

// What one daemon tells the next of its counters, so that a rate of them does not dip when that takes over.
// It is told in packets of JSON, each of which has what is to be added: first all that was counted, then,
// until its last connection has ended, what has come since. Fields are added, never changed, and unknown
// ones are passed over, for the two may be of different versions.

const (
	// seriesInPacket is how many series a packet has. With labels of which each byte is escaped they
	// are below the 64 KiB that a packet of the control socket may have.
	seriesInPacket = 12
	// mostPackets bounds what is told at once, and with it what is not told: series of which there is
	// more. They are counted from 0 on then, as those of a daemon that starts are; the sum is told first.
	mostPackets = 400
)

// countsPacket is a packet.
type countsPacket struct {
	Total  *totalNews   `json:"total,omitempty"`
	Series []seriesNews `json:"series,omitempty"`
}

// news is what has been added to counters.
type news struct {
	Opened   int64            `json:"opened,omitempty"`
	Closed   int64            `json:"closed,omitempty"`
	Up       int64            `json:"bytes_up,omitempty"`
	Down     int64            `json:"bytes_down,omitempty"`
	Dials    int64            `json:"dials,omitempty"`
	Answered int64            `json:"answered,omitempty"`
	Waited   int64            `json:"waited_us,omitempty"`
	Failed   map[string]int64 `json:"failed,omitempty"` // by reason
}

type seriesNews struct {
	Client   string `json:"client,omitempty"`
	Project  string `json:"project,omitempty"`
	Service  string `json:"service,omitempty"`
	Target   string `json:"target,omitempty"`
	Endpoint string `json:"endpoint,omitempty"`
	news
}

type totalNews struct {
	news
	Established durationNews `json:"established"`
	Unanswered  durationNews `json:"unanswered"`
	Duration    durationNews `json:"duration"`
}

// durationNews is what has been added to a histogram. Who has other bounds adds the sum alone.
type durationNews struct {
	Bounds  []int64 `json:"bounds_ns"`
	Buckets []int64 `json:"buckets"`
	Sum     int64   `json:"sum_us"`
}

// countsThen is what counters were; closed comes first, as whoever reads counters does.
type countsThen struct {
	closed, opened, up, down, dials, answered, waited int64
	failed                                            [mostReasons]int64
}

func (t *connectionCounts) now() countsThen {
	n := countsThen{
		closed: t.closed.Load(), opened: t.opened.Load(), up: t.up.Load(), down: t.down.Load(),
		dials: t.dials.Load(), answered: t.answered.Load(), waited: t.waited.Load(),
	}
	for i := range t.failed {
		n.failed[i] = t.failed[i].Load()
	}
	return n
}

// since is what was added after then.
func (n *countsThen) since(then *countsThen) news {
	added := news{
		Opened: n.opened - then.opened, Closed: n.closed - then.closed, Up: n.up - then.up, Down: n.down - then.down,
		Dials: n.dials - then.dials, Answered: n.answered - then.answered, Waited: n.waited - then.waited,
	}
	for i, reason := range reasons {
		if d := n.failed[i] - then.failed[i]; d > 0 {
			if added.Failed == nil {
				added.Failed = map[string]int64{}
			}
			added.Failed[reason] = d
		}
	}
	return added
}

type durationThen struct {
	buckets [len(bounds) + 1]int64
	sum     int64
}

// news is what was added after then, which becomes now.
func (d *durationCounts) news(then *durationThen) durationNews {
	var n durationNews
	for i := range d.buckets {
		if i < len(bounds) {
			n.Bounds = append(n.Bounds, int64(bounds[i]))
		}
		now := d.buckets[i].Load()
		n.Buckets = append(n.Buckets, now-then.buckets[i])
		then.buckets[i] = now
	}
	now := d.sum.Load()
	n.Sum, then.sum = now-then.sum, now
	return n
}

// some reports whether anything was added.
func (n *durationNews) some() bool {
	return n.Sum != 0 || slices.ContainsFunc(n.Buckets, func(added int64) bool { return added != 0 })
}

// Ledger tells of what has been counted since it told of it before. Make it with Counters.Ledger.
type Ledger struct {
	counters                          *Counters
	moved                             func(some func([]proxy.Moved))
	told                              map[*series]countsThen
	total                             countsThen
	established, unanswered, duration durationThen
}

// Ledger is for a daemon that hands over; moved is proxy.Server.Moved.
func (c *Counters) Ledger(moved func(some func([]proxy.Moved))) *Ledger {
	return &Ledger{counters: c, moved: moved, told: map[*series]countsThen{}}
}

// News is what has been counted since the last call, as packets; none when nothing was. One goroutine
// calls it.
func (l *Ledger) News() []json.RawMessage {
	c := l.counters
	c.collecting.Lock()
	l.moved(c.moved)
	c.collecting.Unlock()
	now := c.total.now()
	total := totalNews{
		news: now.since(&l.total), Established: c.total.established.news(&l.established),
		Unanswered: c.total.unanswered.news(&l.unanswered), Duration: c.total.duration.news(&l.duration),
	}
	// Of a connection that has just ended the sum may have been told before, and the rest not.
	var packets []json.RawMessage
	if now != l.total || total.Established.some() || total.Unanswered.some() || total.Duration.some() {
		packets = append(packets, packetOf(countsPacket{Total: &total}))
	}
	l.total = now
	var all []seriesNews
	told := make(map[*series]countsThen, len(l.told))
	for _, s := range append(c.clients.list(), &c.clients.other) {
		now, then := s.now(), l.told[s]
		told[s] = now
		if now != then {
			all = append(all, seriesNews{s.labels.client, s.labels.project, s.labels.service, s.labels.target, s.labels.endpoint, now.since(&then)})
		}
	}
	l.told = told
	for some := range slices.Chunk(all, seriesInPacket) {
		if len(packets) == mostPackets {
			break
		}
		packets = append(packets, packetOf(countsPacket{Series: some}))
	}
	return packets
}

func packetOf(p countsPacket) json.RawMessage {
	text, _ := json.Marshal(p) // texts and numbers alone
	return text
}

// Predecessor adds what another daemon has counted. Make it with Counters.Predecessor.
type Predecessor struct {
	counters *Counters
	open     int64                  // of its connections
	serving  map[labels]*openSeries // those of its series that have open connections
}

// openSeries is which of our series has the open connections of one of another daemon's: they end
// in the one in which they were opened, although there may be room for one of their own by then.
type openSeries struct {
	*series
	open int64
}

// Predecessor is for a daemon that takes over.
func (c *Counters) Predecessor() *Predecessor {
	return &Predecessor{counters: c, serving: map[labels]*openSeries{}}
}

// Add adds a packet of Ledger.News. A packet with an error, which is none of a daemon's, is added in
// parts or not at all; no counter goes back. One goroutine calls it.
func (p *Predecessor) Add(packet json.RawMessage) error {
	var m countsPacket
	if err := json.Unmarshal(packet, &m); err != nil {
		return fmt.Errorf("what the old daemon has counted: %w", err)
	}
	c := p.counters
	if t := m.Total; t != nil {
		of := &c.total
		if !t.good(&of.connectionCounts) || !t.Established.good(&of.established) || !t.Unanswered.good(&of.unanswered) || !t.Duration.good(&of.duration) {
			return errCounts
		}
		p.open += t.addTo(&of.connectionCounts)
		c.total.established.add(&t.Established)
		c.total.unanswered.add(&t.Unanswered)
		c.total.duration.add(&t.Duration)
	}
	for i := range m.Series {
		if !p.addSeries(&m.Series[i]) {
			return errCounts
		}
	}
	return nil
}

// mostServing bounds Predecessor.serving, well above what --metrics-series may be.
const mostServing = 200_000

func (p *Predecessor) addSeries(n *seriesNews) bool {
	l := labels{n.Client, n.Project, n.Service, n.Target, n.Endpoint}
	to := p.serving[l]
	if to == nil {
		to = &openSeries{series: p.counters.clients.named(l)}
	}
	if !n.good(&to.connectionCounts) {
		return false
	}
	to.open += n.addTo(&to.connectionCounts)
	switch {
	case to.open == 0:
		delete(p.serving, l)
	case len(p.serving) < mostServing:
		p.serving[l] = to
	}
	return true
}

// Ended says that the daemon has ended: what it has not told the end of has ended, too.
func (p *Predecessor) Ended() {
	p.counters.total.closed.Add(max(0, p.open))
	for _, s := range p.serving {
		s.closed.Add(max(0, s.open))
	}
	p.open = 0
	clear(p.serving)
}

var errCounts = errors.New("the old daemon tells of counters that go back, or too far")

// mostCounted is how far a counter can get: an exabyte.
const mostCounted = 1 << 60

// countable reports whether a counter may get that much more.
func countable(counter *atomic.Int64, more int64) bool {
	return more >= 0 && more <= mostCounted-counter.Load()
}

// good reports whether it may be added to these.
func (n *news) good(to *connectionCounts) bool {
	var failed [mostReasons]int64
	for reason, more := range n.Failed {
		i := reasonNamed(reason)
		if more < 0 || more > mostCounted-failed[i] { // several may be unknown
			return false
		}
		failed[i] += more
	}
	for i := range failed {
		if !countable(&to.failed[i], failed[i]) {
			return false
		}
	}
	return countable(&to.opened, n.Opened) && countable(&to.closed, n.Closed) && countable(&to.up, n.Up) && countable(&to.down, n.Down) &&
		countable(&to.dials, n.Dials) && countable(&to.answered, n.Answered) && countable(&to.waited, n.Waited)
}

func (n *durationNews) good(to *durationCounts) bool {
	for i, more := range n.Buckets {
		if more < 0 || i < len(to.buckets) && !countable(&to.buckets[i], more) {
			return false
		}
	}
	return countable(&to.sum, n.Sum)
}

// reasonNamed is the index in reasons of one that another version may have.
func reasonNamed(reason string) int {
	if i, known := reasonsByName[reason]; known {
		return i
	}
	return len(reasons) - 1
}

// addTo adds it, and returns how many connections more are open.
func (n *news) addTo(to *connectionCounts) (open int64) {
	to.opened.Add(n.Opened)
	to.up.Add(n.Up)
	to.down.Add(n.Down)
	to.dials.Add(n.Dials)
	to.answered.Add(n.Answered)
	to.waited.Add(n.Waited)
	for reason, failed := range n.Failed {
		to.failed[reasonNamed(reason)].Add(failed)
	}
	to.closed.Add(n.Closed)
	return n.Opened - n.Closed
}

func (d *durationCounts) add(n *durationNews) {
	d.sum.Add(n.Sum)
	if len(n.Bounds) != len(bounds) || len(n.Buckets) != len(d.buckets) {
		return
	}
	for i := range bounds {
		if n.Bounds[i] != int64(bounds[i]) {
			return
		}
	}
	for i := range d.buckets {
		d.buckets[i].Add(n.Buckets[i])
	}
}

// named is the series of another daemon's that has these labels.
func (t *seriesTable) named(l labels) *series {
	if l.client == others {
		return &t.other
	}
	k := key{client: label(l.client), project: label(l.project), service: label(l.service), target: label(l.target)}
	if endpoint, err := netip.ParseAddrPort(l.endpoint); err == nil && t.endpoints {
		k.endpoint = endpoint
	}
	return t.get(k)
}
