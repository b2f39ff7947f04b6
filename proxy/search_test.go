package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// crowd is a Chooser whose endpoints a test changes, and what it was told of them.
type crowd struct {
	mu        sync.Mutex
	endpoints []Endpoint
	err       error // why there is nobody
	changed   chan struct{}
	seen      chan struct{} // changed, at the last Refresh
	left      []Endpoint
	rounds    chan struct{} // gets one for each Refresh
	told      []string
}

func newCrowd(endpoints ...Endpoint) *crowd {
	return &crowd{endpoints: endpoints, changed: make(chan struct{}), rounds: make(chan struct{}, 1000)}
}

func (c *crowd) set(err error, endpoints ...Endpoint) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err, c.endpoints = err, endpoints
	close(c.changed)
	c.changed = make(chan struct{})
}

// isAnother reports whether the endpoints have been set since the last Refresh.
func (c *crowd) isAnother() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen != c.changed
}

func (c *crowd) Refresh(context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rounds <- struct{}{}
	c.left, c.seen = c.endpoints, c.changed
	return c.err
}

func (c *crowd) Next() (Attempt, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.left) == 0 {
		return Attempt{}, false
	}
	a := Attempt{Endpoint: c.left[0], Left: len(c.left), Verdict: &verdict{c, c.left[0]}}
	c.left = c.left[1:]
	return a, true
}

func (c *crowd) TryRefresh() bool { return false }

func (c *crowd) Changed(ctx context.Context) {
	c.mu.Lock()
	changed := c.seen
	c.mu.Unlock()
	select {
	case <-changed:
	case <-ctx.Done():
	}
}

// says is what it was told, in order.
func (c *crowd) says() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.told)
}

type verdict struct {
	crowd    *crowd
	endpoint Endpoint
}

func (v *verdict) Endpoint() Endpoint { return v.endpoint }

func (v *verdict) tell(what string) {
	v.crowd.mu.Lock()
	defer v.crowd.mu.Unlock()
	v.crowd.told = append(v.crowd.told, v.endpoint.Name+" "+what)
}

func (v *verdict) Failed(error) { v.tell("failed") }
func (v *verdict) Cancelled()   { v.tell("cancelled") }
func (v *verdict) Opened()      { v.tell("opened") }

func (v *verdict) Closed(answered, reset bool) {
	switch {
	case reset && !answered:
		v.tell("reset before a byte")
	case reset:
		v.tell("reset")
	default:
		v.tell("closed")
	}
}

func routed(c Chooser, o Options) Router {
	return RouterFunc(func(context.Context, *net.TCPConn) (Route, error) {
		return Route{Client: Client{Name: "client"}, Port: 6379, Target: "target", Endpoints: c, Options: o}, nil
	})
}

// swallowing is a Dial that gets no answer from the addresses of silent.
func swallowing(silent ...Endpoint) func(context.Context, netip.AddrPort) (*net.TCPConn, error) {
	return func(ctx context.Context, addr netip.AddrPort) (*net.TCPConn, error) {
		if slices.ContainsFunc(silent, func(e Endpoint) bool { return e.Addr == addr }) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return dialTCP(ctx, addr, &Options{})
	}
}

var blackHole = Endpoint{Addr: netip.MustParseAddrPort("192.0.2.1:1"), Name: "silent"}

func greeter(t *testing.T) Endpoint {
	return backend(t, func(c *net.TCPConn) { _, _ = c.Write([]byte("hello")) })
}

func TestHeldUntilSomebodyAppears(t *testing.T) {
	nobody := Fail(NoEndpoints, errors.New("nobody serves it"))
	for name, before := range map[string]func(*crowd, *testing.T){
		"nobody is known":      func(c *crowd, _ *testing.T) { c.set(nobody) },
		"who is known refuses": func(c *crowd, t *testing.T) { c.set(nil, refused(t)) },
		"who is known is silent": func(c *crowd, _ *testing.T) {
			c.set(nil, blackHole)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCrowd()
			before(c, t)
			l := newLab(t, &Server{Dial: swallowing(blackHole)}, routed(c, Options{Wait: patience, AttemptTimeout: time.Millisecond}))
			conn := l.dial()
			if _, err := conn.Write([]byte("early")); err != nil { // waits in the kernel
				t.Fatal(err)
			}
			<-c.rounds
			got := make(chan string, 1)
			c.set(nil, backend(t, func(c *net.TCPConn) {
				b := make([]byte, 5)
				_, _ = io.ReadFull(c, b)
				got <- string(b)
				_, _ = c.Write([]byte("hello"))
			}))
			if b, err := l.read(conn); err != nil || b != "hello" {
				t.Errorf("read %q, %v; want the new endpoint's hello", b, err)
			}
			r := l.record()
			if r.Err != nil || r.Held <= 0 || r.Held > r.Duration {
				t.Fatalf("record %+v; want no error and how long it was held", r)
			}
			if b := <-got; b != "early" {
				t.Errorf("the endpoint read %q; want what the client had sent meanwhile", b)
			}
		})
	}
}

