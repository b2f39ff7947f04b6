package proxy

import (
	"context"
	"flag"
	"net"
	"runtime"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// ways is how the connections of a test are carried.
var ways struct {
	loops  int
	prompt bool // routers say at once what they say
}

// everyWay runs all tests once for each way, so that none can do what another cannot.
type everyWay struct{ m *testing.M }

func (e everyWay) Run() int {
	code := e.m.Run()
	if flag.Lookup("test.bench").Value.String() != "" {
		return code // benchmarks choose for themselves
	}
	ways.loops = 2
	code = max(code, e.m.Run())
	// A single loop leaves processors to others, and keeps its own during short waits.
	ways.loops, ways.prompt = 1, true
	return max(code, e.m.Run())
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(everyWay{m}) }

// promptly is a Router that also says at once what it says.
type promptly struct{ RouterFunc }

func (p promptly) RouteNow(Accepted) (*Route, Chooser) {
	route, err := p.RouterFunc(context.Background(), (*net.TCPConn)(nil))
	if err != nil {
		return nil, nil
	}
	endpoints := route.Endpoints
	route.Endpoints = nil
	return &route, endpoints
}

// TestLoopKeepsToItsThread: whatever else wants to run, the same thread goes on with a
// loop.
func TestLoopKeepsToItsThread(t *testing.T) {
	if ways.loops == 0 {
		return // there is none
	}
	l := newLab(t, &Server{}, to(refused(t)))
	stop := make(chan struct{})
	var others sync.WaitGroup
	for range 4 {
		others.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					runtime.Gosched()
				}
			}
		})
	}
	defer others.Wait()
	defer close(stop)
	loop := l.server.loops[0]
	var first int
	loop.call(func() { first = unix.Gettid() })
	for range 50 {
		var thread int
		loop.call(func() { thread = unix.Gettid() })
		if thread != first {
			t.Fatalf("the loop went on in thread %d; want %d, where it began", thread, first)
		}
	}
}
