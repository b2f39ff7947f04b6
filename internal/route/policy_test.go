package route

import (
	"bytes"
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/option"
	"github.com/ambassadord/ambassadord/internal/policy"
	"github.com/ambassadord/ambassadord/internal/route/routetest"
	"github.com/ambassadord/ambassadord/internal/settings"
	"github.com/ambassadord/ambassadord/internal/sources"
	"github.com/ambassadord/ambassadord/internal/status"
	"github.com/ambassadord/ambassadord/proxy"
	"github.com/ambassadord/ambassadord/resolver"
)

// TestChooserPassesOverWhatIsDenied: it offers the others, and says why when there are
// none; nothing is held against an endpoint that one client may not dial.
func TestChooserPassesOverWhatIsDenied(t *testing.T) {
	eager := func(o *option.Set) { o.EjectAfter = 1 }
	withTold(t, eager, func(t *testing.T, a *router, source *routetest.Told, b binding.Binding) {
		source.Say(routetest.At("127.0.0.1:80", "10.0.0.2:80", "169.254.169.254:80"))
		time.Sleep(time.Second) // in the bubble: the source has said it
		for range 5 {
			c := a.chooserFor(t, b)
			if err := c.Refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
			attempt, ok := c.Next()
			if !ok || attempt.Addr != netip.MustParseAddrPort("10.0.0.2:80") {
				t.Fatalf("attempt %v, %t; want the one that may be dialled", attempt.Addr, ok)
			}
			attempt.Verdict.Cancelled()
			if more, ok := c.Next(); ok {
				t.Fatalf("it also offers %v", more.Addr)
			}
			if err := c.(proxy.Passer).PassedOver(); err == nil || hint.Of(err) == "" {
				t.Errorf("it says %v of the others", err)
			}
		}
		if s := a.sets.of(&b, nil).poolIn(a.pools).Status(); s.Out != 0 {
			t.Errorf("%d are out for what the policy denied", s.Out)
		}
		b.Place = binding.InListener
		offered := map[string]bool{}
		c := a.chooserFor(t, b)
		if err := c.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		for attempt, ok := c.Next(); ok; attempt, ok = c.Next() {
			offered[attempt.Addr.String()] = true
			attempt.Verdict.Cancelled()
		}
		if len(offered) != 3 {
			t.Errorf("a listener is offered %v; want all: none was ejected for what others may not", offered)
		}
	})
}

// TestReloadHoldsForWhoWaits: a connection that has its route already is asked about by
// the policy that holds when its endpoint is chosen.
func TestReloadHoldsForWhoWaits(t *testing.T) {
	withTold(t, nil, func(t *testing.T, a *router, source *routetest.Told, b binding.Binding) {
		source.Say(routetest.At("127.0.0.1:80"))
		time.Sleep(time.Second)
		tell := func(loopback bool) {
			a.settings.Replace(settings.New(config.Config{}, nil, policy.New(policy.Config{AllowLoopback: loopback})))
		}
		tell(false)
		c := a.chooserFor(t, b)
		for _, allowed := range []bool{false, true, false} {
			tell(allowed)
			if err := c.Refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
			attempt, ok := c.Next()
			if ok != allowed {
				t.Errorf("offered: %t; want %t", ok, allowed)
			}
			if ok {
				attempt.Verdict.Cancelled()
			}
		}
	})
}

// TestDeclaredByTheImage: of what a container declares, what its image declares itself is
// told apart by key and value.
func TestDeclaredByTheImage(t *testing.T) {
	image := &dockerd.Image{Labels: map[string]string{"connect.80": "a:1"}, Env: []string{"BACKEND_81=b:1"}}
	for _, test := range []struct {
		b     binding.Binding
		image *dockerd.Image
		want  policy.Known
	}{
		{binding.Binding{Place: binding.InLabel, Key: "connect.80", Text: "a:1"}, image, policy.Yes},
		{binding.Binding{Place: binding.InLabel, Key: "connect.80", Text: "a:2"}, image, policy.No}, // overridden
		{binding.Binding{Place: binding.InLabel, Key: "connect[80]", Text: "a:1"}, image, policy.No},
		{binding.Binding{Place: binding.InEnvironment, Key: "BACKEND_81", Text: "b:1"}, image, policy.Yes},
		{binding.Binding{Place: binding.InEnvironment, Key: "BACKEND_81", Text: "c:1"}, image, policy.No},
		{binding.Binding{Place: binding.InEnvironment, Key: "connect.80", Text: "a:1"}, image, policy.No},
		{binding.Binding{Place: binding.InLabel, Key: "connect.80", Text: "a:1"}, nil, policy.Unknown},
	} {
		if got := byImage(&test.b, test.image); got != test.want {
			t.Errorf("%+v: %v; want %v", test.b, got, test.want)
		}
	}
}

