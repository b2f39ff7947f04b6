package metrics

import (
	"sync/atomic"
	"time"

	"github.com/ambassadord/ambassadord/proxy"
)

// connectionCounts counts connections. Each of its methods adds a few numbers, so who reads it meanwhile may see some
// of them: closed is read before opened, so that it is never the larger.
type connectionCounts struct {
	opened, closed   atomic.Int64
	up, down         atomic.Int64 // bytes
	dials            atomic.Int64
	answered, waited atomic.Int64 // those that got an endpoint, and the microseconds until they had
	failed           [mostReasons]atomic.Int64
}

// total is the connectionCounts of all connections.
type total struct {
	connectionCounts
	established, unanswered durationCounts // by how long it took
	duration                durationCounts
}

func (t *connectionCounts) opens(answered bool, dials int, held time.Duration) {
	t.opened.Add(1)
	t.dials.Add(int64(dials))
	if answered {
		t.answered.Add(1)
		t.waited.Add(micros(held))
	}
}

func (t *total) opens(answered bool, dials int, held time.Duration) {
	t.connectionCounts.opens(answered, dials, held)
	if answered {
		t.established.observe(held)
	} else {
		t.unanswered.observe(held)
	}
}

func (t *connectionCounts) moves(up, down int64) {
	if up != 0 {
		t.up.Add(up)
	}
	if down != 0 {
		t.down.Add(down)
	}
}

// closes counts an end, by the index of its reason; -1 for a clean one.
func (t *connectionCounts) closes(why int) {
	if why >= 0 {
		t.failed[why].Add(1)
	}
	t.closed.Add(1)
}

// open is how many have not ended.
func (t *connectionCounts) open() int64 {
	closed := t.closed.Load()
	return max(0, t.opened.Load()-closed)
}

// changes is another number whenever something has been counted.
func (t *connectionCounts) changes() int64 {
	return t.opened.Load() + t.closed.Load() + t.up.Load() + t.down.Load()
}

// mostReasons is for how many reasons there is room.
const mostReasons = 24

// reasons are the values of the label "reason": those of package proxy, in its order, and one for an error
// without any.
var reasons = func() []string {
	var all []string
	for _, r := range proxy.Reasons() {
		all = append(all, string(r))
	}
	return append(all, others)
}()

var reasonsByName = func() map[string]int {
	m := map[string]int{}
	for i, r := range reasons {
		m[r] = i
	}
	return m
}()

// reasonIndex is the index in reasons of err's, -1 for nil.
func reasonIndex(err error) int {
	if err == nil {
		return -1
	}
	if i, ok := reasonsByName[string(proxy.ReasonOf(err))]; ok {
		return i
	}
	return len(reasons) - 1
}

// bounds are the upper bounds of the buckets of a histogram; the last bucket has none.
var bounds = [...]time.Duration{
	time.Millisecond, 5 * time.Millisecond, 25 * time.Millisecond, 100 * time.Millisecond, 500 * time.Millisecond, 2500 * time.Millisecond,
	10 * time.Second, time.Minute, 10 * time.Minute, time.Hour, 24 * time.Hour,
}

// durationCounts counts durations by how long they are.
type durationCounts struct {
	buckets [len(bounds) + 1]atomic.Int64
	sum     atomic.Int64 // microseconds
}

func (d *durationCounts) observe(took time.Duration) {
	i := 0
	for i < len(bounds) && took > bounds[i] {
		i++
	}
	d.buckets[i].Add(1)
	d.sum.Add(micros(took))
}

// micros is a duration in microseconds, of which sums are: thousands of connections that go on for days
// come to more nanoseconds than there is room for.
func micros(d time.Duration) int64 { return int64(d.Round(time.Microsecond) / time.Microsecond) }

// seconds are those of a sum.
func seconds(sum *atomic.Int64) float64 { return float64(sum.Load()) / 1e6 }
