package metrics

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ambassadord/ambassadord/internal/balance"
	"github.com/ambassadord/ambassadord/internal/status"
	"github.com/ambassadord/ambassadord/proxy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func counters(series int) *Counters {
	return New(Options{Series: series, Log: slog.New(slog.DiscardHandler)})
}

// nothing is what a scrape asks where there is no daemon.
func nothing() Source {
	return Source{Moved: func(func([]proxy.Moved)) {}, Snapshot: func() *status.Snapshot { return &status.Snapshot{} }}
}

// scraped has every value by its name and labels, as they are written.
func scraped(t testing.TB, h http.Handler) map[string]float64 {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Errorf("a scrape is answered with %d: %s", w.Code, w.Body)
		return nil
	}
	values := map[string]float64{}
	for line := range strings.Lines(w.Body.String()) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		at := strings.LastIndexByte(line, ' ')
		value, err := strconv.ParseFloat(strings.TrimSpace(line[at+1:]), 64)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		values[line[:at]] = value
	}
	return values
}

// at once routes, as a loop does, and asRoute in a goroutine.
type asRoute struct{ route *proxy.Route }

func (r asRoute) Route(context.Context, *net.TCPConn) (proxy.Route, error) {
	if r.route.Target == "nobody:1" {
		return *r.route, proxy.Fail(proxy.NoEndpoints, errors.New("nobody serves it"))
	}
	route := *r.route
	route.Endpoints = proxy.InOrder(proxy.Endpoint{Addr: netip.MustParseAddrPort(route.Target)})
	return route, nil
}

type atOnce struct{ asRoute }

func (r atOnce) RouteNow(proxy.Accepted) (*proxy.Route, proxy.Chooser) {
	return r.route, proxy.InOrder(proxy.Endpoint{Addr: netip.MustParseAddrPort(r.route.Target)})
}

func listen(t *testing.T) *net.TCPListener {
	t.Helper()
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// serveEcho sends back all that comes, until its listener is closed, and then waits for the last.
func serveEcho(t *testing.T) (address string) {
	t.Helper()
	l := listen(t)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.AcceptTCP()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
			})
		}
	})
	t.Cleanup(func() { l.Close(); serving.Wait() })
	return l.Addr().String()
}

// talk makes one connection, and sends and receives so many bytes. hold, if it is not nil, keeps it open.
func talk(address string, bytes int, reset bool, hold <-chan struct{}) error {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	received := make(chan error, 1)
	go func() {
		_, err := io.CopyN(io.Discard, conn, int64(bytes))
		received <- err
	}()
	if _, err := conn.Write(make([]byte, bytes)); err != nil {
		return err
	}
	if err := <-received; err != nil {
		return err
	}
	if hold != nil {
		<-hold
	}
	if reset {
		return conn.(*net.TCPConn).SetLinger(0)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, conn)
	return err
}

