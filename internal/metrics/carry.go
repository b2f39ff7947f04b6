package metrics

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"

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
	Waited   int64            `json:"waited_ns,omitempty"`
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
	Sum     int64   `json:"sum_ns"`
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
	if now == l.total {
		return nil
	}
	total := totalNews{
		news: now.since(&l.total), Established: c.total.established.news(&l.established),
		Unanswered: c.total.unanswered.news(&l.unanswered), Duration: c.total.duration.news(&l.duration),
	}
	l.total = now
	packets := []json.RawMessage{packetOf(countsPacket{Total: &total})}
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
	open     map[*connectionCounts]int64 // of its connections
}

// Predecessor is for a daemon that takes over.
func (c *Counters) Predecessor() *Predecessor {
	return &Predecessor{counters: c, open: map[*connectionCounts]int64{}}
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
		if !t.good() || !t.Established.good() || !t.Unanswered.good() || !t.Duration.good() {
			return errCounts
		}
		p.add(&c.total.connectionCounts, &t.news)
		c.total.established.add(&t.Established)
		c.total.unanswered.add(&t.Unanswered)
		c.total.duration.add(&t.Duration)
	}
	for i := range m.Series {
		s := &m.Series[i]
		if !s.good() {
			return errCounts
		}
		p.add(&c.clients.named(labels{s.Client, s.Project, s.Service, s.Target, s.Endpoint}).connectionCounts, &s.news)
	}
	return nil
}

// Ended says that the daemon has ended: what it has not told the end of has ended, too.
func (p *Predecessor) Ended() {
	for counts, open := range p.open {
		counts.closed.Add(max(0, open))
	}
	clear(p.open)
}

var errCounts = errors.New("the old daemon tells of counters that go back, or too far")

// mostCounted is how far a counter can get: an exabyte.
const mostCounted = 1 << 60

func countable(numbers ...int64) bool {
	return !slices.ContainsFunc(numbers, func(n int64) bool { return n < 0 || n > mostCounted })
}

func (n *news) good() bool {
	for _, failed := range n.Failed {
		if !countable(failed) {
			return false
		}
	}
	return countable(n.Opened, n.Closed, n.Up, n.Down, n.Dials, n.Answered, n.Waited)
}

func (d *durationNews) good() bool { return countable(d.Sum) && countable(d.Buckets...) }

func (p *Predecessor) add(to *connectionCounts, n *news) {
	to.opened.Add(n.Opened)
	to.up.Add(n.Up)
	to.down.Add(n.Down)
	to.dials.Add(n.Dials)
	to.answered.Add(n.Answered)
	to.waited.Add(n.Waited)
	for reason, failed := range n.Failed {
		i, known := reasonsByName[reason]
		if !known { // of another version
			i = len(reasons) - 1
		}
		to.failed[i].Add(failed)
	}
	to.closed.Add(n.Closed)
	p.open[to] += n.Opened - n.Closed
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
