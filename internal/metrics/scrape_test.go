package metrics

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/ambassadord/ambassadord/internal/balance"
	"github.com/ambassadord/ambassadord/internal/status"
	"github.com/ambassadord/ambassadord/proxy"
	"github.com/ambassadord/ambassadord/proxy/limit"
	"github.com/ambassadord/ambassadord/resolver"
)

// busy is what a daemon knows of so many containers, each of which declares two targets of two endpoints
// each, and its connections.
func busy(containers, connections int) Source {
	taken := time.Unix(1_700_000_000, 0)
	s := &status.Snapshot{Taken: taken, Took: time.Millisecond, Daemon: status.Daemon{Program: "ambassadord 1.2.3", Ready: true, HandOver: "none", Config: status.Configuration{Read: taken}}}
	s.Limits = append(s.Limits, limit.Status{What: "the daemon", Bounds: limit.Bounds{Open: 10_000}, Open: connections})
	check := balance.Check{Kind: "tcp"}
	var routes []*proxy.Route
	endpoint := func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 6379)
	}
	for i := range containers {
		c := status.Container{Name: fmt.Sprintf("project-%d-web-%d", i%20, i), ID: fmt.Sprintf("%012x", i), Project: fmt.Sprintf("project-%d", i%20), Service: "web"}
		for j := range 2 {
			target := fmt.Sprintf("consul-service://service-%d-%d", i, j)
			c.Bindings = append(c.Bindings, status.Binding{Port: uint16(j + 1), Target: target, Meaning: target})
			pool := balance.PoolStatus{Target: target, Options: balance.Options{Check: check}}
			t := status.Target{Meaning: target, Clients: 1}
			for k := range 2 {
				addr := endpoint(4*i + 2*j + k)
				m := balance.MemberStatus{Health: balance.EndpointStatus{Open: 3, Checks: []balance.CheckStatus{{Check: check, Verdict: "up"}}}}
				m.Addr = addr
				pool.Members = append(pool.Members, m)
				t.Status.Endpoints = append(t.Status.Endpoints, resolver.Endpoint{Addr: addr})
			}
			t.Status.Queries = []resolver.QueryStatus{{Query: resolver.Query{Scheme: "consul-service"}, Answered: taken.Add(-time.Minute)}}
			s.Pools, s.Targets = append(s.Pools, pool), append(s.Targets, t)
			routes = append(routes, &proxy.Route{Client: proxy.Client{Name: c.Name, ID: c.ID, Project: c.Project, Service: c.Service}, Port: uint16(j + 1), Target: target})
		}
		s.Containers = append(s.Containers, c)
	}
	var moved []proxy.Moved
	for i := range connections {
		moved = append(moved, proxy.Moved{Route: routes[i%len(routes)], Endpoint: endpoint(2*(i%len(routes)) + i/len(routes)%2), Up: 100, Down: 10_000, First: true, Attempts: 1, Held: time.Millisecond})
	}
	return Source{
		Moved: func(some func([]proxy.Moved)) {
			for at := 0; at < len(moved); at += 256 {
				some(moved[at:min(at+256, len(moved))])
			}
		},
		Snapshot: func() *status.Snapshot { return s },
	}
}

