package balance

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// What is known of an address outlives its leaving, for a while.
func TestHealthOutlivesLeaving(t *testing.T) {
	running(t, newWorld(), nil, func(t *testing.T, r *Registry) {
		p := r.Pool("web", Options{EjectAfter: 1, EjectFor: time.Hour, EjectForMax: time.Hour})
		come := func(n int) { p.Update(new(int), alike(n)) }
		come(2)
		failing(t, p, addr(1), 1)
		held := useOf(t, p, addr(0))
		come(0)
		sleep(rememberFor - time.Minute)
		come(2)
		if got := order(p, ""); got[0] != addr(0) {
			t.Errorf("order %v; want the one that was ejected before it left last", got)
		}
		come(0)
		sleep(rememberFor + time.Minute)
		if n := len(r.Status()); n != 1 {
			t.Errorf("%d addresses are remembered; want the one with a connection", n)
		}
		held.Cancelled()
		sleep(time.Minute)
		if n := len(r.Status()); n != 0 {
			t.Errorf("%d addresses are remembered; want none", n)
		}
		come(2)
		if isEjected(p, addr(1)) {
			t.Error("an address that was away for long is still ejected")
		}
	})
}

// A pool that nobody chooses from is forgotten, and who holds it still can choose.
func TestPoolsAreForgotten(t *testing.T) {
	running(t, newWorld(), nil, func(t *testing.T, r *Registry) {
		o := Options{EjectAfter: 1}
		p, version := r.Pool("web", o), new(int)
		p.Update(version, alike(2))
		if p.Forgotten() {
			t.Error("a pool is forgotten from the start")
		}
		sleep(forgetAfter + time.Minute)
		if !p.Forgotten() || r.Pool("web", o).Forgotten() {
			t.Error("who has kept a pool does not learn that it is forgotten, or the next one is as well")
		}
		sleep(forgetAfter + time.Minute)
		if len(r.Pools()) != 0 || len(r.Status()) != 0 {
			t.Errorf("%d pools and %d addresses are left", len(r.Pools()), len(r.Status()))
		}
		p.Update(version, nil)
		next(t, p, "").Cancelled()
		p.Update(new(int), alike(3))
		if n := len(firsts(t, p)); n != 3 {
			t.Errorf("a pool that was forgotten chooses among %d; want 3", n)
		}
		if n := len(r.Status()); n != 0 {
			t.Errorf("it left %d addresses that nobody will let go of", n)
		}
		if r.Pool("web", o) == p {
			t.Error("it is still handed out")
		}
	})
}

// 100,000 addresses that come, fail and go leave a bounded number behind.
func TestMemoryIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(Config{})
		p := r.Pool("web", Options{EjectAfter: 1, SlowStart: time.Minute, Check: Check{Kind: TCPCheck}})
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		const at = 100
		for i := range 100_000 / at {
			endpoints := alike(at)
			for k := range endpoints {
				endpoints[k].Addr = addr(i*at + k)
			}
			p.Update(new(int), endpoints)
			for range at {
				next(t, p, "").Failed(errRefused)
			}
		}
		p.Update(new(int), nil)
		if n := len(r.Status()); n > mostRemembered {
			t.Errorf("%d addresses are remembered; want %d at most", n, mostRemembered)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 16<<20 {
			t.Errorf("the heap has grown by %d MB", grown>>20)
		}
		runtime.KeepAlive(r)
	})
}

// Everybody does everything at once. The race detector looks on, and at the end
// nothing is left open.
func TestConcurrentUse(t *testing.T) {
	w := newWorld()
	r := New(Config{Dial: w.dial})
	ctx, cancel := context.WithCancel(t.Context())
	var run, wg sync.WaitGroup
	run.Go(func() { _ = r.Run(ctx) })
	options := []Options{
		{EjectAfter: 2, EjectFor: time.Millisecond, EjectMost: 50, SlowStart: 10 * time.Millisecond},
		{Policy: RoundRobin, EjectAfter: 1, EjectFor: time.Microsecond, PreferNear: true},
		{Policy: Source, EjectAfter: 3}, {Policy: First}, {Policy: Random, Check: Check{Kind: TCPCheck, Interval: time.Millisecond}},
	}
	for range 8 {
		wg.Go(func() {
			for i := range 3000 {
				p := r.Pool(fmt.Sprint("target ", rand.IntN(3)), options[rand.IntN(len(options))])
				if i%10 == 0 {
					p.Update(new(int), alike(40)[rand.IntN(20):20+rand.IntN(20)])
				}
				c := p.Choose(fmt.Sprint(rand.IntN(10)))
				for u, ok := c.Next(); ok; u, ok = c.Next() {
					switch rand.IntN(6) {
					case 0:
						u.Failed(errRefused)
						continue
					case 1:
						u.Cancelled()
						continue
					}
					u.Opened()
					u.Closed(End(rand.IntN(3)))
					break
				}
				if i%100 == 0 {
					r.Pools()
				}
			}
		})
	}
	wg.Wait()
	cancel()
	run.Wait()
	for _, s := range r.Status() {
		if s.Open != 0 || s.Opening != 0 {
			t.Errorf("%s: %d open, %d opening are left", s.Addr, s.Open, s.Opening)
		}
	}
}
