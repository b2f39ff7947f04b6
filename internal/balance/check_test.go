package balance

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/servertest"
)

// world is the endpoints of a bubble: in-memory connections, since real ones know
// nothing of its time.
type world struct {
	mu     sync.Mutex
	broken map[netip.AddrPort]error
	dials  map[netip.AddrPort]int
	begun  []time.Time
	open   atomic.Int64
	most   atomic.Int64
	takes  time.Duration
}

func newWorld() *world {
	return &world{broken: make(map[netip.AddrPort]error), dials: make(map[netip.AddrPort]int)}
}

func (w *world) set(addr netip.AddrPort, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.broken[addr] = err
}

func (w *world) count(addr netip.AddrPort) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dials[addr]
}

func (w *world) dial(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	w.mu.Lock()
	w.dials[addr]++
	w.begun = append(w.begun, time.Now())
	err := w.broken[addr]
	w.mu.Unlock()
	if n := w.open.Add(1); n > w.most.Load() {
		w.most.Store(n)
	}
	defer w.open.Add(-1)
	if !pause(ctx, w.takes) {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	ours, theirs := net.Pipe()
	theirs.Close()
	return ours, nil
}

// running runs test with a registry whose checks go to w.
func running(t *testing.T, w *world, log *slog.Logger, test func(t *testing.T, r *Registry)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := New(Config{Log: log, Dial: w.dial})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = r.Run(ctx) })
		test(t, r)
		cancel()
		wg.Wait()
	})
}

var errDown = errors.New("down")

// TestChecksThatThisHostCannotMake: they are no result, and the log says so once, until one
// could be made again.
func TestChecksThatThisHostCannotMake(t *testing.T) {
	var log bytes.Buffer
	w := newWorld()
	w.set(addr(0), hint.Wrap(unix.EMFILE, "raise the limit"))
	synctest.Test(t, func(t *testing.T) {
		r := New(Config{Log: slog.New(slog.NewTextHandler(&log, nil)), Dial: w.dial, OwnFault: ownFault})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = r.Run(ctx) })
		p := r.Pool("web", Options{Check: Check{Kind: TCPCheck, Interval: time.Second}})
		p.Update(new(int), alike(1))
		for range 2 {
			sleep(5 * time.Second)
			w.set(addr(0), nil)
			sleep(2 * time.Second)
			w.set(addr(0), unix.EMFILE)
		}
		if s := statusOf(p, addr(0)); len(s.Checks) != 1 || s.Checks[0].Verdict != "up" {
			t.Errorf("status %+v; want what the checks said that were made", s.Checks)
		}
		cancel()
		wg.Wait()
	})
	if n := strings.Count(log.String(), `level=WARN msg="an endpoint cannot be checked, by this host's fault"`); n != 2 || !strings.Contains(log.String(), `hint="raise the limit"`) {
		t.Errorf("told %d times; want it once each time, with the hint:\n%s", n, log.String())
	}
}

// The first result counts at once; then it takes Fall bad ones, and Rise good ones.
func TestCheckRiseAndFall(t *testing.T) {
	var log bytes.Buffer
	w := newWorld()
	w.set(addr(0), errDown)
	running(t, w, slog.New(slog.NewTextHandler(&log, nil)), func(t *testing.T, r *Registry) {
		p := r.Pool("web", Options{Check: Check{Kind: TCPCheck, Interval: 10 * time.Second, Rise: 2, Fall: 3}})
		p.Update(new(int), alike(2))
		expect := func(what string, want int) {
			t.Helper()
			synctest.Wait()
			if got := len(firsts(t, p)); got != want {
				t.Errorf("%s: chosen among %d; want %d", what, got, want)
			}
		}
		sleep(2 * wakePause)
		expect("first result bad", 1)
		if got := order(p, ""); len(got) != 2 || got[1] != addr(0) {
			t.Errorf("order %v; want the one that is down last", got)
		}
		w.set(addr(0), nil)
		sleep(10 * time.Second)
		expect("one good", 1)
		sleep(10 * time.Second)
		expect("two good", 2)
		w.set(addr(0), errDown)
		sleep(20 * time.Second)
		expect("two bad", 2)
		w.set(addr(0), nil)
		sleep(10 * time.Second)
		w.set(addr(0), errDown)
		sleep(20 * time.Second)
		expect("two bad again", 2)
		sleep(10 * time.Second)
		expect("three bad", 1)
		if s := statusOf(p, addr(0)); len(s.Checks) != 1 || s.Checks[0].Verdict != "down" || s.Checks[0].Why != "down" {
			t.Errorf("status %+v; want the check's verdict and why", s.Checks)
		}
		if s := p.Status(); s.Out != 1 || !s.Members[0].Out {
			t.Errorf("pool's status %+v; want one out", s)
		}
	})
	var got []string
	for line := range strings.Lines(log.String()) {
		got = append(got, line[strings.Index(line, "level="):])
	}
	want := []string{
		`level=WARN msg="check fails; the endpoint is out" endpoint=10.0.0.0:80 name=e0 target=web check=tcp why=down` + "\n",
		`level=INFO msg="check succeeds; the endpoint is back" endpoint=10.0.0.0:80 name=e0 target=web check=tcp after=20s` + "\n",
		`level=WARN msg="check fails; the endpoint is out" endpoint=10.0.0.0:80 name=e0 target=web check=tcp why=down` + "\n",
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("logged\n%s\nwant\n%s", got, want)
	}
}

