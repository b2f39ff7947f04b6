package metrics

import (
	"maps"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/ambassadord/ambassadord/internal/shorten"
	"github.com/ambassadord/ambassadord/internal/status"
	"github.com/ambassadord/ambassadord/proxy"
)

// Values of labels that are no container's and no target's. No engine allows a name of a container that
// begins so.
const (
	// others is what there is no room for.
	others = "_other"
	// nobody is a client that is no container, or was not known to be one.
	nobody = "_none"
)

const (
	// goneAfter is for how long a series that nobody declares stays after its last change, for a last scrape
	// or several.
	goneAfter = 10 * time.Minute
	// clientShare is which part of all series one client may have: a container that declares a thousand
	// targets leaves room for those of others.
	clientShare = 8
	// mostLabel is how long a value of a label may be, in bytes; shownLabel is what is left of a longer one,
	// with room for how long it was.
	mostLabel, shownLabel = 128, 100
)

// key is what tells series apart before anything is bounded.
type key struct {
	client, project, service, target string
	endpoint                         netip.AddrPort
}

// labels are the values of the labels of a series, bounded and printable.
type labels struct{ client, project, service, target, endpoint string }

// series counts the connections of one client to one target.
type series struct {
	connectionCounts
	labels labels

	// What follows is of sweep alone, but that a scrape reads elsewhere.
	elsewhere int64     // how many connections were opened in another series and have ended here, less those the other way round
	before    int64     // what changes was
	seen      time.Time // when it was declared, or had changed
}

// balance is how many of the connections that are counted here go on; less than 0 if some were opened when there
// was no room for this series, and so are open in another, and sweep has not seen it yet.
func (s *series) balance() int64 {
	closed := s.closed.Load()
	return s.opened.Load() - closed + s.elsewhere
}

// open is balance for a scrape.
func (s *series) open() int64 { return max(0, s.balance()) }

// seriesTable has the series. To look one up takes no lock: read is a map that nobody changes, and is replaced by
// a copy of all when enough has been looked for in vain. Where there is no room, a connection is counted by
// its client alone, or by others, so what a table costs is bounded, and so is what one client has of it.
type seriesTable struct {
	most, share int
	endpoints   bool
	read        atomic.Pointer[map[key]*series]
	full        atomic.Bool // read has all there will be
	other       series
	overflowed  atomic.Int64 // connections' reports that were counted in other, or by the client alone

	mu       sync.Mutex
	all      map[key]*series
	byLabels map[labels]*series // different keys may look the same
	clients  map[string]int     // how many series each has
	missed   int                // in read, since it was made
}

func (t *seriesTable) init(o Options) {
	t.most, t.share, t.endpoints = max(1, o.Series), max(1, o.Series/clientShare), o.Endpoints
	t.all, t.byLabels, t.clients = map[key]*series{}, map[labels]*series{}, map[string]int{}
	t.other.labels = labels{client: others, project: others, service: others, target: others}
	if t.endpoints {
		t.other.labels.endpoint = others
	}
	t.publish()
}

// of is the series of a connection.
func (t *seriesTable) of(r *proxy.Route, endpoint netip.AddrPort) *series {
	k := key{client: r.Client.Name, project: r.Client.Project, service: r.Client.Service, target: r.Target}
	if r.Client.ID == "" || k.client == "" {
		k.client = nobody
	}
	if t.endpoints {
		k.endpoint = endpoint
	}
	return t.get(k)
}

// rest is the series of what one client has no room for.
func (k key) rest() key {
	return key{client: k.client, project: k.project, service: k.service, target: others}
}

func (t *seriesTable) get(k key) *series {
	read := *t.read.Load()
	if s := read[k]; s != nil {
		return s
	}
	if s := read[k.rest()]; s != nil { // it was published at once
		t.overflowed.Add(1)
		return s
	}
	if t.full.Load() {
		t.overflowed.Add(1)
		return &t.other
	}
	return t.add(k)
}

// add is get with the lock.
func (t *seriesTable) add(k key) *series {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.missed++; t.missed > 16+len(t.all)/8 {
		defer t.publish()
	}
	if s := t.all[k]; s != nil {
		return s
	}
	if len(t.all) >= t.most {
		t.publish()
		t.full.Store(true)
		return &t.other
	}
	if t.clients[k.client] >= t.share && k.client != nobody {
		k = k.rest()
		defer t.publish()
		if s := t.all[k]; s != nil {
			return s
		}
	}
	l := labelsOf(k)
	s := t.byLabels[l]
	if s == nil {
		s = &series{labels: l}
		t.byLabels[l] = s
	}
	t.all[k] = s
	t.clients[k.client]++
	return s
}

// publish has get find all there are. It is called with mu held, or before anybody else has t.
func (t *seriesTable) publish() {
	read := maps.Clone(t.all)
	t.read.Store(&read)
	t.missed = 0
}

// list is every series, in no order, but for other.
func (t *seriesTable) list() []*series {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]*series, 0, len(t.byLabels))
	for _, s := range t.byLabels {
		all = append(all, s)
	}
	return all
}

// sweep takes out series that s does not declare any more, and that have not changed for a while. One
// goroutine calls it at a time, when Server.Moved has told of all.
func (t *seriesTable) sweep(s *status.Snapshot, now time.Time) {
	type pair struct{ client, target string }
	declared := map[pair]bool{}
	containers := make(map[string]bool, len(s.Containers))
	for i := range s.Containers {
		c := &s.Containers[i]
		containers[c.Name] = true
		for j := range c.Bindings {
			declared[pair{c.Name, c.Bindings[j].Target}] = true
		}
	}
	listened := map[string]bool{}
	for i := range s.Listeners {
		listened[s.Listeners[i].Target] = true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	gone := 0
	for k, one := range t.all {
		one.settle(t.all[k.rest()], &t.other)
	}
	t.other.settle()
	for k, one := range t.all {
		changes := one.changes()
		used := changes != one.before || one.open() > 0 || declared[pair{k.client, k.target}] ||
			listened[k.target] && (containers[k.client] || k.client == nobody)
		switch {
		case used || one.seen.IsZero():
			one.before, one.seen = changes, now
		case now.Sub(one.seen) >= goneAfter:
			delete(t.all, k)
			gone++
		}
	}
	if gone > 0 {
		clear(t.byLabels)
		clear(t.clients)
		for k, one := range t.all {
			t.byLabels[one.labels] = one
			t.clients[k.client]++
		}
	}
	if gone > 0 || t.missed > 0 {
		t.publish()
		t.full.Store(len(t.all) >= t.most)
	}
}

// settle has the connections that were opened in another series and have ended here be open no longer, in those that
// may have them. All that were told of are counted when it is called.
func (s *series) settle(owners ...*series) {
	lacks := max(0, -s.balance())
	s.elsewhere += lacks
	for _, owner := range owners {
		if owner != nil && owner != s {
			its := min(lacks, owner.open())
			owner.elsewhere -= its
			lacks -= its
		}
	}
}

func labelsOf(k key) labels {
	l := labels{client: label(k.client), project: label(k.project), service: label(k.service), target: label(status.Redacted(k.target))}
	if k.endpoint.IsValid() {
		l.endpoint = k.endpoint.String()
	}
	return l
}

// label is a text that a container or registry chose as the value of a label: bounded, valid UTF-8, and
// without characters that nobody sees. What it returns it leaves as it is.
func label(s string) string {
	if len(s) > mostLabel {
		s = shorten.Text(s, shownLabel)
	}
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
	if len(s) > mostLabel { // U+FFFD took more room than what it stands for
		return label(s)
	}
	return s
}
