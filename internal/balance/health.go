package balance

import (
	"sync"
	"sync/atomic"
	"time"
)

// lapse is how long a failure counts towards "in a row": where connections last
// for days, no success comes in between.
const lapse = 5 * time.Minute

// probeFor is how long a probe may stay without a verdict before another
// connection becomes the probe.
const probeFor = 10 * time.Second

// health is what the host knows of one address, as long as the same has it.
//
// Connections overlap, so what one of them reports may be long out of date. Each
// use therefore remembers the health's mark from when it began. A verdict on
// another era does not count: a dial that began before an ejection and fails after
// the recovery is no new failure. And a success forgives only the failures that
// were known when it began: a connection of an hour ago that ends says nothing of
// the dials that fail now.
type health struct {
	site

	load atomic.Int64 // connections that are open or being opened
	open atomic.Int64 // connections that are open

	// mark is the era, and the number of failures ever, modulo 2^32 each. The era
	// is odd while the address is ejected, and another with each ejection.
	mark     atomic.Uint64
	forgiven atomic.Uint32 // the failures up to this number are no longer in a row

	ejection  atomic.Pointer[ejection] // nil while it is not ejected
	recovered atomic.Int64             // when the last ejection ended by a success; 0 never

	mu     sync.Mutex // for what follows, and for changes of mark, forgiven and ejection
	times  int        // ejections one upon another
	last   int64      // the last failure
	why    string     // and what it was
	alone  string     // the key of the one client that reports the failures in a row; "" if there are several, or a dial is among them
	pools  map[*Pool]struct{}
	checks map[Check]*checker

	refs int   // pools that have it; the registry's mu
	left int64 // when the last of them let it go; likewise
}

// ejection is one time of being ejected.
type ejection struct {
	since, until int64
	why          string
	byDial       bool // by dials that failed, rather than by resets
	// alone is the key of the one client that has reported all of the resets: another one
	// does not heed it. "" if there were several.
	alone string
	// probe is when a connection was let through although it is ejected; 0 when
	// there is none.
	probe atomic.Int64
}

// What may become of an endpoint by a report of a connection, as the log says it.
const (
	ejected   = "endpoint ejected"
	recovered = "endpoint recovered"
)

func eraOf(mark uint64) uint32   { return uint32(mark >> 32) }
func countOf(mark uint64) uint32 { return uint32(mark) }

// failures is how many there have been in a row.
func (h *health) failures() int {
	forgiven := h.forgiven.Load() // before the count, which only grows
	return int(countOf(h.mark.Load()) - forgiven)
}

// claim makes the caller the probe of e.
func (e *ejection) claim(now int64) bool {
	if now < e.until {
		return false
	}
	had := e.probe.Load()
	return (had == 0 || now-had >= int64(probeFor)) && e.probe.CompareAndSwap(had, now)
}

// change is what became of a health by a report.
type change struct {
	what     string // "" when nothing did
	why      string
	failures int
	lasts    time.Duration // of an ejection to come, or of one that is over
}

// report is how a failure was noticed, and by whom.
type report struct {
	byDial bool
	from   *Reporter // nil when it is not known
}

// client is the key of the one client whose word it is: a reset may be the answer to what
// that has sent. A dial that fails anybody's would.
func (r report) client() string {
	if r.byDial || r.from == nil {
		return ""
	}
	return r.from.Key
}

// fail takes note of a failure of a use that began at mark.
func (h *health) fail(mark uint64, o *Options, now int64, why string, by report) change {
	h.mu.Lock()
	defer h.mu.Unlock()
	current := h.mark.Load()
	// A connection that ended an ejection by being opened may still be reset.
	reopened := !by.byDial && eraOf(mark)+1 == eraOf(current) && h.ejection.Load() == nil
	if eraOf(mark) != eraOf(current) && !reopened {
		return change{} // it tells of a time before the last change
	}
	if now-h.last > int64(lapse) && h.ejection.Load() == nil {
		h.forgiven.Store(countOf(current))
	}
	if h.failures() == 0 {
		h.alone = by.client()
	} else if h.alone != by.client() {
		h.alone = ""
	}
	current = current&^0xffffffff | uint64(countOf(current)+1)
	h.mark.Store(current)
	h.last, h.why = now, why

	e := h.ejection.Load()
	switch failures := h.failures(); {
	case e != nil && now < e.until: // it was chosen for want of others
		return change{}
	case e == nil && (o.EjectAfter <= 0 || failures < o.EjectAfter):
		return change{}
	case e == nil: // what is long ago weighs less
		h.times = max(0, h.times-int((now-h.recovered.Load())/int64(o.ejectForMax())))
	}
	lasts := o.ejectFor(h.times)
	h.times++
	h.ejection.Store(&ejection{since: now, until: now + int64(lasts), why: why, byDial: by.byDial, alone: h.alone})
	next := eraOf(current) + 1
	if e != nil {
		next++
	}
	h.mark.Store(uint64(next)<<32 | uint64(countOf(current)))
	h.changed()
	return change{what: ejected, why: why, failures: h.failures(), lasts: lasts}
}

// opened takes note of a dial that was answered. It ends an ejection that is
// half-open, or that was for dials that were not answered. Failures are not
// forgiven yet: who answers and then resets is ejected again by the first reset.
func (h *health) opened(mark uint64, now int64) change {
	if h.ejection.Load() == nil {
		return change{}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	e := h.ejection.Load()
	if e == nil || eraOf(mark) != eraOf(h.mark.Load()) || !e.byDial && now < e.until {
		return change{}
	}
	return h.recover(e, now)
}

// answered takes note of bytes that came.
func (h *health) answered(mark uint64, now int64) change {
	if h.failures() == 0 && h.ejection.Load() == nil {
		return change{}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if known := countOf(mark); int32(known-h.forgiven.Load()) > 0 {
		h.forgiven.Store(known)
	}
	e := h.ejection.Load()
	if e == nil || eraOf(mark) != eraOf(h.mark.Load()) {
		return change{}
	}
	return h.recover(e, now)
}

// recover ends e. It is called with mu held.
func (h *health) recover(e *ejection, now int64) change {
	h.recovered.Store(now)
	h.ejection.Store(nil)
	mark := h.mark.Load()
	h.mark.Store(uint64(eraOf(mark)+1)<<32 | uint64(countOf(mark)))
	h.changed()
	return change{what: recovered, why: e.why, failures: h.failures(), lasts: time.Duration(now - e.since)}
}

// pardon ends an ejection that one client alone has reported, for another: what it was for
// is forgotten.
func (h *health) pardon(e *ejection) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ejection.Load() != e {
		return
	}
	h.ejection.Store(nil)
	mark := h.mark.Load()
	h.mark.Store(uint64(eraOf(mark)+1)<<32 | uint64(countOf(mark)))
	h.forgiven.Store(countOf(mark))
	h.times--
	h.changed()
}

// changed makes every pool that has the address look again. It is called with mu
// held.
func (h *health) changed() {
	for p := range h.pools {
		p.stale.Store(true)
	}
}

// memorable says whether there is anything to remember of it when no pool has it.
func (h *health) memorable(now int64) bool {
	since := h.recovered.Load()
	return h.load.Load() != 0 || h.ejection.Load() != nil || h.failures() != 0 ||
		since != 0 && now-since < int64(rememberFor)
}
