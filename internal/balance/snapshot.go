package balance

import (
	"slices"
	"time"
)

const (
	// leastShare is the weight in effect of an endpoint of weight 0.
	leastShare = 0.01
	// startShare is the part of its weight with which a slow start begins.
	startShare = 0.1
	// slowSteps is in how many steps the weight then grows.
	slowSteps = 100
)

// snapshot is how a pool looks at one moment: which members are well, and what weighs how much.
// It does not change.
type snapshot struct {
	membership *membership
	choice     int      // the Choice that is used
	members    []member // of the membership: those of that choice that are not drained
	drained    int      // members of that choice that are
	groups     []group  // in the order in which to try them
	until      int64    // when it is to be made anew; 0 when no time makes it wrong
	out        int      // members that are out
	panic      bool     // so many are out that nobody counts as out
	taken      int64    // when it was made
}

// snapshotPause is the least time between two snapshots of a pool with so many members. A
// snapshot of thousands takes a tenth of a millisecond, and where thousands fail one after
// the other it would be made for each of them, in all pools that have these addresses. A pool of
// the usual size has none.
func snapshotPause(members int) time.Duration {
	const usual, each = 256, 2 * time.Microsecond
	if members <= usual {
		return 0
	}
	return time.Duration(members) * each
}

// restsFor is how long snap is to be kept from now on, whatever changes.
func (snap *snapshot) restsFor(now int64) time.Duration {
	return snapshotPause(len(snap.membership.members)) - time.Duration(now-snap.taken)
}

// group is the members that are equally good by priority and distance.
type group struct {
	well    []*member
	weights []float64 // of those, in effect
	sums    []float64 // of those up to each; nil when all weigh the same
	memo    *memo     // of policy Source, nil when it is not worth it
	// halfOpen are out, but due for a probe.
	halfOpen []*member
	// out are those who are not well, halfOpen included.
	out []*member
}

// takeSnapshot makes a snapshot. It is called with p.mu held.
func (p *Pool) takeSnapshot(of *membership, now int64) *snapshot {
	decided := p.registry.decided()
	snap := &snapshot{membership: of, taken: now, members: choose(of.members, decided)}
	if all := len(snap.members); slices.ContainsFunc(snap.members, func(m member) bool { return decided.drains(&m) }) {
		snap.members = slices.DeleteFunc(slices.Clone(snap.members), func(m member) bool { return decided.drains(&m) })
		snap.drained = all - len(snap.members)
	}
	if len(snap.members) > 0 {
		snap.choice = snap.members[0].Choice
	}
	outs := make([]bool, len(snap.members))
	byOperator := 0
	for i := range snap.members {
		if out, until := p.isOut(&snap.members[i], now); out {
			outs[i] = true
			snap.out++
			snap.wrongAt(until)
			if p.ejectedByOperator(&snap.members[i]) {
				byOperator++
			}
		}
	}
	// An operator who ejects most of them means it: the threshold is about those that are left.
	most := p.options.EjectMost
	snap.panic = most > 0 && (snap.out-byOperator)*100 > most*(len(snap.members)-byOperator)

	for from := 0; from < len(snap.members); {
		first := &snap.members[from]
		to := from + 1
		for to < len(snap.members) && snap.members[to].Priority == first.Priority &&
			p.distance(snap.members[to].Endpoint) == p.distance(first.Endpoint) {
			to++
		}
		snap.groups = append(snap.groups, p.groupOf(snap, snap.members[from:to], outs[from:to], now))
		from = to
	}
	return snap
}

// choose returns the members of the first choice that has one which its check has not found down;
// those of the first of all if there is none. A check needs several results in a row for either
// verdict (Check.Fall, Check.Rise), so that the choice changes no more often than that. One that an
// operator has drained counts as down.
func choose(members []member, decided overrides) []member {
	first := members
	for from := 0; from < len(members); {
		to, down := from, true
		for to < len(members) && members[to].Choice == members[from].Choice {
			down = down && (members[to].check != nil && members[to].check.down() || decided.drains(&members[to]))
			to++
		}
		switch {
		case !down:
			return members[from:to]
		case from == 0:
			first = members[:to]
		}
		from = to
	}
	return first
}

func (p *Pool) groupOf(snap *snapshot, members []member, outs []bool, now int64) group {
	var g group
	for i := range members {
		m := &members[i]
		if outs[i] && (!snap.panic || p.ejectedByOperator(m)) {
			g.out = append(g.out, m)
			if p.due(m, now) {
				g.halfOpen = append(g.halfOpen, m)
			}
			continue
		}
		weight, until := p.weight(m, now)
		snap.wrongAt(until)
		g.well = append(g.well, m)
		g.weights = append(g.weights, weight)
	}
	if p.options.Policy == Source && len(g.well) >= worthAMemo && len(g.well) < mostInAMemo {
		g.memo = new(memo)
	}
	if slices.ContainsFunc(g.weights, func(w float64) bool { return w != g.weights[0] }) {
		g.sums = make([]float64, len(g.weights))
		sum := 0.0
		for i, w := range g.weights {
			sum += w
			g.sums[i] = sum
		}
	}
	return g
}

// wrongAt says that from t on the snapshot is another; 0 is never.
func (snap *snapshot) wrongAt(t int64) {
	if t != 0 && (snap.until == 0 || t < snap.until) {
		snap.until = t
	}
}

func (p *Pool) ejectedByOperator(m *member) bool {
	out, _ := p.registry.ejects(p.registry.decided(), m)
	return out
}

// isOut says whether m is ejected or out by its check, and when that may change by
// time alone.
func (p *Pool) isOut(m *member, now int64) (out bool, until int64) {
	if out, until := p.registry.ejects(p.registry.decided(), m); out {
		return true, until
	}
	if m.check != nil && m.check.down() {
		out = true
	}
	if p.options.EjectAfter <= 0 {
		return out, 0
	}
	if e := m.health.ejection.Load(); e != nil {
		out = true
		if now < e.until {
			until = e.until
		}
	}
	return out, until
}

// due says whether m, which is out, may be probed. A member that its check finds
// down will be found well again by the check.
func (p *Pool) due(m *member, now int64) bool {
	if p.options.EjectAfter <= 0 || m.check != nil && m.check.down() {
		return false
	}
	if p.ejectedByOperator(m) {
		return false
	}
	e := m.health.ejection.Load()
	return e != nil && now >= e.until
}

// weight is the weight of m in effect, and when it is to be looked at again.
func (p *Pool) weight(m *member, now int64) (weight float64, until int64) {
	weight = p.registry.decided().weightOf(m)
	slow := int64(p.options.SlowStart)
	if slow <= 0 {
		return weight, 0
	}
	began := m.joined
	if p.options.EjectAfter > 0 {
		began = max(began, m.health.recovered.Load())
	}
	if m.check != nil {
		began = max(began, m.check.risen.Load())
	}
	age := now - began
	if began == 0 || age >= slow {
		return weight, 0
	}
	step := max(slow/slowSteps, int64(time.Millisecond))
	return weight * max(startShare, float64(age)/float64(slow)), now + step
}

func weightOf(e Endpoint) float64 { return max(float64(e.Weight), leastShare) }
