package balance

import (
	"testing"
	"testing/synctest"
	"time"
)

// A drained endpoint gets no connection, not for want of others either, in each policy, and has its own back
// when that is taken back.
func TestDrain(t *testing.T) {
	for _, policy := range policies() {
		p := newTestPool(Options{Policy: policy, EjectAfter: 3, EjectMost: 50}, alike(3)...)
		open := useOf(t, p, addr(0))
		open.Opened()
		p.registry.Override(addr(0), Override{State: Drained})
		if n := firsts(t, p); n[addr(0)] != 0 || n[addr(1)] == 0 {
			t.Errorf("%s: with one drained they are offered first %v times", policy, n)
		}
		c := p.Choose("client")
		if left := c.Left(); left != 2 || c.Drained() != 1 {
			t.Errorf("%s: %d are left, %d drained; want 2 and 1", policy, left, c.Drained())
		}
		failing(t, p, addr(1), 3)
		failing(t, p, addr(2), 3)
		for c = p.Choose("client"); ; {
			u, ok := c.Next()
			if !ok {
				break
			}
			if u.Addr == addr(0) {
				t.Errorf("%s: it is offered for want of others", policy)
			}
			u.Cancelled()
		}
		if s := statusOf(p, addr(0)); s.Open != 1 {
			t.Errorf("%s: it has %d connections; want the one that was open", policy, s.Open)
		}
		open.Closed(Answered)
		p.registry.Override(addr(0), Override{})
		if n := firsts(t, p); n[addr(0)] == 0 {
			t.Errorf("%s: after that was taken back it is never offered first", policy)
		}
		if left := p.registry.Overrides(); len(left) != 0 {
			t.Errorf("%s: %v is left", policy, left)
		}
	}
}

func TestAllAreDrained(t *testing.T) {
	p := newTestPool(Options{}, alike(2)...)
	p.registry.Override(addr(0), Override{State: Drained})
	p.registry.Override(addr(1), Override{State: Drained})
	c := p.Choose("client")
	if u, ok := c.Next(); ok || c.Drained() != 2 || c.Left() != 0 {
		t.Errorf("%v is offered; %d are drained, %d left", u.Addr, c.Drained(), c.Left())
	}
	if s := p.Status(); len(s.Members) != 2 || s.Members[0].Override.State != Drained {
		t.Errorf("the status is %+v; want both, drained", s)
	}
	p.Update(new(int), alike(3)) // one comes
	if n := firsts(t, p); n[addr(2)] != 200 {
		t.Errorf("one that comes is offered first %d times of 200", n[addr(2)])
	}
}

// A choice of a target whose endpoints are drained is passed over, as one that its checks find dead.
func TestAChoiceThatIsDrained(t *testing.T) {
	endpoints := alike(3)
	endpoints[2].Choice = 1
	p := newTestPool(Options{}, endpoints...)
	p.registry.Override(addr(0), Override{State: Drained})
	if n := firsts(t, p); n[addr(1)] != 200 {
		t.Errorf("with one of two drained the other is offered first %d times of 200", n[addr(1)])
	}
	p.registry.Override(addr(1), Override{State: Drained})
	if n := firsts(t, p); n[addr(2)] != 200 {
		t.Errorf("with both drained the next choice's is offered first %d times of 200", n[addr(2)])
	}
	p.registry.Override(addr(2), Override{State: Drained})
	c := p.Choose("client")
	if _, ok := c.Next(); ok {
		t.Error("with all drained one is offered")
	}
	p.registry.Override(addr(0), Override{})
	if n := firsts(t, p); n[addr(0)] != 200 {
		t.Errorf("the first that is back is offered first %d times of 200", n[addr(0)])
	}
}

