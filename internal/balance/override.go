package balance

import (
	"maps"
	"math"
	"net/netip"
	"time"
)

// Override is what an operator has decided of the endpoints at an address, of all pools. It stays until it is
// taken back, whatever sources, checks and connections say meanwhile. The zero value decides nothing.
type Override struct {
	State OverrideState `json:"state,omitempty"`
	// Until is when Ejected ends; zero is never.
	Until time.Time `json:"until,omitzero"`
	// Weight is in place of the endpoint's own; nil leaves that.
	Weight *uint16 `json:"weight,omitempty"`
	// Since is when it was decided.
	Since time.Time `json:"since,omitzero"`
}

// OverrideState is whether an endpoint is chosen.
type OverrideState string

const (
	// Drained is never chosen. Its connections go on.
	Drained OverrideState = "drained"
	// Ejected is chosen for want of others alone, as one that is ejected after failures.
	Ejected OverrideState = "ejected"
)

func (o Override) decides() bool { return o.State != "" || o.Weight != nil }

// overrides are those of all addresses. They do not change.
type overrides map[netip.AddrPort]Override

// Override decides of the endpoints at addr, in place of what was decided before. Their connections go on.
func (r *Registry) Override(addr netip.AddrPort, o Override) {
	r.deciding.Lock()
	defer r.deciding.Unlock()
	next := maps.Clone(r.decided())
	if next == nil {
		next = overrides{}
	}
	now := time.Now()
	maps.DeleteFunc(next, func(at netip.AddrPort, old Override) bool { return at == addr || old.ended(now) }) // or they would pile up
	if o.decides() {
		next[addr] = o
	}
	r.overrides.Store(&next)
	r.each(func(p *Pool) { p.stale.Store(true) })
}

// Overrides is what was decided, by address, but for what time has ended.
func (r *Registry) Overrides() map[netip.AddrPort]Override {
	all, now := map[netip.AddrPort]Override{}, time.Now()
	maps.Copy(all, r.decided())
	maps.DeleteFunc(all, func(_ netip.AddrPort, o Override) bool { return o.ended(now) })
	return all
}

// Pardon ends the ejections, after failures, of the endpoints at addr, and reports whether there was one.
func (r *Registry) Pardon(addr netip.AddrPort) (some bool) {
	r.mu.Lock()
	var all []*health
	for at, h := range r.healths {
		if at.addr == addr {
			all = append(all, h)
		}
	}
	r.mu.Unlock()
	for _, h := range all {
		if e := h.ejection.Load(); e != nil {
			h.pardon(e)
			some = true
		}
	}
	return some
}

func (r *Registry) decided() overrides {
	if all := r.overrides.Load(); all != nil {
		return *all
	}
	return nil
}

func (o Override) over(now time.Time) bool { return !o.Until.IsZero() && !now.Before(o.Until) }

// ended reports whether time has ended all that o decides.
func (o Override) ended(now time.Time) bool {
	return o.State == Ejected && o.Weight == nil && o.over(now)
}

// drains reports whether m is never to be chosen.
func (all overrides) drains(m *member) bool { return len(all) > 0 && all[m.Addr].State == Drained }

// ejects reports whether m is out by an operator's word, and when that ends by time.
func (r *Registry) ejects(all overrides, m *member) (out bool, until int64) {
	if len(all) == 0 {
		return false, 0
	}
	o := all[m.Addr]
	if o.State != Ejected || o.over(time.Now()) {
		return false, 0
	}
	if !o.Until.IsZero() {
		since := r.now()
		until = since + min(int64(time.Until(o.Until)), math.MaxInt64-since) // centuries from now it is the same
	}
	return true, until
}

// weightOf is the weight of m: an operator's, or else its own.
func (all overrides) weightOf(m *member) float64 {
	if len(all) > 0 {
		if w := all[m.Addr].Weight; w != nil {
			return max(float64(*w), leastShare)
		}
	}
	return weightOf(m.Endpoint)
}