// TestDeniedTargetIsNotWatched: a file that a container must not name is never read.
func TestDeniedTargetIsNotWatched(t *testing.T) {
	reader := settings.Reader{Parse: parserOf(t).Parse}
	cfg := config.Default()
	cfg.Modes = nil
	s, err := reader.Read(cfg)
	if err != nil {
		t.Fatal(err)
	}
	layers := &binding.Layers{Permit: s.Layers.Permit}
	withTold(t, nil, func(t *testing.T, a *router, _ *routetest.Told, _ binding.Binding) {
		a.resolver = parserOf(t)
		table := a.tableOf(layers, routetest.Labelled("web", map[string]string{
			"connect.80": "file:///etc/shadow", "connect.81": "file:///etc/ambassadord/a.list", "connect.82": "consul://127.0.0.1:9999/k", "connect.83": "10.0.0.1:80", "connect.84": "127.0.0.1:80",
		}))
		var kept []string
		var d declared // what the resolver is told to watch
		d.follow(table)
		for _, owned := range d.byOwner() {
			for _, target := range owned.Targets {
				kept = append(kept, target.String())
			}
		}
		slices.Sort(kept)
		if got := strings.Join(kept, " "); got != "10.0.0.1:80 file:///etc/ambassadord/a.list" {
			t.Errorf("watched: %s", got)
		}
		n := table.Namespaces()[0]
		for port, at := range map[uint16]string{80: "/etc/shadow", 82: "127.0.0.1:9999", 84: "127.0.0.1:80"} {
			_, err := a.For(n, Flow{netip.MustParseAddrPort("127.0.0.1:4000"), netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)})
			if proxy.ReasonOf(err) != proxy.Denied || !strings.Contains(err.Error(), at) || !strings.Contains(err.Error(), "container web") || hint.Of(err) == "" {
				t.Errorf("port %d: %v (%s); want the reason denied, with who and what", port, err, hint.Of(err))
			}
		}
	})
}

// TestSharedWorkIsDoneByLeaveOfOne: checks and registries are shared, so that one client
// who may is enough, and none is as much as any container may.
func TestSharedWorkIsDoneByLeaveOfOne(t *testing.T) {
	private := netip.MustParseAddrPort("127.0.0.1:9999")
	withTold(t, nil, func(t *testing.T, a *router, _ *routetest.Told, _ binding.Binding) {
		a.resolver = parserOf(t)
		place, err := policy.ParsePlace("loopback")
		if err != nil {
			t.Fatal(err)
		}
		a.settings.Replace(settings.New(config.Config{}, &binding.Layers{}, policy.New(policy.Config{Rules: []policy.Rule{{Action: policy.Allow, Containers: []string{"trusted"}, To: []policy.Place{place}}}})))
		declares := map[string]string{"connect.80": "127.0.0.1:9999", "connect.81": "consul://registry.test:9999/k"}
		other, trusted := routetest.Labelled("other", declares), routetest.Labelled("trusted", declares)
		other.ID, trusted.ID = strings.Repeat("a", 64), strings.Repeat("b", 64)
		for what, test := range map[string]struct {
			containers []*dockerd.Container
			want       bool
		}{"nobody": {nil, false}, "one who may not": {[]*dockerd.Container{other}, false}, "one of two who may": {[]*dockerd.Container{other, trusted}, true}} {
			a.tableOf(nil, test.containers...)
			if err := a.audience.MayCheck("127.0.0.1:9999")(private, false); (err == nil) != test.want {
				t.Errorf("%s: a check: %v", what, err)
			}
			if err := a.audience.MayAsk("registry.test:9999", private); (err == nil) != test.want {
				t.Errorf("%s: a registry: %v", what, err)
			}
			if err := a.audience.MayAsk("registry.test:9999", netip.MustParseAddrPort("10.0.0.1:9999")); err != nil {
				t.Errorf("%s: a registry elsewhere: %v", what, err)
			}
		}
	})
}

