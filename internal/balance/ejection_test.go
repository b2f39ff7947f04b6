package balance

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// firsts is who is offered first in many connections.
func firsts(t testing.TB, p *Pool) map[netip.AddrPort]int {
	t.Helper()
	count := make(map[netip.AddrPort]int)
	for i := range 200 {
		u := next(t, p, fmt.Sprint("client ", i))
		count[u.Addr]++
		u.Cancelled()
	}
	return count
}

// Failures in a row eject, in each policy, and a success in between forgives them.
func TestEjection(t *testing.T) {
	for _, policy := range policies() {
		synctest.Test(t, func(t *testing.T) {
			p := newTestPool(Options{Policy: policy, EjectAfter: 3, EjectFor: 10 * time.Second}, alike(3)...)
			failing(t, p, addr(0), 2)
			serve(useOf(t, p, addr(0)))
			failing(t, p, addr(0), 2)
			if isEjected(p, addr(0)) {
				t.Fatalf("%s: ejected after two in a row; want three", policy)
			}
			failing(t, p, addr(0), 1)
			if s := statusOf(p, addr(0)); !s.Ejected || s.EjectedUntil.Sub(s.EjectedSince) != 10*time.Second ||
				s.Why != errRefused.Error() || s.Failures != 3 || s.Ejections != 1 {
				t.Fatalf("%s: after three in a row: %+v", policy, s)
			}
			time.Sleep(10*time.Second - 1)
			if n := firsts(t, p)[addr(0)]; n != 0 {
				t.Errorf("%s: the ejected endpoint was offered first to %d connections", policy, n)
			}
		})
	}
}

// What is known of a container at an address says nothing of the next one there, nor is it
// lost while another has the address.
func TestEjectionGoesByHolder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		endpoints := alike(2)
		held := func(holder string) []Endpoint {
			next := slices.Clone(endpoints)
			next[0].Holder = holder
			return next
		}
		p := newTestPool(Options{EjectAfter: 1, EjectFor: time.Minute}, held("first")...)
		ejected := func() bool {
			members := p.Status().Members
			return slices.ContainsFunc(members, func(m MemberStatus) bool { return m.Addr == addr(0) && m.Health.Ejected })
		}
		failing(t, p, addr(0), 1)
		if !ejected() {
			t.Fatal("it is not ejected")
		}
		p.Update(new(int), held("second"))
		if ejected() {
			t.Error("who has the address now is ejected for who had it before")
		}
		p.Update(new(int), held("first"))
		if !ejected() {
			t.Error("its ejection was forgotten")
		}
	})
}

// What counts as a failure, and what does not.
func TestWhatEjects(t *testing.T) {
	for name, test := range map[string]struct {
		report func(Use)
		want   bool
	}{
		"refused":                {func(u Use) { u.Failed(syscall.ECONNREFUSED) }, true},
		"timed out":              {func(u Use) { u.Failed(context.DeadlineExceeded) }, true},
		"unreachable":            {func(u Use) { u.Failed(syscall.EHOSTUNREACH) }, true},
		"reset before any byte":  {func(u Use) { u.Opened(); u.Closed(Reset) }, true},
		"answered":               {func(u Use) { u.Opened(); u.Closed(Answered) }, false},
		"silent":                 {func(u Use) { u.Opened(); u.Closed(Silent) }, false},
		"cancelled":              {func(u Use) { u.Cancelled() }, false},
		"context cancelled":      {func(u Use) { u.Failed(fmt.Errorf("dial: %w", context.Canceled)) }, false},
		"no descriptors left":    {func(u Use) { u.Failed(os.NewSyscallError("socket", syscall.EMFILE)) }, false},
		"no local ports left":    {func(u Use) { u.Failed(os.NewSyscallError("connect", syscall.EADDRNOTAVAIL)) }, false},
		"no error, as it claims": {func(u Use) { u.Failed(nil) }, false},
	} {
		p := newTestPool(Options{EjectAfter: 3}, alike(2)...)
		for range 3 {
			test.report(useOf(t, p, addr(0)))
		}
		if got := isEjected(p, addr(0)); got != test.want {
			t.Errorf("%s: ejected %v; want %v", name, got, test.want)
		}
		if s := statusOf(p, addr(0)); s.Open != 0 || s.Opening != 0 {
			t.Errorf("%s: %d open, %d opening are left", name, s.Open, s.Opening)
		}
	}
}