// An operator's ejection ends by time, needs no probe, holds where nothing else is ejected, and is passed
// over for want of others, as every ejection.
func TestOperatorEjects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, after := range []int{0, 3} {
			p := newTestPool(Options{EjectAfter: after, EjectFor: time.Second}, alike(2)...)
			failing(t, p, addr(0), 3) // its own ejection ends before
			p.registry.Override(addr(0), Override{State: Ejected, Until: time.Now().Add(time.Minute)})
			for range 2 {
				if n := firsts(t, p)[addr(0)]; n != 0 {
					t.Errorf("eject-after %d: it is offered first %d times", after, n)
				}
				time.Sleep(59 * time.Second)
			}
			c := p.Choose("client")
			first, _ := c.Next()
			second, ok := c.Next()
			if !ok || first.Addr == second.Addr {
				t.Errorf("eject-after %d: for want of others it is not offered", after)
			}
			first.Cancelled()
			second.Cancelled()
		}
		p := newTestPool(Options{}, alike(2)...)
		p.registry.Override(addr(0), Override{State: Ejected, Until: time.Now().Add(time.Minute)})
		time.Sleep(time.Minute)
		if n := firsts(t, p)[addr(0)]; n == 0 {
			t.Error("after its time it is never offered first")
		}
		if left := p.registry.Overrides(); len(left) != 0 {
			t.Errorf("after its time %v is left", left)
		}
		p.registry.Override(addr(0), Override{State: Ejected})
		time.Sleep(365 * 24 * time.Hour)
		if n := firsts(t, p)[addr(0)]; n != 0 {
			t.Errorf("an ejection without end is over after a year: %d", n)
		}
	})
}

func TestWeightByOperator(t *testing.T) {
	weight := func(n uint16) *uint16 { return &n }
	for _, policy := range []Policy{Random, Source, RoundRobin} {
		p := newTestPool(Options{Policy: policy}, alike(2)...)
		p.registry.Override(addr(0), Override{Weight: weight(0)})
		if n := firsts(t, p)[addr(0)]; n > 20 {
			t.Errorf("%s: with weight 0 it is offered first %d times of 200", policy, n)
		}
		p.registry.Override(addr(0), Override{Weight: weight(100 * alike(1)[0].Weight)})
		if n := firsts(t, p)[addr(0)]; n < 180 {
			t.Errorf("%s: with a hundred times the weight it is offered first %d times of 200", policy, n)
		}
	}
}

func TestPardon(t *testing.T) {
	p := newTestPool(Options{EjectAfter: 1, EjectFor: time.Hour}, alike(2)...)
	if p.registry.Pardon(addr(0)) {
		t.Error("an endpoint that is well was pardoned")
	}
	failing(t, p, addr(0), 1)
	if !p.registry.Pardon(addr(0)) || isEjected(p, addr(0)) || firsts(t, p)[addr(0)] == 0 {
		t.Error("it is not pardoned")
	}
}

// An operator's ejection of most endpoints is no panic: they are still there for want of others alone.
func TestEjectionOfMostHolds(t *testing.T) {
	p := newTestPool(Options{EjectAfter: 3, EjectMost: 50}, alike(3)...)
	for i := range 2 {
		p.registry.Override(addr(i), Override{State: Ejected})
	}
	if n := firsts(t, p); n[addr(2)] != 200 {
		t.Errorf("the one that is not ejected is offered first %d times of 200", n[addr(2)])
	}
	failing(t, p, addr(2), 3) // all that is left: that is the panic
	if n := firsts(t, p); n[addr(2)] != 200 || !p.Status().Panic {
		t.Errorf("when it fails it is offered first %d times of 200, panic %v", n[addr(2)], p.Status().Panic)
	}
	c := p.Choose("client")
	offered := 0
	for u, ok := c.Next(); ok; u, ok = c.Next() {
		u.Cancelled()
		offered++
	}
	if offered != 3 {
		t.Errorf("for want of others %d are offered in all; want 3", offered)
	}
}

// An end that is centuries away makes no snapshot wrong before.
func TestEjectionForCenturies(t *testing.T) {
	p := newTestPool(Options{}, alike(2)...)
	time.Sleep(2 * time.Millisecond)
	p.registry.Override(addr(0), Override{State: Ejected, Until: time.Now().Add(1<<63 - 1)})
	if snap := p.current(); snap.until < 0 || p.current() != snap {
		t.Errorf("the snapshot is wrong at %d, and made anew each time", snap.until)
	}
}

// What time has ended is not kept: an operator's program may eject others each minute for years.
func TestEjectionsThatEndedArePutAway(t *testing.T) {
	p := newTestPool(Options{}, alike(2)...)
	for i := range 100 {
		p.registry.Override(addr(i), Override{State: Ejected, Until: time.Now().Add(-time.Second)})
	}
	if n := len(p.registry.decided()); n > 1 {
		t.Errorf("%d that have ended are kept", n)
	}
}