// The panic threshold holds for checks: when all are down it is the check.
func TestCheckPanic(t *testing.T) {
	w := newWorld()
	for i := range 3 {
		w.set(addr(i), errDown)
	}
	running(t, w, nil, func(t *testing.T, r *Registry) {
		p := r.Pool("web", Options{EjectMost: 50, Check: Check{Kind: TCPCheck}})
		p.Update(new(int), alike(4))
		sleep(time.Second)
		if s := p.Status(); !s.Panic || s.Out != 3 || len(firsts(t, p)) != 4 {
			t.Errorf("panic %v with %d of 4 out, chosen among %d; want all", s.Panic, s.Out, len(firsts(t, p)))
		}
	})
}

// Checks run while somebody chooses, stop when nobody does, and begin again at once
// when somebody does. One checker serves all pools with the same check.
func TestChecksOfTargetsInUse(t *testing.T) {
	w := newWorld()
	running(t, w, nil, func(t *testing.T, r *Registry) {
		o := Options{Check: Check{Kind: TCPCheck, Interval: 10 * time.Second}}
		p, other := r.Pool("web", o), r.Pool("the same by another name", o)
		p.Update(new(int), alike(1))
		other.Update(new(int), alike(1))
		for range 6 {
			sleep(10 * time.Minute / 6)
			next(t, p, "").Cancelled()
		}
		if n := w.count(addr(0)); n < 59 || n > 62 {
			t.Errorf("%d checks in ten minutes; want 60", n)
		}
		sleep(idleAfter + time.Minute)
		n := w.count(addr(0))
		sleep(5 * time.Minute)
		if more := w.count(addr(0)) - n; more != 0 {
			t.Errorf("%d checks of a target that nobody uses", more)
		}
		w.set(addr(0), errDown)
		next(t, p, "").Cancelled()
		sleep(time.Second)
		if more := w.count(addr(0)) - n; more != 1 {
			t.Errorf("%d checks at once when it is used again; want one", more)
		}
		if s := p.Status(); s.Out != 1 {
			t.Error("the first result after a pause did not count at once")
		}
		p.Update(new(int), nil)
		other.Update(new(int), nil)
		sleep(time.Second)
		n = w.count(addr(0))
		sleep(time.Minute)
		if more := w.count(addr(0)) - n; more != 0 {
			t.Errorf("%d checks of an endpoint that has left", more)
		}
	})
}

// However many endpoints there are, a bounded number is checked at a time.
func TestChecksAreBounded(t *testing.T) {
	w := newWorld()
	w.takes = time.Second
	running(t, w, nil, func(t *testing.T, r *Registry) {
		p := r.Pool("web", Options{Check: Check{Kind: TCPCheck, Interval: 30 * time.Second}})
		p.Update(new(int), alike(1000))
		sleep(25 * time.Second)
		synctest.Wait()
		if n := w.most.Load(); n != mostChecking {
			t.Errorf("%d checks at a time; want %d", n, mostChecking)
		}
		if n := len(w.begun); n != 1000 {
			t.Errorf("%d checks; want one of each", n)
		}
	})
}

// TestChecksInAllArePaced: however many addresses there are and however often they ask, so
// many checks begin in a second, and each address has its turn.
func TestChecksInAllArePaced(t *testing.T) {
	const addresses, seconds = 1000, 20
	w := newWorld()
	running(t, w, nil, func(t *testing.T, r *Registry) {
		p := r.Pool("web", Options{Check: Check{Kind: TCPCheck, Interval: 100 * time.Millisecond}})
		p.Update(new(int), alike(addresses))
		sleep(seconds * time.Second)
		synctest.Wait()
		n := len(w.begun)
		if most := seconds*checksInAll + checksInAll/10; n > most || n < most*9/10 {
			t.Errorf("%d checks in %d s; want at most %d, and not many fewer", n, seconds, most)
		}
		for i := range w.begun {
			if last := i + checksInAll + checksInAll/10; last < n && w.begun[last].Sub(w.begun[i]) < time.Second {
				t.Fatalf("more than %d checks begin in the second after %s", last-i, w.begun[i])
			}
		}
		if len(w.dials) != addresses {
			t.Errorf("%d addresses were checked; want all %d", len(w.dials), addresses)
		}
	})
}