// TestBytesAreExact carries a thousand connections of all kinds, while scrapes come one after another: no
// counter goes back, and in the end, with some connections still open, they say exactly what was moved.
func TestBytesAreExact(t *testing.T) {
	c := counters(100)
	server := &proxy.Server{Loops: 3, Done: c.Done}
	backend := serveEcho(t)
	client := proxy.Client{Name: "web-1", ID: "0123", Project: "shop", Service: "web"}
	var addresses []string
	var stops []func()
	for _, router := range []proxy.Router{
		atOnce{asRoute{&proxy.Route{Client: client, Port: 1, Target: backend}}},
		asRoute{&proxy.Route{Client: client, Port: 1, Target: backend}},
		asRoute{&proxy.Route{Client: client, Port: 2, Target: "nobody:1"}},
	} {
		l := listen(t)
		stop, err := server.Accept(proxy.NewListener(l), router)
		if err != nil {
			t.Fatal(err)
		}
		addresses, stops = append(addresses, l.Addr().String()), append(stops, stop)
	}
	h := c.Handler(Source{Moved: server.Moved, Snapshot: nothing().Snapshot})

	over, scrapes := make(chan struct{}), make(chan int)
	go func() {
		before, n := map[string]float64{}, 0
		for ; ; n++ {
			now := scraped(t, h)
			for name, was := range before {
				if !strings.HasPrefix(name, "ambassadord_") {
					continue
				}
				if value, there := now[name]; strings.Contains(name, "_total") && (value < was || !there) {
					t.Errorf("%s was %g and is %g", name, was, value)
				}
				if strings.Contains(name, "_open") && now[name] < 0 {
					t.Errorf("%s is %g", name, now[name])
				}
			}
			before = now
			select {
			case <-over:
				scrapes <- n
				return
			default:
			}
		}
	}()

	const all, atATime, held, refused = 1000, 50, 20, 100
	hold := make(chan struct{})
	var holding, talking sync.WaitGroup
	var moved atomic.Int64
	slots := make(chan struct{}, atATime)
	for i := range held {
		holding.Go(func() {
			n := 1 + rand.IntN(100_000)
			moved.Add(int64(n))
			if err := talk(addresses[i%2], n, false, hold); err != nil {
				t.Error(err)
			}
		})
	}
	for i := range all - held {
		slots <- struct{}{}
		talking.Go(func() {
			defer func() { <-slots }()
			if i < refused {
				conn, err := net.Dial("tcp", addresses[2])
				if errors.Is(err, syscall.ECONNRESET) { // it was accepted
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, conn) // until it is reset
				conn.Close()
				return
			}
			n := 1 + rand.IntN(1+rand.IntN(300_000))
			moved.Add(int64(n))
			if err := talk(addresses[i%2], n, i%5 == 0, nil); err != nil {
				t.Error(err)
			}
		})
	}
	talking.Wait()
	close(hold)
	holding.Wait()
	for _, stop := range stops {
		stop()
	}
	server.Drain(t.Context())
	close(over)
	t.Logf("%d scrapes meanwhile", <-scrapes)

	got, bytes := scraped(t, h), float64(moved.Load())
	labels := fmt.Sprintf(`{client="web-1",project="shop",service="web",target=%q}`, backend)
	nobody := `{client="web-1",project="shop",service="web",target="nobody:1"}`
	resets := got[`ambassadord_connections_failed_total{reason="client_gone"}`]
	for name, want := range map[string]float64{
		"ambassadord_connections_opened_total":                           all,
		"ambassadord_connections_closed_total":                           all,
		"ambassadord_connections_open":                                   0,
		"ambassadord_sent_bytes_total":                                   bytes,
		"ambassadord_received_bytes_total":                               bytes,
		"ambassadord_dials_total":                                        all - refused,
		"ambassadord_connection_establish_seconds_count":                 all - refused,
		"ambassadord_connection_unanswered_seconds_count":                refused,
		"ambassadord_connection_duration_seconds_count":                  all,
		`ambassadord_connections_failed_total{reason="no_endpoints"}`:    refused,
		"ambassadord_client_sent_bytes_total" + labels:                   bytes,
		"ambassadord_client_received_bytes_total" + labels:               bytes,
		"ambassadord_client_connections_opened_total" + labels:           all - refused,
		"ambassadord_client_connections_closed_total" + labels:           all - refused,
		"ambassadord_client_connections_open" + labels:                   0,
		"ambassadord_client_connection_establish_seconds_count" + labels: all - refused,
		"ambassadord_client_connections_closed_total" + nobody:           refused,
		strings.Replace("ambassadord_client_connections_failed_total"+nobody, ",service=", `,reason="no_endpoints",service=`, 1): refused,
	} {
		if value, there := got[name]; !there || value != want {
			t.Errorf("%s is %g (%t); want %g", name, value, there, want)
		}
	}
	if resets == 0 {
		t.Error("no connection was reset, of those that should be")
	}
}