// doubted is a crowd that is asked anew when all have refused.
type reresolving struct {
	*crowd
	doubts int
	anew   func(*crowd) bool
}

func (d *reresolving) Reresolve(context.Context) bool {
	d.doubts++
	return d.anew(d.crowd)
}

// When all endpoints have refused, a connection gets the one that is found then, also where it is
// not held.
func TestRefusalIsNews(t *testing.T) {
	for name, there := range map[string]bool{"somebody else is there": true, "nobody else is": false} {
		t.Run(name, func(t *testing.T) {
			serving := greeter(t)
			d := &reresolving{crowd: newCrowd(refused(t)), anew: func(c *crowd) bool {
				if there {
					c.set(nil, serving)
				}
				return there
			}}
			o := Options{}
			if !there { // or it may be reset before dial has seen that it is connected
				o.Wait = 20 * time.Millisecond
			}
			l := newLab(t, &Server{}, routed(d, o))
			b, _ := l.read(l.dial())
			r := l.record()
			if (b == "hello") != there || (r.Err == nil) != there || d.doubts == 0 {
				t.Errorf("read %q, %v, asked anew %d times", b, r.Err, d.doubts)
			}
		})
	}
}

// doubtedNow is a doubted that a loop can ask.
type doubtedNow struct{ *reresolving }

func (d doubtedNow) TryRefresh() bool { return d.Refresh(context.Background()) == nil }

// When the last endpoint is silent, a connection gets the one that is found meanwhile, also where
// it is not held. While the same one is named it goes on with that.
func TestSilenceIsNews(t *testing.T) {
	for name, test := range map[string]struct {
		wait   time.Duration
		others bool
	}{
		"held":                  {patience, true},
		"not held":              {0, true},
		"held by the same":      {patience, false},
		"by the same, not held": {0, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			serving := greeter(t)
			silent, accept := atLast(t)
			doubts := make(chan struct{}, 1000)
			d := &reresolving{crowd: newCrowd(silent), anew: func(c *crowd) bool {
				doubts <- struct{}{}
				if test.others && len(doubts) == 3 {
					c.set(nil, serving)
				}
				return test.others && c.isAnother() // until the search has taken them
			}}
			route := routed(doubtedNow{d}, Options{Wait: test.wait, AttemptTimeout: time.Millisecond, Timeout: patience})
			if ways.nonBlocking {
				route = nonBlocking{route.(RouterFunc)}
			}
			l := newLab(t, &Server{}, route)
			conn := l.dial()
			if !test.others {
				wait(t, "it is asked anew again and again", func() bool { return len(doubts) > 5 })
				d.set(nil, silent) // something else changes
				served := accept()
				mustWrite(t, served, "hello")
				served.Close()
			}
			if b, err := l.read(conn); b != "hello" {
				t.Errorf("read %q, %v", b, err)
			}
			if r := l.record(); r.Err != nil || !test.others && r.Attempts != 1 {
				t.Errorf("%d attempts, %v", r.Attempts, r.Err)
			}
		})
	}
}

func TestWhoRefusesIsTriedAgainWhileHeld(t *testing.T) {
	c := newCrowd(refused(t))
	l := newLab(t, &Server{}, routed(c, Options{Wait: patience}))
	conn := l.dial()
	for range 3 { // the third begins when two have failed
		select {
		case <-c.rounds:
		case r := <-l.records:
			t.Fatalf("held for %s with %d attempts; want it tried again for %s", r.Held, r.Attempts, patience)
		}
	}
	_ = conn.SetLinger(0)
	conn.Close()
	r := l.record()
	l.wantReason(r, ClientGone)
	if r.Attempts < 2 {
		t.Errorf("%d attempts; want one in each round", r.Attempts)
	}
}