func TestCheckJitter(t *testing.T) {
	w := newWorld()
	running(t, w, nil, func(t *testing.T, r *Registry) {
		p := r.Pool("web", Options{Check: Check{Kind: TCPCheck, Interval: 10 * time.Second, Jitter: 20}})
		p.Update(new(int), alike(1))
		for range 60 {
			sleep(time.Minute)
			next(t, p, "").Cancelled()
		}
		w.mu.Lock()
		begun := w.begun
		w.mu.Unlock()
		shortest, longest := time.Hour, time.Duration(0)
		for i := range begun[1:] {
			between := begun[i+1].Sub(begun[i])
			shortest, longest = min(shortest, between), max(longest, between)
		}
		if shortest < 8*time.Second || longest > 12*time.Second+2*time.Millisecond || shortest > 9*time.Second || longest < 11*time.Second {
			t.Errorf("between checks are %s to %s; want all from 8 s to 12 s", shortest, longest)
		}
	})
}

// An endpoint that its check finds down is not probed by a client.
func TestCheckDownIsNotProbed(t *testing.T) {
	w := newWorld()
	w.set(addr(0), errDown)
	running(t, w, nil, func(t *testing.T, r *Registry) {
		p := r.Pool("web", Options{EjectAfter: 1, EjectFor: time.Second, Check: Check{Kind: TCPCheck}})
		p.Update(new(int), alike(2))
		sleep(time.Second)
		failing(t, p, addr(0), 1)
		sleep(time.Minute)
		if got := firsts(t, p); len(got) != 1 {
			t.Errorf("chosen among %v; want only the one that is up", got)
		}
	})
}

// serving is a server of any behaviour, over real TCP.
func serving(t *testing.T, serve func(net.Conn)) netip.AddrPort {
	t.Helper()
	return servertest.Serve(t, servertest.Listen(t), serve)
}

func TestTCPCheck(t *testing.T) {
	redis := serving(t, func(conn net.Conn) {
		line, _ := bufio.NewReader(conn).ReadString('\n')
		if line == "PING\r\n" {
			io.WriteString(conn, "+PO")
			io.WriteString(conn, "NG\r\n")
			io.Copy(io.Discard, conn) // until the check closes
		}
	})
	deaf := serving(t, func(conn net.Conn) { io.Copy(io.Discard, conn) })
	flood := serving(t, func(conn net.Conn) {
		for {
			if _, err := conn.Write(bytes.Repeat([]byte("x"), 1<<16)); err != nil {
				return
			}
		}
	})
	gone := serving(t, func(net.Conn) {})
	for name, test := range map[string]struct {
		addr  netip.AddrPort
		check Check
		want  string
	}{
		"connect":           {redis, Check{}, ""},
		"send and expect":   {redis, Check{Send: "PING\r\n", Expect: "+PONG"}, ""},
		"after a preface":   {redis, Check{Preface: "PI", Send: "NG\r\n", Expect: "+PONG"}, ""},
		"on another port":   {netip.AddrPortFrom(redis.Addr(), 1), Check{Port: redis.Port()}, ""},
		"nobody listens":    {netip.AddrPortFrom(redis.Addr(), 1), Check{}, "connection refused"},
		"not what it wants": {redis, Check{Send: "QUIT\r\n", Expect: "+PONG"}, `it answers nothing, not with "+PONG"`},
		"silence":           {deaf, Check{Expect: "+PONG", Timeout: 100 * time.Millisecond}, "no good answer within 100ms"},
		"a flood":           {flood, Check{Expect: "+PONG"}, `no "+PONG" in the first`},
		"closed at once":    {gone, Check{Expect: "+PONG"}, "it answers nothing"},
	} {
		t.Run(name, func(t *testing.T) {
			test.check.Kind = TCPCheck
			checked(t, test.check, test.addr, test.want)
		})
	}
}

// checked does a check once. Its connection is made however short its time is.
func checked(t *testing.T, c Check, addr netip.AddrPort, want string) {
	t.Helper()
	err := c.do(t.Context(), c.address(addr), func(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
		return dialTCP(context.WithoutCancel(ctx), addr)
	})
	if got := fmt.Sprint(err); want == "" && err != nil || !strings.Contains(got, want) && want != "" {
		t.Errorf("%v; want %q", err, want)
	}
}

