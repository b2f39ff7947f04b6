package endpoints

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/balance"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/rundir"
)

// newBook returns a Book in folder, with a pool of three endpoints of which two have one name.
func newBook(t *testing.T, folder string) (*Book, *balance.Pool, *bytes.Buffer) {
	t.Helper()
	dir, err := rundir.Open(folder)
	if err != nil {
		t.Fatal(err)
	}
	pools := balance.New(balance.Config{})
	p := pools.Pool("redis", balance.Options{EjectAfter: 1, EjectFor: time.Hour})
	var all []balance.Endpoint
	for i, name := range []string{"redis", "redis", "single"} {
		all = append(all, balance.Endpoint{Addr: netip.MustParseAddrPort(fmt.Sprintf("10.0.0.%d:6379", i+1)), Name: name, Weight: 1})
	}
	p.Update(new(int), all)
	log := new(bytes.Buffer)
	return &Book{Pools: pools, Dir: dir, Note: dir.Decisions(""), Log: slog.New(slog.NewTextHandler(log, nil))}, p, log
}

// said is what holds, in words.
func said(all []Decided) string {
	var b strings.Builder
	for _, d := range all {
		fmt.Fprintf(&b, "%s %s", d.Address, d.State)
		if d.Weight != nil {
			fmt.Fprintf(&b, " %d", *d.Weight)
		}
		b.WriteString("; ")
	}
	return strings.TrimSuffix(b.String(), "; ")
}

func TestWhatIsDecidedHoldsForTheNextDaemon(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "run")
	b, p, _ := newBook(t, folder)
	for _, step := range []struct {
		order     Order
		done, all string
	}{
		{Order{Endpoint: "10.0.0.3:6379", Action: Drain}, "10.0.0.3:6379 drained", "10.0.0.3:6379 drained"},
		{Order{Endpoint: "redis", Action: Eject, For: time.Hour}, "10.0.0.1:6379 ejected; 10.0.0.2:6379 ejected", "10.0.0.1:6379 ejected; 10.0.0.2:6379 ejected; 10.0.0.3:6379 drained"},
		{Order{Endpoint: "[::ffff:10.0.0.1]:6379", Action: SetWeight, Weight: 7}, "10.0.0.1:6379 ejected 7", "10.0.0.1:6379 ejected 7; 10.0.0.2:6379 ejected; 10.0.0.3:6379 drained"},
		{Order{Endpoint: "10.0.0.2:6379", Action: Restore}, "10.0.0.2:6379 ", "10.0.0.1:6379 ejected 7; 10.0.0.3:6379 drained"},
		{Order{Endpoint: "10.9.9.9:1", Action: Drain, Unknown: true}, "10.9.9.9:1 drained", "10.0.0.1:6379 ejected 7; 10.0.0.3:6379 drained; 10.9.9.9:1 drained"},
		{Order{Endpoint: "10.9.9.9:1", Action: Restore}, "10.9.9.9:1 ", "10.0.0.1:6379 ejected 7; 10.0.0.3:6379 drained"},
	} {
		done, err := b.Do(step.order)
		if err != nil || said(done) != step.done || said(b.List()) != step.all {
			t.Errorf("%+v: %v: %s; all: %s; want %s; all: %s", step.order, err, said(done), said(b.List()), step.done, step.all)
		}
		next, _, log := newBook(t, folder)
		next.Pools.Override(netip.MustParseAddrPort("10.0.0.2:6379"), balance.Override{State: balance.Drained}) // as the note said once
		next.Recall()
		if got := said(next.List()); got != step.all || strings.Contains(log.String(), "WARN") {
			t.Errorf("%+v: the next daemon has %s; want %s\n%s", step.order, got, step.all, log)
		}
	}
	c := p.Choose("a")
	if u, ok := c.Next(); !ok || u.Addr.String() != "10.0.0.2:6379" {
		t.Errorf("%v is chosen; want the one of which nothing is decided", u.Addr)
	}
}

func TestRestoreEndsAnEjectionAfterFailures(t *testing.T) {
	b, p, _ := newBook(t, filepath.Join(t.TempDir(), "run"))
	c := p.Choose("a")
	u, _ := c.Next()
	u.Failed(fmt.Errorf("refused"))
	if _, err := b.Do(Order{Endpoint: u.Addr.String(), Action: Restore}); err != nil {
		t.Fatal(err)
	}
	for _, m := range p.Status().Members {
		if m.Out {
			t.Errorf("%s is out", m.Addr)
		}
	}
}

// TestAnEndpointThatNobodyHasDialled has the name of one that was, too: both are meant.
func TestAnEndpointThatNobodyHasDialled(t *testing.T) {
	b, _, _ := newBook(t, filepath.Join(t.TempDir(), "run"))
	b.Known = func(tell func(target string, addr netip.AddrPort, name string)) {
		tell("single:8000", netip.MustParseAddrPort("10.0.0.3:8000"), "single")
		tell("web", netip.MustParseAddrPort("10.0.0.4:8000"), "web")
		tell("other", netip.MustParseAddrPort("10.0.0.9:6379"), "redis")
	}
	for endpoint, want := range map[string]string{
		"single": "10.0.0.3:6379 drained; 10.0.0.3:8000 drained", "web": "10.0.0.4:8000 drained", "10.0.0.4:8000": "10.0.0.4:8000 drained",
	} {
		if done, err := b.Do(Order{Endpoint: endpoint, Action: Drain}); said(done) != want {
			t.Errorf("of %s: %s (%v); want %s", endpoint, said(done), err, want)
		}
	}
	if _, err := b.Do(Order{Endpoint: "redis", Action: Drain}); err == nil || !strings.Contains(err.Error(), "different hosts") {
		t.Errorf("a name of two targets' hosts, one not dialled yet: %v", err)
	}
	if _, err := b.Do(Order{Endpoint: "wbe", Action: Drain}); hint.Of(err) != "did you mean web?" {
		t.Errorf("%v (%s)", err, hint.Of(err))
	}
}