// TestBytesOfOpenConnections: a scrape has what connections that go on have moved, to the byte, and their
// ends add nothing.
func TestBytesOfOpenConnections(t *testing.T) {
	c := counters(100)
	server := &proxy.Server{Loops: 2, Done: c.Done}
	route := &proxy.Route{Client: proxy.Client{Name: "web", ID: "0123"}, Target: serveEcho(t)}
	l := listen(t)
	stop, err := server.Accept(proxy.NewListener(l), atOnce{asRoute{route}})
	if err != nil {
		t.Fatal(err)
	}
	h := c.Handler(Source{Moved: server.Moved, Snapshot: nothing().Snapshot})
	const some, each = 600, 7 // more than a loop looks at in one go
	var conns []net.Conn
	for range some {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	exchange := func() {
		for _, conn := range conns {
			if _, err := conn.Write(make([]byte, each)); err != nil {
				t.Fatal(err)
			}
		}
		for _, conn := range conns {
			if _, err := io.ReadFull(conn, make([]byte, each)); err != nil {
				t.Fatal(err)
			}
		}
	}
	want := func(when string, open, closed, bytes float64) {
		t.Helper()
		got := scraped(t, h)
		for name, want := range map[string]float64{
			"connections_open": open, "connections_opened_total": some, "connections_closed_total": closed,
			"sent_bytes_total": bytes, "received_bytes_total": bytes,
		} {
			if value := got["ambassadord_"+name]; value != want {
				t.Errorf("%s: %s is %g; want %g", when, name, value, want)
			}
			mine := got["ambassadord_client_"+name+fmt.Sprintf(`{client="web",project="",service="",target=%q}`, route.Target)]
			if mine != want {
				t.Errorf("%s: %s of the client is %g; want %g", when, name, mine, want)
			}
		}
	}
	exchange()
	want("the first time", some, 0, some*each)
	want("at rest", some, 0, some*each)
	exchange()
	want("the second time", some, 0, 2*some*each)
	exchange()
	for _, conn := range conns {
		conn.Close()
	}
	stop()
	server.Drain(t.Context())
	want("in the end", 0, some, 3*some*each)
}

func record(client, target string, err error) proxy.Record {
	return proxy.Record{
		Route:    proxy.Route{Client: proxy.Client{Name: client, ID: "0123", Project: "shop"}, Target: target},
		Endpoint: proxy.Endpoint{Addr: netip.MustParseAddrPort("10.0.0.1:80")}, Attempts: 1, Held: time.Millisecond, Up: 10, Down: 20,
		Duration: time.Second, Err: err,
	}
}

// TestSeriesAreBounded: what there is no room for is counted all the same, and one client does not take the
// room of others.
func TestSeriesAreBounded(t *testing.T) {
	const most = 80
	c := counters(most)
	h := c.Handler(nothing())
	for i := range 1000 { // a container that declares a thousand targets
		c.Done(record("greedy", fmt.Sprint("target-", i, ":80"), nil))
	}
	for i := range 30 {
		c.Done(record(fmt.Sprint("modest-", i), "redis:6379", nil))
	}
	got := scraped(t, h)
	if n := got["ambassadord_client_series"]; n != most/clientShare+1+30 {
		t.Errorf("%g series; want a share of them, one for what is beyond it, and one for each modest client", n)
	}
	for name, want := range map[string]float64{
		`ambassadord_client_sent_bytes_total{client="greedy",project="shop",service="",target="target-0:80"}`:   10,
		`ambassadord_client_sent_bytes_total{client="greedy",project="shop",service="",target="_other"}`:        10 * (1000 - most/clientShare),
		`ambassadord_client_sent_bytes_total{client="modest-29",project="shop",service="",target="redis:6379"}`: 10,
		`ambassadord_sent_bytes_total`: 10 * 1030,
	} {
		if got[name] != want {
			t.Errorf("%s is %g; want %g", name, got[name], want)
		}
	}
	for i := range 1000 {
		c.Done(record(fmt.Sprint("many-", i), "redis:6379", proxy.Fail(proxy.ClientGone, io.EOF)))
	}
	got = scraped(t, h)
	all := 0.0
	for name, value := range got {
		if strings.HasPrefix(name, "ambassadord_client_sent_bytes_total{") {
			all += value
		}
	}
	if other := got[`ambassadord_client_sent_bytes_total{client="_other",project="_other",service="_other",target="_other"}`]; other == 0 || all != 10*2030 {
		t.Errorf("%g bytes in _other, and %g in all; want %d", other, all, 10*2030)
	}
	if n := got["ambassadord_client_series"]; n != most {
		t.Errorf("%g series; want %d", n, most)
	}
}

// TestHostileLabels: whatever a container calls itself, a scrape is one that can be read.
func TestHostileLabels(t *testing.T) {
	c := counters(1000)
	h := c.Handler(nothing())
	long := strings.Repeat("x", 10_000)
	for _, text := range []string{"a\nb", "a\"} 1\nambassadord_ready 0", "\xff\xfe", strings.Repeat("\xff", 200), "\u202e", "\x1b[31m", long + "1", long + "2", "", strings.Repeat("é", 100), "_other"} {
		r := record("web", text, nil)
		r.Route.Client.Project, r.Route.Client.Service = text, text
		c.Done(r)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK || strings.Contains(w.Body.String(), "error") {
		t.Fatalf("answered %d: %s", w.Code, w.Body)
	}
	consistent(t, c, nothing())
	for line := range strings.Lines(w.Body.String()) {
		if len(line) > 1000 || strings.ContainsAny(line, "\x1b\u202e") {
			t.Errorf("the line %q", line)
		}
	}
	got := scraped(t, h)
	if both := got[fmt.Sprintf(`ambassadord_client_sent_bytes_total{client="web",project=%[1]q,service=%[1]q,target=%[1]q}`, label(long+"1"))]; both != 20 {
		t.Errorf("two long texts that look the same have %g bytes; want 20", both)
	}
	if got["ambassadord_sent_bytes_total"] != 110 {
		t.Errorf("%g bytes in all", got["ambassadord_sent_bytes_total"])
	}
}

// TestNoPasswordIsALabel: a URL that stands where a target should may have one.
func TestNoPasswordIsALabel(t *testing.T) {
	const declared, shown = "postgres://app:s3cret@db:5432", "postgres://…@db:5432"
	c := counters(100)
	c.Done(record("web", declared, proxy.Fail(proxy.ResolveFailed, io.EOF)))
	w := httptest.NewRecorder()
	c.Handler(Source{Moved: nothing().Moved, Snapshot: func() *status.Snapshot {
		return &status.Snapshot{Targets: []status.Target{{Meaning: declared}}, Pools: []balance.PoolStatus{{Target: declared}}}
	}}).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	if text := w.Body.String(); strings.Contains(text, "s3cret") || !strings.Contains(text, shown) {
		t.Errorf("want %s, and no password:\n%s", shown, text)
	}
}

// FuzzLabel: a label is short, printable and stays as it is.
func FuzzLabel(f *testing.F) {
	f.Add("redis:6379")
	f.Add(strings.Repeat("\xff", 129))
	f.Fuzz(func(t *testing.T, text string) {
		l := label(text)
		if len(l) > mostLabel || label(l) != l || len(text) <= 32 && strconv.QuoteToASCII(l) == "" {
			t.Errorf("label(%q) = %q, then %q", text, l, label(l))
		}
	})
}

// TestSeriesGo: a series stays while its client declares its target or uses it, and a while longer; the sum
// stays.
func TestSeriesGo(t *testing.T) {
	c := counters(3)
	now, snapshot := time.Unix(1000, 0), &status.Snapshot{}
	declares := func(names ...string) {
		snapshot = &status.Snapshot{}
		for _, name := range names {
			snapshot.Containers = append(snapshot.Containers, status.Container{Name: name, Bindings: []status.Binding{{Target: "redis:6379"}}})
		}
	}
	sweep := func(after time.Duration) int {
		now = now.Add(after)
		c.clients.sweep(snapshot, now)
		return len(c.clients.list())
	}
	declares("a", "b")
	for _, name := range []string{"a", "b", "c", "d"} {
		c.Done(record(name, "redis:6379", nil))
	}
	for _, step := range []struct {
		what  string
		after time.Duration
		do    func()
		want  int
	}{
		{"all are new", 0, func() {}, 3},
		{"c is declared by nobody, but fresh", goneAfter - 1, func() {}, 3},
		{"and has been for long", 1, func() {}, 2},
		{"there is room again", 0, func() { c.Done(record("d", "redis:6379", nil)) }, 3},
		{"who uses it keeps it", goneAfter, func() { c.Done(record("d", "redis:6379", nil)) }, 3},
		{"b and d are gone", 0, func() { declares("a") }, 3},
		{"for long", goneAfter, func() {}, 1},
	} {
		step.do()
		if n := sweep(step.after); n != step.want {
			t.Errorf("%s: %d series; want %d", step.what, n, step.want)
		}
	}
	if sum := c.total.up.Load(); sum != 60 {
		t.Errorf("%d bytes in all; want 60", sum)
	}
}

func TestEndpoints(t *testing.T) {
	c := New(Options{Series: 100, Endpoints: true, Log: slog.New(slog.DiscardHandler)})
	c.Done(record("web", "redis:6379", proxy.Fail(proxy.ClientGone, io.EOF)))
	got := scraped(t, c.Handler(nothing()))
	if n := got[`ambassadord_client_connections_failed_total{client="web",endpoint="10.0.0.1:80",project="shop",reason="client_gone",service="",target="redis:6379"}`]; n != 1 {
		t.Errorf("%g failures at the endpoint", n)
	}
}

// TestReasonsHaveRoom: a reason that package proxy gains has a counter.
func TestReasonsHaveRoom(t *testing.T) {
	if len(reasons) > mostReasons {
		t.Errorf("%d reasons, and room for %d: raise mostReasons", len(reasons), mostReasons)
	}
	for _, r := range proxy.Reasons() {
		if i := reasonIndex(proxy.Fail(r, io.EOF)); reasons[i] != string(r) {
			t.Errorf("%s is counted as %s", r, reasons[i])
		}
	}
	if reasonIndex(nil) != -1 || reasons[reasonIndex(io.EOF)] != others {
		t.Error("no reason is counted as one")
	}
}

// TestCountingAllocatesNothing in the steady state, which a benchmark alone would not hold it to.
func TestCountingAllocatesNothing(t *testing.T) {
	c := counters(100)
	r := record("web", "redis:6379", proxy.Fail(proxy.ClientGone, io.EOF))
	c.Done(r)
	c.clients.sweep(&status.Snapshot{}, time.Now())
	if n := testing.AllocsPerRun(1000, func() { c.Done(r) }); n != 0 {
		t.Errorf("%g allocations; want none", n)
	}
}

func BenchmarkDone(b *testing.B) {
	c := counters(2000)
	var records []proxy.Record
	for i := range 1000 {
		records = append(records, record(fmt.Sprintf("project-container-%d", i%500), fmt.Sprintf("consul-service://service-%d", i), nil))
		c.Done(records[i])
	}
	c.clients.sweep(&status.Snapshot{}, time.Now())
	b.Run("one", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			c.Done(records[i%len(records)])
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(p *testing.PB) {
			for i := rand.IntN(1000); p.Next(); i++ {
				c.Done(records[i%len(records)])
			}
		})
	})
}