// TestGauges has a scrape of a small host.
func TestGauges(t *testing.T) {
	from := busy(2, 8)
	s := from.Snapshot()
	s.Containers[0].Mistakes, s.Containers[1].Bindings[0].Overruled = 3, "another has it"
	s.Listeners = []status.Listener{{Target: "redis:6379"}}
	s.Daemon.Engine = io.EOF
	s.Pools[0].Out, s.Pools[0].Panic = 1, true
	s.Pools[0].Members[0].Health.Ejected, s.Pools[0].Members[1].Health.Checks[0].Verdict = true, "down"
	s.Pools = append(s.Pools, s.Pools[0]) // the same target with other options
	s.Targets[1].Status.Err = io.EOF
	s.Targets[1].Status.Queries[0].Err, s.Targets[1].Status.Queries[0].Failing = io.EOF, s.Taken.Add(-time.Hour)
	s.Targets[2].Status.Queries[0].Unwatched = true
	got := scraped(t, counters(100).Handler(from))
	const first, second = `{target="consul-service://service-0-0"}`, `{target="consul-service://service-0-1"}`
	for name, want := range map[string]float64{
		`build_info{version="ambassadord 1.2.3"}`: 1, "ready": 1, "engine_up": 0, `handover{state="none"}`: 1, "snapshot_seconds": 0.001,
		"containers": 2, "bindings": 4, "bindings_quarantined": 1, "declaration_mistakes": 3, "listeners": 1, "targets": 4,
		"target_clients" + first: 1, "target_endpoints" + first: 2, "target_failing" + first: 0, "target_failing" + second: 1,
		"target_endpoints_out" + first: 2, "target_endpoints_ejected" + first: 2, "target_panic" + first: 1, "target_panic" + second: 0,
		`target_checks{target="consul-service://service-0-0",verdict="up"}`: 2, `target_checks{target="consul-service://service-0-0",verdict="down"}`: 2,
		`source_watches{source="consul-service"}`: 3, `source_unwatched{source="consul-service"}`: 1, `source_failing{source="consul-service"}`: 1,
		`source_failing_seconds{source="consul-service"}`: 3600, `source_oldest_answer_seconds{source="consul-service"}`: 60,
		`limit_open{limit="the daemon"}`: 8, `limit_most{limit="the daemon"}`: 10_000, `limit_waiting{limit="the daemon"}`: 0,
		"connections_opened_total": 8, "connections_open": 8, "client_series": 4, "client_series_limit": 100, "client_series_overflows_total": 0,
	} {
		if value, there := got["ambassadord_"+name]; !there || value != want {
			t.Errorf("%s is %g (%t); want %g", name, value, there, want)
		}
	}
}

// TestGaugesAreBounded: targets and limits, whose names containers choose, are no more than series may be.
func TestGaugesAreBounded(t *testing.T) {
	from := busy(50, 0)
	s := from.Snapshot()
	for i := range 100 {
		s.Limits = append(s.Limits, limit.Status{What: fmt.Sprint("target ", i), Open: 1})
	}
	const most = 7
	c := New(Options{Series: most, Endpoints: true, Log: slog.New(slog.DiscardHandler)})
	count := map[string]int{}
	got := scraped(t, c.Handler(from))
	for name := range got {
		family, _, _ := strings.Cut(name, "{")
		count[family]++
	}
	for _, family := range []string{"target_endpoints", "target_endpoints_out", "limit_open", "endpoint_out"} {
		if n := count["ambassadord_"+family]; n > most+1 || n < most {
			t.Errorf("%d series of %s; want %d, and one for the others", n, family, most)
		}
	}
	if n := got[`ambassadord_target_endpoints{target="_other"}`]; n != 2*(100-most) {
		t.Errorf("%g endpoints of other targets", n)
	}
}

// TestTargetsLeaveRoom: a container that declares more targets than are told apart takes the gauges of no other's.
func TestTargetsLeaveRoom(t *testing.T) {
	s := &status.Snapshot{
		Containers: []status.Container{{Name: "greedy"}, {Name: "modest", Bindings: []status.Binding{{Meaning: "redis:6379"}}}},
		Targets:    []status.Target{{Meaning: "postgres:5432"}, {Meaning: "redis:6379", Clients: 1}},
		Listeners:  []status.Listener{{Target: "postgres:5432"}},
	}
	for i := range 1000 {
		target := fmt.Sprintf("a-%04d:80", i)
		s.Containers[0].Bindings = append(s.Containers[0].Bindings, status.Binding{Meaning: target})
		s.Targets = append(s.Targets, status.Target{Meaning: target, Clients: 1})
	}
	slices.SortFunc(s.Targets, func(a, b status.Target) int { return strings.Compare(a.Meaning, b.Meaning) })
	from := nothing()
	from.Snapshot = func() *status.Snapshot { return s }
	got := scraped(t, counters(20).Handler(from))
	for name, want := range map[string]float64{"postgres:5432": 0, "redis:6379": 1, "a-0000:80": 1, "_other": 1000 - 18} {
		name = fmt.Sprintf("ambassadord_target_clients{target=%q}", name)
		if value, ok := got[name]; !ok || value != want {
			t.Errorf("%s is %g, %t; want %g", name, value, ok, want)
		}
	}
}