// A frozen process: its kernel still answers dials for a while, clients leave
// without a byte, older connections end well, and then dials time out. None of it
// hides the others.
func TestFrozenIsEjected(t *testing.T) {
	p := newTestPool(Options{EjectAfter: 3}, alike(2)...)
	old := useOf(t, p, addr(0))
	old.Opened()
	failing(t, p, addr(0), 1)
	silent := useOf(t, p, addr(0))
	silent.Opened()
	silent.Closed(Silent)
	failing(t, p, addr(0), 1)
	old.Closed(Answered)
	failing(t, p, addr(0), 1)
	if !isEjected(p, addr(0)) {
		t.Error("not ejected after three dials in a row that failed")
	}
}

// A success forgives what was known when it began, not what came after.
func TestForgiving(t *testing.T) {
	p := newTestPool(Options{EjectAfter: 3}, alike(2)...)
	failing(t, p, addr(0), 2)
	u := useOf(t, p, addr(0))
	failing(t, p, addr(0), 0)
	u.Opened()
	u.Closed(Answered)
	failing(t, p, addr(0), 2)
	if isEjected(p, addr(0)) {
		t.Error("ejected by failures of which two were forgiven")
	}
}

// Failures that are far apart are not in a row: there may have been days of good
// connections in between that are still open.
func TestFailuresLapse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newTestPool(Options{EjectAfter: 3}, alike(2)...)
		for range 10 {
			failing(t, p, addr(0), 1)
			sleep(lapse + time.Second)
		}
		if isEjected(p, addr(0)) {
			t.Error("ejected by ten failures in an hour")
		}
	})
}

// When the time is over, one connection is the probe. Others go elsewhere until it
// has opened.
func TestHalfOpen(t *testing.T) {
	for _, policy := range []Policy{"", RoundRobin, Random} {
		synctest.Test(t, func(t *testing.T) {
			p := newTestPool(Options{Policy: policy, EjectAfter: 3, EjectFor: 10 * time.Second}, alike(3)...)
			failing(t, p, addr(0), 3)
			sleep(10 * time.Second)
			probe := next(t, p, "")
			if probe.Addr != addr(0) {
				t.Fatalf("%s: %s comes first; want the probe", policy, probe.Addr)
			}
			if n := firsts(t, p)[addr(0)]; n != 0 {
				t.Errorf("%s: %d more were let through with the probe", policy, n)
			}
			if s := statusOf(p, addr(0)); !s.Ejected || !s.Probing {
				t.Errorf("%s: status while it is probed: %+v", policy, s)
			}
			probe.Opened()
			probe.Closed(Answered)
			if n := firsts(t, p)[addr(0)]; n == 0 {
				t.Errorf("%s: not chosen after the probe has opened", policy)
			}
		})
	}
}

// A probe that fails ejects for twice as long, up to the most.
func TestEjectionDoubles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newTestPool(Options{EjectAfter: 3, EjectFor: 10 * time.Second, EjectForMax: time.Minute}, alike(3)...)
		failing(t, p, addr(0), 3)
		for _, want := range []time.Duration{10 * time.Second, 20 * time.Second, 40 * time.Second, time.Minute, time.Minute} {
			s := statusOf(p, addr(0))
			if got := s.EjectedUntil.Sub(s.EjectedSince); !s.Ejected || got != want {
				t.Fatalf("ejected for %s; want %s", got, want)
			}
			sleep(want - 1)
			if n := firsts(t, p)[addr(0)]; n != 0 {
				t.Fatalf("chosen by %d before its time was over", n)
			}
			sleep(1)
			probe := next(t, p, "")
			if probe.Addr != addr(0) {
				t.Fatalf("%s comes first; want the probe", probe.Addr)
			}
			probe.Failed(errRefused)
		}
	})
}

// The count of ejections decays: what is long ago does not make the next one long.
func TestEjectionsDecay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newTestPool(Options{EjectAfter: 1, EjectFor: 10 * time.Second, EjectForMax: time.Minute}, alike(2)...)
		ejectedFor := func(want time.Duration) {
			t.Helper()
			failing(t, p, addr(0), 1)
			s := statusOf(p, addr(0))
			if got := s.EjectedUntil.Sub(s.EjectedSince); got != want {
				t.Fatalf("ejected for %s; want %s", got, want)
			}
			sleep(want)
			serve(next(t, p, ""))
			if isEjected(p, addr(0)) {
				t.Fatal("still ejected after the probe succeeded")
			}
		}
		ejectedFor(10 * time.Second)
		ejectedFor(20 * time.Second)
		ejectedFor(40 * time.Second)
		sleep(2 * time.Minute)
		ejectedFor(20 * time.Second)
		sleep(time.Hour)
		ejectedFor(10 * time.Second)
	})
}