// A connection that is not there in time reads as that, however the dial puts it.
func TestCheckWithoutAConnection(t *testing.T) {
	for name, test := range map[string]struct {
		err, want error
	}{
		"the dial sees the context":  {context.DeadlineExceeded, errors.New("no connection to 10.0.0.0:80 within 1m0s")},
		"the dial sees the deadline": {os.ErrDeadlineExceeded, errors.New("no connection to 10.0.0.0:80 within 1m0s")},
		"the kernel gave up":         {unix.ETIMEDOUT, unix.ETIMEDOUT},
		"no descriptor is left":      {unix.EMFILE, unix.EMFILE},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				c := Check{Kind: TCPCheck, Timeout: time.Minute}
				err := c.do(t.Context(), addr(0), func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
					<-ctx.Done()
					return nil, &net.OpError{Op: "dial", Net: "tcp", Err: test.err}
				})
				if !errors.Is(err, test.want) && fmt.Sprint(err) != test.want.Error() {
					t.Errorf("%v; want %v", err, test.want)
				}
				if took := time.Since(began); took != c.Timeout {
					t.Errorf("took %s; want %s", took, c.Timeout)
				}
			})
		})
	}
}

func TestHTTPCheck(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/":
		case "/moved":
			http.Redirect(w, r, "/broken", http.StatusFound)
		case "/host":
			if r.Host != "web.example" {
				w.WriteHeader(http.StatusMisdirectedRequest)
			}
		case "/query":
			if r.URL.RawQuery != "full=1" {
				w.WriteHeader(http.StatusBadRequest)
			}
		case "/endless":
			for {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		case "/headers":
			w.Header().Set("Much", strings.Repeat("x", mostRead))
		default:
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	t.Cleanup(server.Close)
	addr := netip.MustParseAddrPort(server.Listener.Addr().String())
	deaf := serving(t, func(conn net.Conn) { io.Copy(io.Discard, conn) })
	for name, test := range map[string]struct {
		addr  netip.AddrPort
		check Check
		want  string
	}{
		"root":                {addr, Check{}, ""},
		"redirect":            {addr, Check{Path: "/moved"}, ""},
		"host":                {addr, Check{Path: "/host", Host: "web.example"}, ""},
		"another host":        {addr, Check{Path: "/host"}, "status 421"},
		"query":               {addr, Check{Path: "/query?full=1"}, ""},
		"endless body":        {addr, Check{Path: "/endless"}, ""},
		"endless headers":     {addr, Check{Path: "/headers"}, "unexpected EOF"},
		"unavailable":         {addr, Check{Path: "/broken"}, "status 503"},
		"no answer":           {deaf, Check{Timeout: 100 * time.Millisecond}, "no good answer within 100ms"},
		"a path that is none": {addr, Check{Path: "/%zz"}, "invalid URL escape"},
	} {
		t.Run(name, func(t *testing.T) {
			test.check.Kind = HTTPCheck
			checked(t, test.check, test.addr, test.want)
		})
	}
}

// TestCheckIsMadeByLeave: what must not be dialled is not checked, is well, and is said
// once; the port of a published endpoint is its own alone. A change of mind holds at once.
func TestCheckIsMadeByLeave(t *testing.T) {
	var log bytes.Buffer
	w := newWorld()
	var forbidden atomic.Bool
	forbidden.Store(true)
	synctest.Test(t, func(t *testing.T) {
		r := New(Config{Log: slog.New(slog.NewTextHandler(&log, nil)), Dial: w.dial, Permit: func(target string) func(netip.AddrPort, bool) error {
			return func(a netip.AddrPort, published bool) error {
				if forbidden.Load() && !published && target == "web" && a.Addr() == addr(0).Addr() {
					return errDown
				}
				return nil
			}
		}})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = r.Run(ctx) })
		p := r.Pool("web", Options{Check: Check{Kind: TCPCheck, Interval: 10 * time.Second}})
		endpoints := alike(2)
		p.Update(new(int), endpoints)
		w.set(addr(0), errDown)
		sleep(time.Minute)
		if n := w.count(addr(0)); n > 0 {
			t.Errorf("it was dialled %d times", n)
		}
		if n := len(firsts(t, p)); n != 2 {
			t.Errorf("chosen among %d; want both: nothing is known against either", n)
		}
		if n := strings.Count(log.String(), "an endpoint is not checked"); n != 1 {
			t.Errorf("it is said %d times:\n%s", n, log.String())
		}
		forbidden.Store(false)
		sleep(time.Minute)
		if w.count(addr(0)) == 0 {
			t.Error("it is not dialled now that it may be")
		}
		forbidden.Store(true)
		before := w.count(addr(0))
		sleep(time.Minute)
		if n := w.count(addr(0)); n > before {
			t.Errorf("it is dialled %d times after that", n-before)
		}
		endpoints = alike(2)
		endpoints[0].Published = true
		p.Update(new(int), endpoints)
		sleep(time.Minute)
		if w.count(addr(0)) == before {
			t.Error("it is not dialled where the engine publishes it")
		}
		cancel()
		wg.Wait()
	})
}