// TestNamesAreLikeOthers holds the names and help texts to the conventions of Prometheus.
func TestNamesAreLikeOthers(t *testing.T) {
	for _, endpoints := range []bool{false, true} {
		c := New(Options{Series: 100, Endpoints: endpoints, Log: slog.New(slog.DiscardHandler)})
		c.Done(record("web", "redis:6379", proxy.Fail(proxy.ClientGone, io.EOF)))
		w := httptest.NewRecorder()
		c.Handler(busy(2, 8)).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		text := w.Body.String()
		consistent(t, c, busy(2, 8))
		problems, err := promlint.New(w.Body).Lint()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range problems {
			if strings.HasPrefix(p.Metric, "ambassadord_") {
				t.Errorf("%s: %s", p.Metric, p.Text)
			}
		}
		for _, f := range families {
			only := strings.Contains(f.help, "Only with --metrics-endpoints")
			if there := strings.Contains(text, "# TYPE "+f.name+" "+f.kind+"\n"); there != (endpoints || !only) {
				t.Errorf("%s is in a scrape: %t", f.name, there)
			}
		}
	}
}

// consistent has a registry look at a scrape: at names and labels, that metrics of a family have the same labels
// and that none is there twice.
func consistent(t *testing.T, c *Counters, from Source) {
	t.Helper()
	if _, err := (prometheus.Gatherers{&collector{c, from, time.Now}}).Gather(); err != nil {
		t.Error(err)
	}
}

// TestLabelsAreThoseOfTheTable: what a scrape has is what the documentation says.
func TestLabelsAreThoseOfTheTable(t *testing.T) {
	for _, endpoints := range []bool{false, true} {
		c := New(Options{Series: 100, Endpoints: endpoints, Log: slog.New(slog.DiscardHandler)})
		c.Done(record("web", "redis:6379", proxy.Fail(proxy.ClientGone, io.EOF)))
		all, _ := (&collector{c, busy(2, 8), time.Now}).Gather()
		for _, got := range all {
			i := slices.IndexFunc(families, func(f *metricFamily) bool { return f.name == got.GetName() })
			want := slices.Clone(families[i].labels)
			if endpoints && slices.Contains(want, "client") {
				want = append(want, "endpoint")
			}
			slices.Sort(want)
			for _, m := range got.GetMetric() {
				var names []string
				for _, l := range m.GetLabel() {
					names = append(names, l.GetName())
				}
				if !slices.Equal(names, want) {
					t.Errorf("%s has the labels %v; want %v, sorted", got.GetName(), names, want)
				}
			}
		}
	}
}

// BenchmarkScrape is a scrape of a busy host: 500 containers, 2,000 endpoints, 9,000 connections. It is to
// take less than 100 ms.
func BenchmarkScrape(b *testing.B) {
	for _, endpoints := range []bool{false, true} {
		b.Run(fmt.Sprintf("endpoints=%t", endpoints), func(b *testing.B) {
			c := New(Options{Series: 2000, Endpoints: endpoints, Log: slog.New(slog.DiscardHandler)})
			h := c.Handler(busy(500, 9000))
			bytes, lines := 0, 0
			b.ReportAllocs()
			for b.Loop() {
				w := httptest.NewRecorder()
				h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
				if w.Code != http.StatusOK {
					b.Fatal(w.Body)
				}
				if lines == 0 {
					bytes = w.Body.Len()
					for line := range strings.Lines(w.Body.String()) {
						if !strings.HasPrefix(line, "#") {
							lines++
						}
					}
				}
			}
			b.ReportMetric(float64(bytes), "bytes")
			b.ReportMetric(float64(lines), "series")
		})
	}
}