// Nobody comes with a verdict: the next one is the probe, after a while; at once when
// the probe was given up.
func TestProbeIsNotWaitedForForever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newTestPool(Options{EjectAfter: 1, EjectFor: time.Second}, alike(2)...)
		failing(t, p, addr(0), 1)
		sleep(time.Second)
		if lost := next(t, p, ""); lost.Addr != addr(0) {
			t.Fatal("no probe")
		}
		sleep(probeFor - 1)
		if u := next(t, p, ""); u.Addr == addr(0) {
			t.Fatal("a second probe before its time")
		}
		sleep(1)
		second := next(t, p, "")
		if second.Addr != addr(0) {
			t.Fatal("no second probe")
		}
		second.Cancelled()
		if u := next(t, p, ""); u.Addr != addr(0) {
			t.Error("no probe after one was given up")
		}
	})
}

// An answer to the dial is not enough for one that was ejected for resets: it is let
// in, and the first reset puts it out again, for longer.
func TestResetAfterProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newTestPool(Options{EjectAfter: 3, EjectFor: 10 * time.Second}, alike(2)...)
		reset := func(u Use) { u.Opened(); u.Closed(Reset) }
		for range 3 {
			reset(useOf(t, p, addr(0)))
		}
		last := useOf(t, p, addr(0)) // for want of others, say
		if last.Opened(); !isEjected(p, addr(0)) {
			t.Error("an answer to the dial ended an ejection for resets before its time")
		}
		last.Closed(Reset)
		sleep(10 * time.Second)
		reset(next(t, p, ""))
		if s := statusOf(p, addr(0)); !s.Ejected || s.EjectedUntil.Sub(s.EjectedSince) != 20*time.Second {
			t.Errorf("after a probe that was reset: %+v; want 20 s of ejection", s)
		}
	})
}

// When all others are gone too, an ejected endpoint is tried, and if it serves it is
// let in again at once.
func TestLastResortRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newTestPool(Options{EjectAfter: 1, EjectFor: time.Hour}, alike(1)...)
		failing(t, p, addr(0), 1)
		u := next(t, p, "")
		if !isEjected(p, addr(0)) {
			t.Fatal("not ejected")
		}
		u.Opened()
		if isEjected(p, addr(0)) {
			t.Error("still ejected although it answers")
		}
	})
}

// Verdicts of uses that began before an ejection or a recovery are out of date.
func TestLateVerdicts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newTestPool(Options{EjectAfter: 1, EjectFor: 10 * time.Second}, alike(2)...)
		good, bad := useOf(t, p, addr(0)), useOf(t, p, addr(0))
		failing(t, p, addr(0), 1)
		good.Opened()
		good.Closed(Answered)
		if !isEjected(p, addr(0)) {
			t.Error("a success that began before the ejection ended it")
		}
		sleep(10 * time.Second)
		serve(next(t, p, ""))
		bad.Failed(errRefused)
		if isEjected(p, addr(0)) {
			t.Error("a dial that began before the recovery ejected it again")
		}
	})
}

// The panic threshold: as long as no more than so many are ejected they are passed
// over; with one more, nobody is.
func TestPanic(t *testing.T) {
	for most, ejected := range map[int]int{10: 1, 34: 3, 50: 5, 99: 9} {
		p := newTestPool(Options{Policy: RoundRobin, EjectAfter: 1, EjectMost: most}, alike(10)...)
		for i := range ejected {
			failing(t, p, addr(i), 1)
		}
		count := firsts(t, p)
		for i := range 10 {
			if (count[addr(i)] == 0) != (i < ejected) {
				t.Errorf("%d%%, %d of 10 ejected: endpoint %d was chosen %d times", most, ejected, i, count[addr(i)])
			}
		}
		failing(t, p, addr(ejected), 1)
		if s := p.Status(); !s.Panic || s.Out != ejected+1 || len(firsts(t, p)) != 10 {
			t.Errorf("%d%%, %d of 10 ejected: panic %v, %d chosen; want all", most, ejected+1, s.Panic, len(firsts(t, p)))
		}
	}
}