func TestMistakenOrders(t *testing.T) {
	b, _, _ := newBook(t, filepath.Join(t.TempDir(), "run"))
	for _, test := range []struct {
		order     Order
		want, fix string
	}{
		{Order{Action: Drain}, "no endpoint is named", "HOST:PORT"},
		{Order{Endpoint: "10.0.0.1:6378", Action: Drain}, `has the endpoint "10.0.0.1:6378"`, "did you mean 10.0.0.1:6379?"},
		{Order{Endpoint: "singel", Action: Drain}, `"singel"`, "did you mean single?"},
		{Order{Endpoint: "elsewhere", Action: Drain, Unknown: true}, `called "elsewhere"`, "IP address"},
		{Order{Endpoint: "192.0.2.1:9", Action: Restore}, "192.0.2.1:9", "status --all"},
		{Order{Endpoint: "single", Action: "kill"}, `"kill" is nothing`, "drain, eject"},
		{Order{Endpoint: strings.Repeat("x", 10000), Action: Drain}, "10,000 bytes", ""},
	} {
		done, err := b.Do(test.order)
		if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(hint.Of(err), test.fix) || len(err.Error()) > 500 {
			t.Errorf("%.60v: %v (%s); want %s (%s)", test.order, err, hint.Of(err), test.want, test.fix)
		}
		if len(done)+len(b.List()) > 0 {
			t.Errorf("%.60v: something is decided: %v", test.order, done)
		}
	}
}

func TestANoteThatIsNone(t *testing.T) {
	b, _, log := newBook(t, filepath.Join(t.TempDir(), "run"))
	for _, text := range []string{"{", `[{"address":"nowhere","state":"drained"}]`} {
		if err := b.Dir.WriteNote(b.Note, []byte(text)); err != nil {
			t.Fatal(err)
		}
		log.Reset()
		b.Recall()
		if !strings.Contains(log.String(), "WARN") || !strings.Contains(log.String(), "decide again") || len(b.List()) > 0 {
			t.Errorf("of %s the log says %q, and %v holds", text, log, b.List())
		}
	}
}

func TestHowMuchIsDecidedIsBounded(t *testing.T) {
	b, _, _ := newBook(t, filepath.Join(t.TempDir(), "run"))
	b.Dir = nil // to be quick
	order := func(i int) error {
		_, err := b.Do(Order{Endpoint: fmt.Sprintf("10.1.%d.%d:1", i/256, i%256), Action: Drain, Unknown: true})
		return err
	}
	for i := range mostDecided {
		if err := order(i); err != nil {
			t.Fatal(i, err)
		}
	}
	if err := order(mostDecided); err == nil || hint.Of(err) == "" {
		t.Errorf("one more: %v", err)
	}
	if err := order(0); err != nil {
		t.Errorf("one of them again: %v", err)
	}
}

// Whoever chooses a target's source chooses the names of its endpoints, too: one that looks like the address of
// an endpoint must not have an operator's order hit another.
func TestANameThatIsAnAddress(t *testing.T) {
	b, _, _ := newBook(t, filepath.Join(t.TempDir(), "run"))
	b.Pools.Pool("evil", balance.Options{}).Update(new(int), []balance.Endpoint{{Addr: netip.MustParseAddrPort("10.0.0.2:6379"), Name: "10.0.0.1:6379", Weight: 1}})
	done, err := b.Do(Order{Endpoint: "10.0.0.1:6379", Action: Drain})
	if err != nil || said(done) != "10.0.0.1:6379 drained" {
		t.Errorf("%v: %s; want the endpoint at that address alone", err, said(done))
	}
}

// A tenant's target whose source gives another's endpoint a name that an operator knows makes that name
// ambiguous, and has no order hit the other.
func TestTargetsThatDisagreeOnAName(t *testing.T) {
	b, _, _ := newBook(t, filepath.Join(t.TempDir(), "run"))
	other := b.Pools.Pool("other", balance.Options{})
	call := func(addr string) {
		other.Update(new(int), []balance.Endpoint{{Addr: netip.MustParseAddrPort(addr), Name: "single", Weight: 1}})
	}
	call("10.9.9.9:5432")
	if done, err := b.Do(Order{Endpoint: "single", Action: Drain}); err == nil || !strings.Contains(err.Error(), "10.9.9.9:5432") || len(done)+len(b.List()) > 0 {
		t.Errorf("%v: %s; want it refused", err, said(done))
	}
	b, _, _ = newBook(t, filepath.Join(t.TempDir(), "run"))
	b.Pools.Pool("other", balance.Options{}).Update(new(int), []balance.Endpoint{{Addr: netip.MustParseAddrPort("10.0.0.3:9121"), Name: "single", Weight: 1}})
	if done, err := b.Do(Order{Endpoint: "single", Action: Drain}); err != nil || said(done) != "10.0.0.3:6379 drained; 10.0.0.3:9121 drained" {
		t.Errorf("two ports of one host: %v: %s", err, said(done))
	}
}
