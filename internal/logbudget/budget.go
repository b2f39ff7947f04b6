package logbudget

import (
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// budget is what all Handlers made from one share.
type budget struct {
	next slog.Handler

	second atomic.Int64 // of which total is
	total  atomic.Int64 // bytes written in it, about

	mu     sync.Mutex
	shares map[who]int64 // bytes of the second half, by who had them, in this second
	kinds  map[kind]*kindState
	many   int       // how many kinds there are to be when those of no use are looked for
	swept  time.Time // when that was last done
	timer  *time.Timer
}

// who has caused a line.
type who struct {
	from fromWhat
	name string
	net  netip.Addr // in place of name, for an address: the one, or an IPv6 network of 64 bits
}

type fromWhat byte

const (
	fromOurselves fromWhat = iota
	fromContainer
	fromAddress
	fromTarget
)

// keys are the attributes that name each of them.
var keys = [...]string{fromContainer: "client", fromAddress: "source", fromTarget: "target"}

// kind is what the lines of one have in common.
type kind struct {
	message, reason string
	level           slog.Level
	who             who
}

// kindState is how many more of a kind may be written, and how many were not.
type kindState struct {
	left float64 // as of last
	last time.Time
	lost int
	name string // of who, for people
}

func newBudget(next slog.Handler) *budget {
	return &budget{next: next, shares: map[who]int64{}, kinds: map[kind]*kindState{}, many: mostKinds / 8}
}

// admit says whether a record is to be written, and counts it.
func (b *budget) admit(r *slog.Record, m *measure) bool {
	now := r.Time
	if now.IsZero() {
		now = time.Now()
	}
	rated := !free(r)
	if rated {
		if m.identify(r); !b.hasRate(now, r, m) {
			return false
		}
	}
	if second := now.Unix(); second > b.second.Load() {
		b.begin(second)
	}
	size := int64(m.size)
	if b.total.Add(size) <= Bytes/2 {
		return true
	}
	if !rated {
		m.identify(r)
	}
	if b.share(m, size) {
		return true
	}
	b.total.Add(-size)
	b.lose(now, r, m)
	return false
}

// begin begins a second.
func (b *budget) begin(second int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if second > b.second.Load() {
		clear(b.shares)
		b.total.Store(0)
		b.second.Store(second)
	}
}

// share says whether a line of size bytes, which total has, may be written although
// the first half of the budget is used up.
func (b *budget) share(m *measure, size int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	who, total := whoOf(m), b.total.Load()
	had, known := b.shares[who]
	if !known && len(b.shares) >= mostShares && who.from == fromAddress {
		who.net, who.name = netip.Addr{}, ""
		had, known = b.shares[who]
	}
	sharing := int64(len(b.shares))
	if !known {
		sharing++
	}
	fair := had+size <= Bytes/2/sharing && total <= Bytes
	if !fair && (had >= Least || total > 2*Bytes) {
		return false
	}
	b.shares[who] = had + size
	return true
}

// hasRate says whether a kind's rate lets one more line be written. One about a target has
// to pass that of the target and that of who caused it.
func (b *budget) hasRate(now time.Time, r *slog.Record, m *measure) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	by := whoOf(m)
	limit := clientRate
	if by.from == fromOurselves {
		limit = ownRate
	}
	its := kind{r.Message, m.reason, r.Level, by}
	if m.target != "" && r.Message != Connection {
		// A client that has no line left gets no counters for its targets either, or it
		// would have all there are.
		if state := b.kinds[its]; state != nil && state.at(now, limit) < 1 {
			return b.take(now, its, nameOf(m), limit)
		}
		about := by
		about.from, about.name = fromTarget, by.name+"\x00"+m.target
		if !b.take(now, kind{r.Message, m.reason, r.Level, about}, m.target, targetRate) {
			return false
		}
		if by.from == fromTarget {
			return true
		}
	}
	return b.take(now, its, nameOf(m), limit)
}

// take takes one line of a kind, or counts it. It is called with mu held.
func (b *budget) take(now time.Time, k kind, name string, limit rate) bool {
	state := b.stateOf(now, k, name, limit)
	state.left, state.last = state.at(now, limit), now
	if state.left < 1 {
		state.lost++
		b.arm()
		return false
	}
	state.left--
	return true
}

// at is how many lines may be written at now.
func (s *kindState) at(now time.Time, limit rate) float64 {
	return min(limit.burst, s.left+max(0, now.Sub(s.last).Seconds())*limit.perSecond)
}

// lose counts a line that the budget of bytes left out.
func (b *budget) lose(now time.Time, r *slog.Record, m *measure) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stateOf(now, kind{r.Message, m.reason, r.Level, whoOf(m)}, nameOf(m), clientRate).lost++
	b.arm()
}

func (b *budget) stateOf(now time.Time, k kind, name string, limit rate) *kindState {
	if state := b.kinds[k]; state != nil {
		return state
	}
	most := mostKinds
	if k.who.from == fromContainer {
		most *= 2
	}
	if len(b.kinds) >= min(b.many, most) && now.Sub(b.swept) >= toldEvery {
		b.sweep(now)
	}
	if len(b.kinds) >= most { // and all of use
		k.who.name, k.who.net, name = "", netip.Addr{}, "others"
		if state := b.kinds[k]; state != nil {
			return state
		}
	}
	k.message, k.reason, k.who.name = cut(k.message, Field), cut(k.reason, Field), strings.Clone(k.who.name)
	state := &kindState{left: limit.burst, last: now, name: cut(strings.Clone(name), Field)}
	b.kinds[k] = state
	return state
}

// sweep forgets the kinds of which nothing was written for so long that they are as new.
func (b *budget) sweep(now time.Time) {
	const full = 10 * time.Second // by then a rate lets as much through as at first
	for k, state := range b.kinds {
		if state.lost == 0 && now.Sub(state.last) >= full {
			delete(b.kinds, k)
		}
	}
	b.many, b.swept = max(2*len(b.kinds), mostKinds/8), now
}

// whoOf is who caused a record.
func whoOf(m *measure) who {
	switch {
	case m.id != "":
		return who{from: fromContainer, name: bounded(m.id)}
	case m.client != "":
		return who{from: fromContainer, name: bounded(m.client)}
	case m.source != "":
		addr, err := netip.ParseAddrPort(m.source)
		if err != nil {
			return who{from: fromAddress}
		}
		ip := addr.Addr().Unmap().WithZone("")
		if ip.Is6() { // a host has as many addresses there as it likes
			ip = netip.PrefixFrom(ip, 64).Masked().Addr()
		}
		return who{from: fromAddress, net: ip}
	case m.target != "":
		return who{from: fromTarget, name: bounded(m.target)}
	}
	return who{}
}

// bounded is as much of a name as tells one from another, and never a copy.
func bounded(name string) string { return name[:min(len(name), 256)] }

func nameOf(m *measure) string {
	for _, name := range []string{m.client, m.id, m.source, m.target} {
		if name != "" {
			return name
		}
	}
	return ""
}