// Health belongs to the host: another target's pool, with other options, passes over
// whom this one has ejected. A pool that never ejects does not look.
func TestHealthIsShared(t *testing.T) {
	r := New(Config{})
	pools := map[string]*Pool{}
	for name, o := range map[string]Options{"ejects": {EjectAfter: 1}, "profits": {EjectAfter: 100}, "ignores": {}} {
		pools[name] = r.Pool("target "+name, o)
		pools[name].Update(new(int), alike(3))
	}
	failing(t, pools["ejects"], addr(0), 1)
	for name, want := range map[string]int{"ejects": 2, "profits": 2, "ignores": 3} {
		if got := len(firsts(t, pools[name])); got != want {
			t.Errorf("the pool that %s chooses among %d; want %d", name, got, want)
		}
	}
}

// An affine client's endpoint is probed by a client whose own it is, so that nobody
// else is moved; and First probes only what is before the one it uses.
func TestProbeKeepsAffinityAndOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newTestPool(Options{Policy: Source, EjectAfter: 1, EjectFor: time.Second}, alike(5)...)
		home := make(map[string]netip.AddrPort)
		for i := range 200 {
			client := fmt.Sprint("client ", i)
			home[client] = order(p, client)[0]
		}
		failing(t, p, addr(0), 1)
		sleep(time.Second)
		for client, want := range home {
			u := next(t, p, client)
			if want != addr(0) && u.Addr != want {
				t.Fatalf("%s went to %s; want its own %s", client, u.Addr, want)
			}
			u.Cancelled()
		}
		p = newTestPool(Options{Policy: First, EjectAfter: 1, EjectFor: time.Second}, alike(3)...)
		failing(t, p, addr(2), 1)
		sleep(time.Second)
		if u := next(t, p, ""); u.Addr != addr(0) {
			t.Errorf("policy first goes to %s to probe it; want the first", u.Addr)
		}
		failing(t, p, addr(0), 1)
		sleep(time.Second)
		if u := next(t, p, ""); u.Addr != addr(0) {
			t.Errorf("policy first goes to %s; want the first, to probe it", u.Addr)
		}
	})
}

// One line when it is ejected and one when it is back, with all that one wants to
// know.
func TestLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		p := New(Config{Log: slog.New(slog.NewTextHandler(&log, nil))}).Pool("redis.service", Options{EjectAfter: 3, EjectFor: 10 * time.Second})
		p.Update(new(int), alike(2))
		failing(t, p, addr(0), 3)
		failing(t, p, addr(0), 3) // for want of others
		sleep(10 * time.Second)
		serve(next(t, p, ""))
		serve(useOf(t, p, addr(0)))
		lines := strings.Split(strings.TrimSpace(log.String()), "\n")
		want := []string{
			`level=WARN msg="endpoint ejected" endpoint=10.0.0.0:80 name=e0 target=redis.service why="connection refused" failures=3 for=10s`,
			`level=INFO msg="endpoint recovered" endpoint=10.0.0.0:80 name=e0 target=redis.service why="connection refused" failures=6 after=10s`,
		}
		if len(lines) != len(want) || !strings.HasSuffix(lines[0], want[0]) || !strings.HasSuffix(lines[1], want[1]) {
			t.Errorf("logged\n%s\nwant\n%s", log.String(), strings.Join(want, "\n"))
		}
	})
}

// Ejections are to be seen in a sensible order by those who ask.
func TestStatus(t *testing.T) {
	p := newTestPool(Options{EjectAfter: 1}, weighted(0, 4)...)
	failing(t, p, addr(1), 1)
	held := next(t, p, "")
	held.Opened()
	next(t, p, "")
	s := p.Status()
	weights := []float64{s.Members[0].WeightInEffect, s.Members[1].WeightInEffect}
	if s.Target != "target" || s.Out != 1 || s.Panic || !slices.Equal(weights, []float64{0.01, 4}) || !s.Members[1].Out || s.Members[0].Out {
		t.Errorf("status %+v", s)
	}
	if h := s.Members[0].Health; h.Open != 1 || h.Opening != 1 || h.Pools != 1 {
		t.Errorf("health %+v; want one open, one opening, one pool", h)
	}
	if all := p.registry.Pools(); len(all) != 1 || all[0].Target != "target" {
		t.Errorf("pools %+v", all)
	}
}