func TestHeldNoLongerThanWait(t *testing.T) {
	c := newCrowd(refused(t))
	const wait = 100 * time.Millisecond
	l := newLab(t, &Server{}, routed(c, Options{Wait: wait}))
	l.dialRefused()
	r := l.record()
	l.wantReason(r, DialFailed)
	if r.Held < wait {
		t.Errorf("held for %s; want at least %s", r.Held, wait)
	}
	if len(c.rounds) > 20 { // 20, 40, 80 ms apart, and each time somebody appears
		t.Errorf("%d rounds; want a pause between them", len(c.rounds))
	}
}

func TestNotHeldWithoutWait(t *testing.T) {
	c := newCrowd()
	c.set(Fail(NoEndpoints, errors.New("nobody")))
	l := newLab(t, &Server{}, routed(c, Options{}))
	l.dialRefused()
	l.wantReason(l.record(), NoEndpoints)
	if len(c.rounds) != 1 {
		t.Errorf("%d rounds; want one", len(c.rounds))
	}
}

func TestClientThatGivesUpWhileHeld(t *testing.T) {
	for name, leave := range map[string]func(*net.TCPConn){
		"reset": func(c *net.TCPConn) { _ = c.SetLinger(0); c.Close() },
		"close": func(c *net.TCPConn) { c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			c := newCrowd()
			c.set(Fail(NoEndpoints, errors.New("nobody")))
			l := newLab(t, &Server{}, routed(c, Options{Wait: time.Hour, Timeout: time.Hour}))
			conn := l.dial()
			<-c.rounds
			leave(conn)
			r := l.record() // long before the hour is over
			l.wantReason(r, ClientGone)
			if !strings.Contains(r.Err.Error(), "nobody") {
				t.Errorf("the record says %v; want what it waited for too", r.Err)
			}
		})
	}
}

