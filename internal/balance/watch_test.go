package balance

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// diary is a Watcher that writes down what it is told, and when.
type diary struct {
	mu    sync.Mutex
	began time.Time
	lines []string
}

func (d *diary) write(what string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, fmt.Sprintf("%s after %s", what, time.Since(d.began).Round(time.Second)))
}

func (d *diary) Unhealthy(why string) { d.write("unhealthy: " + why) }
func (d *diary) Healthy()             { d.write("healthy") }

func (d *diary) want(t *testing.T, lines ...string) {
	t.Helper()
	synctest.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	if !slices.Equal(d.lines, lines) {
		t.Errorf("told %q; want %q", d.lines, lines)
	}
	d.lines, d.began = nil, time.Now()
}

// TestConnectionsAreToldOfDeadEndpoints: by Fall bad checks in a row, not by a bad first one,
// nor by an ejection; and when the endpoint has risen again.
func TestConnectionsAreToldOfDeadEndpoints(t *testing.T) {
	w := newWorld()
	w.set(addr(0), errDown)
	running(t, w, nil, func(t *testing.T, r *Registry) {
		p := r.Pool("web", Options{EjectAfter: 1, Check: Check{Kind: TCPCheck, Interval: 10 * time.Second, Rise: 2, Fall: 3}})
		p.Update(new(int), alike(2))
		var uses []Use
		for range 2 { // one to each
			c := p.Choose("")
			u, _ := c.Next()
			if len(uses) == 1 && u.Addr == uses[0].Addr {
				u.Cancelled()
				u, _ = c.Next()
			}
			u.Opened()
			uses = append(uses, u)
		}
		if uses[0].Addr != addr(0) {
			slices.Reverse(uses)
		}
		sick, well := &diary{began: time.Now()}, &diary{began: time.Now()}
		stop, stopWell := uses[0].Watch(sick), uses[1].Watch(well)
		sleep(2 * wakePause)
		sick.want(t) // though it is out
		w.set(addr(0), nil)
		sleep(25 * time.Second)
		sick.want(t)
		uses[0].Closed(Reset) // and so it is ejected
		sick.want(t)
		w.set(addr(0), errDown)
		sleep(28 * time.Second)
		sick.want(t, "unhealthy: down after 25s")
		sleep(time.Minute)
		sick.want(t)
		w.set(addr(0), nil)
		sleep(25 * time.Second)
		sick.want(t, "healthy after 17s")
		stop()
		w.set(addr(0), errDown)
		sleep(time.Minute)
		sick.want(t)
		well.want(t)
		stopWell()
	})
}

// TestDeadBeforeTheConnectionWasOpened: an endpoint may be found dead between the choice of it
// and the watch of the connection, which a frozen process's kernel has accepted.
func TestDeadBeforeTheConnectionWasOpened(t *testing.T) {
	w := newWorld()
	running(t, w, nil, func(t *testing.T, r *Registry) {
		p := r.Pool("web", Options{Check: Check{Kind: TCPCheck, Interval: 10 * time.Second, Rise: 2, Fall: 3}})
		p.Update(new(int), alike(1))
		early, revived := next(t, p, ""), next(t, p, "")
		sleep(time.Minute)
		w.set(addr(0), errDown)
		sleep(time.Minute)
		late := next(t, p, "") // although it is dead: there is nobody else
		early.Opened()
		d := &diary{began: time.Now()}
		stop := early.Watch(d)
		d.want(t, "unhealthy: down after 0s")
		late.Opened()
		goesOn := &diary{began: time.Now()}
		stopLate := late.Watch(goesOn)
		sleep(time.Minute)
		d.want(t)
		goesOn.want(t)
		w.set(addr(0), nil)
		sleep(time.Minute)
		revived.Opened()
		again := &diary{began: time.Now()}
		stopAgain := revived.Watch(again)
		again.want(t)
		goesOn.lines, goesOn.began = nil, time.Now()
		w.set(addr(0), errDown)
		sleep(time.Minute)
		for _, each := range []*diary{goesOn, again} {
			if synctest.Wait(); len(each.lines) != 1 || !strings.HasPrefix(each.lines[0], "unhealthy: down") {
				t.Errorf("told %q; want that it is dead, once", each.lines)
			}
		}
		stop()
		stopLate()
		stopAgain()
	})
}

// TestEndpointsWithConnectionsAreChecked: as long as somebody watches, however long nobody has
// chosen from the pool.
func TestEndpointsWithConnectionsAreChecked(t *testing.T) {
	w := newWorld()
	running(t, w, nil, func(t *testing.T, r *Registry) {
		p := r.Pool("web", Options{Check: Check{Kind: TCPCheck, Interval: 10 * time.Second}})
		p.Update(new(int), alike(1))
		u := next(t, p, "")
		u.Opened()
		d := &diary{began: time.Now()}
		stop := u.Watch(d)
		sleep(10 * forgetAfter)
		if p.Forgotten() {
			t.Error("the pool is forgotten, of which somebody has a connection that watches")
		}
		w.set(addr(0), errors.New("frozen"))
		sleep(time.Minute)
		if d.mu.Lock(); len(d.lines) != 1 {
			t.Errorf("told %q; want that it is unhealthy", d.lines)
		}
		d.mu.Unlock()
		stop()
		u.Closed(Silent)
		sleep(2 * idleAfter)
		n := w.count(addr(0))
		sleep(idleAfter)
		if more := w.count(addr(0)) - n; more > 0 {
			t.Errorf("%d checks although nobody uses or watches it", more)
		}
	})
}

func TestWithoutACheckThereIsNothingToWatch(t *testing.T) {
	u := next(t, newTestPool(Options{}, alike(1)...), "")
	u.Watch(new(diary))()
}
