package balance

import (
	"math"
	"testing"
	"testing/synctest"
	"time"
)

// share is the part of connections that one endpoint gets.
func share(t *testing.T, p *Pool, name string) float64 {
	t.Helper()
	n := 0
	const many = 20_000
	for range many {
		u := next(t, p, "")
		if u.Name == name {
			n++
		}
		u.Cancelled()
	}
	return float64(n) / many
}

// wantShare is that of one that weighs weight beside two of 1.
func wantShare(t *testing.T, p *Pool, name string, weight float64) {
	t.Helper()
	want := weight / (2 + weight)
	if got := share(t, p, name); math.Abs(got-want) > 0.015 {
		t.Errorf("%s: share of %s is %.3f; want %.3f", p.options.Policy, name, got, want)
	}
}

// The weight of one that joins others grows to its own over the time; who was there
// from the beginning has it all.
func TestSlowStart(t *testing.T) {
	for _, policy := range []Policy{LeastConnections, RoundRobin, Random} {
		synctest.Test(t, func(t *testing.T) {
			p := newTestPool(Options{Policy: policy, SlowStart: 100 * time.Second}, alike(2)...)
			if got := share(t, p, "e0"); math.Abs(got-0.5) > 0.015 {
				t.Errorf("%s: share of a first endpoint is %.2f; want half", policy, got)
			}
			p.Update(new(int), alike(3))
			wantShare(t, p, "e2", 0.1)
			for _, percent := range []int{25, 50, 75, 99} {
				after := time.Duration(percent) * time.Second
				time.Sleep(after - time.Duration(p.registry.now()-p.snapshot.Load().membership.members[2].joined))
				wantShare(t, p, "e2", float64(percent)/100)
			}
			time.Sleep(time.Second)
			wantShare(t, p, "e2", 1)
			if until := p.snapshot.Load().until; until != 0 {
				t.Error("the snapshot is still made anew by time after the slow start is over")
			}
		})
	}
}

// An endpoint of a first answer, and one that was only away for a moment, are not
// new.
func TestWhoIsNew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newTestPool(Options{SlowStart: time.Minute})
		weight := func(i int) float64 { return p.Status().Members[i].WeightInEffect }
		p.Update(new(int), alike(2))
		if weight(1) != 1 {
			t.Error("an endpoint of the first answer that has any starts slowly")
		}
		p.Update(new(int), alike(1))
		time.Sleep(rejoinFor - 1)
		p.Update(new(int), alike(2))
		if weight(1) != 1 {
			t.Error("one that was away for a moment starts slowly")
		}
		p.Update(new(int), alike(1))
		time.Sleep(rejoinFor)
		p.Update(new(int), alike(2))
		if weight(1) != 0.1 {
			t.Error("one that was away for long does not start slowly")
		}
	})
}

// A recovery is a slow start too.
func TestSlowStartAfterRecovery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newTestPool(Options{Policy: RoundRobin, SlowStart: 100 * time.Second, EjectAfter: 1, EjectFor: time.Second}, alike(3)...)
		failing(t, p, addr(2), 1)
		time.Sleep(time.Second)
		serve(next(t, p, "")) // the probe
		wantShare(t, p, "e2", 0.1)
		time.Sleep(50 * time.Second)
		wantShare(t, p, "e2", 0.5)
		time.Sleep(50 * time.Second)
		wantShare(t, p, "e2", 1)
	})
}

// The near ones first; when they are all ejected, those farther away.
func TestLocality(t *testing.T) {
	endpoints := alike(8)
	for i := range endpoints {
		endpoints[i].Distance = Distance(i / 2)
	}
	p := newTestPool(Options{PreferNear: true, EjectAfter: 1}, endpoints...)
	for range 2 { // this host, then this datacentre
		got := firsts(t, p)
		if len(got) != 2 {
			t.Fatalf("chosen among %v; want two that are equally near", got)
		}
		for a, n := range got {
			if n < 60 {
				t.Errorf("%s was chosen %d times of 200; want about half", a, n)
			}
			failing(t, p, a, 1)
		}
	}
	if got := firsts(t, p); len(got) != 4 {
		t.Errorf("chosen among %v; want the four of unknown and of another place", got)
	}
	p = newTestPool(Options{}, endpoints...)
	if got := firsts(t, p); len(got) != 8 {
		t.Errorf("chosen among %d without preference; want all 8", len(got))
	}
}

// Priority counts more than distance.
func TestPriorityBeforeLocality(t *testing.T) {
	endpoints := alike(2)
	endpoints[0].Priority, endpoints[0].Distance = 1, SameHost
	endpoints[1].Distance = Elsewhere
	p := newTestPool(Options{PreferNear: true}, endpoints...)
	if got := order(p, ""); got[0] != addr(1) {
		t.Errorf("order %v; want the better priority first", got)
	}
}