func TestClientThatHasSentItsRequestAndEndedItsStreamIsHeld(t *testing.T) {
	c := newCrowd()
	c.set(Fail(NoEndpoints, errors.New("nobody")))
	l := newLab(t, &Server{}, routed(c, Options{Wait: patience}))
	conn := l.dial()
	if _, err := conn.Write([]byte("request")); err != nil {
		t.Fatal(err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	for range 4 { // rounds, the last of them after the watch has begun
		<-c.rounds
	}
	c.set(nil, backend(t, func(c *net.TCPConn) { _, _ = io.Copy(c, c) }))
	if b, err := l.read(conn); err != nil || b != "request" {
		t.Errorf("read %q, %v; want its request answered", b, err)
	}
}

func TestVerdicts(t *testing.T) {
	no := refused(t)
	yes := greeter(t)
	dialled := make(chan *crowd, 1)
	cutter := backend(t, func(c *net.TCPConn) { // resets once it is known to have answered
		crowd := <-dialled
		wait(t, "the endpoint has answered", func() bool { return len(crowd.says()) > 0 })
		_ = c.SetLinger(0)
	})
	yes.Name, cutter.Name = "yes", "cutter"
	t.Run("of a failure and a success", func(t *testing.T) {
		c := newCrowd(no, yes)
		l := newLab(t, &Server{}, routed(c, Options{}))
		_, _ = l.read(l.dial())
		l.record()
		if got := strings.Join(c.says(), ", "); got != "refused failed, yes opened, yes closed" {
			t.Errorf("told: %s", got)
		}
	})
	t.Run("of a reset before a byte", func(t *testing.T) {
		c := newCrowd(cutter)
		dialled <- c
		l := newLab(t, &Server{}, routed(c, Options{}))
		l.dialRefused()
		l.record()
		if got := strings.Join(c.says(), ", "); got != "cutter opened, cutter reset before a byte" {
			t.Errorf("told: %s", got)
		}
	})
	t.Run("of a client that leaves", func(t *testing.T) {
		c := newCrowd(blackHole)
		l := newLab(t, &Server{Dial: swallowing(blackHole)}, routed(c, Options{}))
		conn := l.dial()
		<-c.rounds
		_ = conn.SetLinger(0)
		conn.Close()
		l.wantReason(l.record(), ClientGone)
		if got := strings.Join(c.says(), ", "); got != "silent cancelled" {
			t.Errorf("told: %s; it was not the endpoint that failed", got)
		}
	})
}

func TestHedge(t *testing.T) {
	yes := greeter(t)
	yes.Name = "yes"
	c := newCrowd(blackHole, yes)
	l := newLab(t, &Server{Dial: swallowing(blackHole)}, routed(c, Options{Hedge: time.Millisecond, AttemptTimeout: time.Hour, Timeout: time.Hour}))
	if b, err := l.read(l.dial()); err != nil || b != "hello" {
		t.Errorf("read %q, %v; want the second endpoint's hello", b, err)
	}
	if r := l.record(); r.Attempts != 2 || r.Endpoint.Name != "yes" {
		t.Errorf("record %+v; want the second of two attempts", r)
	}
	l.stop()
	l.server.Drain(t.Context()) // waits for the one that lost, too
	told := c.says()
	slices.Sort(told)
	if got := strings.Join(told, ", "); got != "silent cancelled, yes closed, yes opened" {
		t.Errorf("told: %s", got)
	}
}

func TestHedgeIsNotNeededByTheQuick(t *testing.T) {
	first := greeter(t)
	c := newCrowd(first, blackHole)
	l := newLab(t, &Server{Dial: swallowing(blackHole)}, routed(c, Options{Hedge: patience}))
	if b, err := l.read(l.dial()); err != nil || b != "hello" {
		t.Errorf("read %q, %v", b, err)
	}
	if r := l.record(); r.Attempts != 1 {
		t.Errorf("%d attempts; want one", r.Attempts)
	}
}

func TestHedgeGoesOnAfterAFailure(t *testing.T) {
	yes := greeter(t)
	l := newLab(t, &Server{}, routed(newCrowd(refused(t), refused(t), yes), Options{Hedge: patience}))
	if b, err := l.read(l.dial()); err != nil || b != "hello" {
		t.Errorf("read %q, %v; want the third endpoint's hello, without waiting for a hedge", b, err)
	}
}

func TestPrefaceComesFirst(t *testing.T) {
	got := make(chan string, 1)
	e := backend(t, func(c *net.TCPConn) {
		b, _ := io.ReadAll(c)
		got <- string(b)
	})
	l := newLab(t, &Server{}, RouterFunc(func(context.Context, *net.TCPConn) (Route, error) {
		return Route{Endpoints: InOrder(refused(t), e), Preface: []byte("PROXY\r\n")}, nil
	}))
	conn := l.dial()
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	_ = conn.CloseWrite()
	if b := <-got; b != "PROXY\r\nhello" {
		t.Errorf("the endpoint reads %q; want the preface and then what the client sent", b)
	}
	if r := l.record(); r.Up != 5 {
		t.Errorf("%d bytes up; want the client's alone", r.Up)
	}
}

func TestCutOff(t *testing.T) {
	cuts := make(chan func(error), 1)
	closed := make(chan struct{})
	e := backend(t, func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) })
	l := newLab(t, &Server{}, RouterFunc(func(context.Context, *net.TCPConn) (Route, error) {
		return Route{Endpoints: InOrder(e), Opened: func(got Verdict, cut func(error)) func() {
			if got.Endpoint() != e {
				t.Errorf("opened %v; want %v", got.Endpoint(), e)
			}
			cuts <- cut
			return func() { close(closed) }
		}}, nil
	}))
	conn := l.dial()
	(<-cuts)(Fail(EndpointRemoved, errors.New("it has left")))
	wantReset(t, conn)
	l.wantReason(l.record(), EndpointRemoved)
	<-closed
}

func TestSourceAddressAndMark(t *testing.T) {
	from := make(chan netip.Addr, 1)
	e := backend(t, func(c *net.TCPConn) { from <- addrOf(c.RemoteAddr()).Addr() })
	source := netip.MustParseAddr("127.0.0.77")
	l := newLab(t, &Server{}, routed(InOrder(e), Options{Source: source}))
	_, _ = l.read(l.dial())
	if got := <-from; got != source {
		t.Errorf("the endpoint sees %s; want %s", got, source)
	}
	l.record()
	t.Run("of another family", func(t *testing.T) {
		l := newLab(t, &Server{}, routed(InOrder(e), Options{Source: netip.IPv6Loopback()}))
		l.dialRefused()
		if r := l.record(); !strings.Contains(r.Err.Error(), "another family") {
			t.Errorf("error %v; want that the family is another", r.Err)
		}
	})
	t.Run("not ours", func(t *testing.T) {
		l := newLab(t, &Server{}, routed(InOrder(e), Options{Source: netip.MustParseAddr("192.0.2.9")}))
		l.dialRefused()
		l.wantReason(l.record(), DialFailed)
	})
}