// TestAuditIsLoggedOncePerCase, and no more cases than are remembered.
func TestAuditIsLoggedOncePerCase(t *testing.T) {
	withTold(t, nil, func(t *testing.T, a *router, _ *routetest.Told, _ binding.Binding) {
		log, lines := logCounted()
		s := policy.New(policy.Config{Rules: []policy.Rule{{Action: policy.Audit}}}).Scope(policy.Client{Container: "web"}, policy.Target{Text: "x"})
		v := s.Check(netip.MustParseAddrPort("10.0.0.1:80"), false)
		for range 2 * mostAudits {
			for i := range 3 {
				a.audits.note(log, s, v, netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), uint16(80+i)))
			}
		}
		if n := lines.Load(); n != 3 {
			t.Errorf("%d lines; want one for each of three", n)
		}
		for i := range 2 * mostAudits {
			a.audits.note(log, s, v, netip.AddrPortFrom(netip.MustParseAddr("10.0.0.2"), uint16(i+1)))
		}
		if n := lines.Load(); n != mostAudits {
			t.Errorf("%d lines; want at most %d in that time", n, mostAudits)
		}
		other := policy.New(policy.Config{Rules: []policy.Rule{{Action: policy.Audit}}}).Scope(policy.Client{Container: "db"}, policy.Target{Text: "x"})
		a.audits.note(log, other, v, netip.MustParseAddrPort("10.0.0.1:80"))
		if n := lines.Load(); n != mostAudits+1 {
			t.Errorf("%d lines; want one more, of a client that others have left nothing", n)
		}
		time.Sleep(auditEvery)
		a.audits.note(log, s, v, netip.MustParseAddrPort("10.0.0.1:80"))
		if n := lines.Load(); n != mostAudits+2 {
			t.Errorf("%d lines after that time; want one more", n)
		}
	})
}

// TestAuditNamesTheClientAsOtherLinesDo: client=web finds it, beside the connections.
func TestAuditNamesTheClientAsOtherLinesDo(t *testing.T) {
	var n audits
	var out bytes.Buffer
	s := policy.New(policy.Config{Rules: []policy.Rule{{Action: policy.Audit}}}).Scope(policy.Client{Container: "web"}, policy.Target{Text: "db:80"})
	at := netip.MustParseAddrPort("10.0.0.1:80")
	n.note(slog.New(slog.NewTextHandler(&out, nil)), s, s.Check(at, false), at)
	if !strings.Contains(out.String(), " client=web target=db:80 endpoint=10.0.0.1:80 ") {
		t.Errorf("the line is %s", out.String())
	}
}

// parserOf is a Resolver that parses as the daemon's does, and does not run.
func parserOf(t *testing.T) *resolver.Resolver {
	t.Helper()
	built, err := sources.Build(config.Default(), "", nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(built.Close)
	return built.Resolver
}

// lineCounter is a slog.Handler that counts.
type lineCounter struct{ n atomic.Int64 }

func (*lineCounter) Enabled(context.Context, slog.Level) bool { return true }

func (c *lineCounter) Handle(context.Context, slog.Record) error {
	c.n.Add(1)
	return nil
}

func (c *lineCounter) WithAttrs([]slog.Attr) slog.Handler { return c }
func (c *lineCounter) WithGroup(string) slog.Handler      { return c }

func logCounted() (*slog.Logger, *atomic.Int64) {
	c := &lineCounter{}
	return slog.New(c), &c.n
}

// TestReportSaysWhatIsDenied: of a client's binding the endpoints that the policy keeps from it, with
// what decided, and of no other's.
func TestReportSaysWhatIsDenied(t *testing.T) {
	withTold(t, nil, func(t *testing.T, a *router, _ *routetest.Told, _ binding.Binding) {
		web := routetest.Labelled("web", map[string]string{"connect.80": "told://a", "connect.81": "told://b", "connect.82": "told://c"})
		a.tableOf(nil, web)
		id := web.ShortID()
		s := &status.Snapshot{
			Containers: []status.Container{{ID: id, Bindings: []status.Binding{{Port: 80, Meaning: "told://a"}, {Port: 81, Meaning: "told://b"}, {Port: 82, Meaning: "told://c"}}}},
			Targets: []status.Target{
				{Meaning: "told://a", Status: resolver.Status{Endpoints: routetest.At("10.0.0.2:80", "169.254.169.254:80").Endpoints}},
				{Meaning: "told://b", Status: resolver.Status{Endpoints: routetest.At("10.0.0.2:80").Endpoints}},
				{Meaning: "told://c", Status: resolver.Status{Endpoints: routetest.At("127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", "127.0.0.1:4", "127.0.0.1:5").Endpoints}},
			},
		}
		reportDenied(a.Router, s)
		denied := s.Containers[0].Bindings[0].Denied
		if len(denied) != 1 || denied[0].Endpoint != "169.254.169.254:80" || !strings.Contains(denied[0].Error, "may not reach") || denied[0].Hint == "" {
			t.Errorf("reported %+v; want the metadata address, and why", denied)
		}
		if others := s.Containers[0].Bindings[1].Denied; len(others) != 0 {
			t.Errorf("reported %+v of a target that is allowed", others)
		}
		if many := s.Containers[0].Bindings[2].Denied; len(many) != mostDenied {
			t.Errorf("%d of five are reported, want %d", len(many), mostDenied)
		}
	})
}
