// Package load makes the traffic of bench/peers: the client's side and the backend,
// each one thread around an epoll, so that they cost as little as they can and what is
// measured is the proxy between them.
//
// A load runs in a process of its own: Run takes a Spec as JSON and answers with a
// Result. Garbage collection and the scheduler must stay out of the loop, so the
// process calls Quiet first, and system calls in it are raw ones.
package load

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/ambassadord/ambassadord/bench/internal/procstat"
)

// Kind is what a load does.
type Kind string

// The kinds of load.
const (
	Up    Kind = "up"    // streams to the sink
	Down  Kind = "down"  // streams from the source
	Ask   Kind = "ask"   // requests on open connections, to the echo
	Churn Kind = "churn" // connect, exchange, close, with the echo
)

// Spec is one load.
type Spec struct {
	Kind     Kind
	To       netip.AddrPort
	Conns    int           // how many at once
	Size     int           // of a request, in bytes; of Ask and Churn
	WarmUp   time.Duration // before the window
	Duration time.Duration // of the window
	Proxy    []int         // whose CPU time is taken: the roots of process trees
}

// Result is what one load did within its window.
type Result struct {
	Window time.Duration
	Ops    int           // exchanges, or connections of Churn
	Bytes  int64         // that the streams carried
	Failed int           // connections that broke
	CPU    time.Duration // of the proxy
	P50    time.Duration // from asking, or connecting, to the whole answer
	P99    time.Duration
	P999   time.Duration
}

// Quiet keeps Go's runtime out of the way of a process that does nothing but one of
// this package's loops, whose raw system calls would stall a collection.
func Quiet() {
	runtime.LockOSThread()
	debug.SetGCPercent(-1)
}

// window is the time that counts: it takes the proxy's CPU time at both ends.
type window struct {
	begins, ends time.Time
	proxy        []int
	open         bool
	cpu          time.Duration
	began        time.Time
	err          error
}

func newWindow(s Spec) *window {
	begins := time.Now().Add(s.WarmUp)
	return &window{begins: begins, ends: begins.Add(s.Duration), proxy: s.Proxy}
}

// at tells the window the time, and says whether it is over.
func (w *window) at(now time.Time) (over bool) {
	switch {
	case !w.open && !now.Before(w.begins):
		w.open, w.began = true, now
		w.cpu, w.err = trees(w.proxy)
		return w.err != nil
	case w.open && !now.Before(w.ends):
		return true
	}
	return false
}

// close ends it and puts what it has seen into r.
func (w *window) close(r *Result) error {
	if w.err != nil {
		return w.err
	}
	if !w.open {
		return errors.New("the load ended before its window began")
	}
	r.Window = time.Since(w.began)
	cpu, err := trees(w.proxy)
	r.CPU = cpu - w.cpu
	return err
}

func trees(roots []int) (sum time.Duration, err error) {
	for _, pid := range roots {
		cpu, err := procstat.TreeCPU(pid)
		if err != nil {
			return 0, fmt.Errorf("CPU time of the proxy: %w", err)
		}
		sum += cpu
	}
	return sum, nil
}

// Run makes the load and measures it.
func Run(s Spec) (Result, error) {
	switch s.Kind {
	case Up, Down:
		return stream(s)
	case Ask:
		return ask(s)
	case Churn:
		return churn(s)
	}
	return Result{}, fmt.Errorf("no load is called %q", s.Kind)
}
