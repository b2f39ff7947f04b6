package metrics

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ambassadord/ambassadord/internal/status"
	"github.com/ambassadord/ambassadord/proxy"
)

// ours are the values of our counters.
func ours(t testing.TB, c *Counters) map[string]float64 {
	t.Helper()
	all := map[string]float64{}
	for name, value := range scraped(t, c.Handler(nothing())) {
		if strings.HasPrefix(name, "ambassadord_c") || strings.HasPrefix(name, "ambassadord_sent") || strings.HasPrefix(name, "ambassadord_dials") {
			all[name] = value
		}
	}
	return all
}

// TestCountersGoOn: the next daemon has all that its predecessor has counted, and what that counts later;
// and so has the one after it, although the first goes on.
func TestCountersGoOn(t *testing.T) {
	still := nothing().Moved
	first, second, third := counters(300), counters(300), counters(300)
	for i := range 250 {
		first.Done(record(fmt.Sprint("web-", i), "redis:6379", nil))
	}
	first.Done(record("web-1", "redis:6379", proxy.Fail(proxy.ClientGone, io.EOF)))
	tells, hears := first.Ledger(still), second.Predecessor()
	tellsOn, hearsOn := second.Ledger(still), third.Predecessor()
	pass := func(from *Ledger, to *Predecessor) (packets int) {
		t.Helper()
		for _, packet := range from.News() {
			if err := to.Add(packet); err != nil {
				t.Fatal(err)
			}
			packets++
		}
		return packets
	}
	same := func(when string, a, b *Counters) {
		t.Helper()
		if diff := cmp.Diff(ours(t, a), ours(t, b)); diff != "" {
			t.Errorf("%s (-first +next):\n%s", when, diff)
		}
	}
	pass(tells, hears)
	same("at once", first, second)
	if n := pass(tells, hears); n != 0 {
		t.Errorf("%d packets tell of nothing", n)
	}
	first.moved([]proxy.Moved{{Route: &proxy.Route{Client: proxy.Client{Name: "web-1", ID: "0123", Project: "shop"}, Target: "redis:6379"}, First: true, Up: 3, Down: 4, Attempts: 2}})
	pass(tells, hears)
	same("later", first, second)
	pass(tellsOn, hearsOn)
	first.Done(record("web-2", "redis:6379", nil))
	if n := pass(tells, hears); n != 2 {
		t.Errorf("%d packets for one connection; want one of the sum and one of its series", n)
	}
	pass(tellsOn, hearsOn)
	same("by way of the second", first, third)
	if open := second.total.open(); open != 1 {
		t.Errorf("%d connections are open; want the first daemon's", open)
	}
	hears.Ended() // it was killed
	if open := second.total.open(); open != 0 || second.total.closed.Load() != second.total.opened.Load() {
		t.Errorf("%d connections of a daemon that is gone are open", open)
	}
}

// TestPacketsAreBounded: the longest labels make no packet that a control socket would not carry.
func TestPacketsAreBounded(t *testing.T) {
	const mostPacket = 64 << 10
	c := counters(10_000)
	for i := range 10_000 {
		text := strings.Repeat("<", mostLabel-5) + fmt.Sprint(i)
		r := record(text, text, nil)
		r.Route.Client.Project, r.Route.Client.Service = text, text
		c.Done(r)
		for _, reason := range proxy.Reasons() {
			if i < 100 {
				r.Err = proxy.Fail(reason, io.EOF)
				c.Done(r)
			}
		}
	}
	packets := c.Ledger(nothing().Moved).News()
	if len(packets) != mostPackets {
		t.Errorf("%d packets; want the bound, %d", len(packets), mostPackets)
	}
	for _, packet := range packets {
		text, err := json.Marshal(struct {
			Counts json.RawMessage `json:"counts"`
		}{packet})
		if err != nil || len(text) > mostPacket {
			t.Fatalf("a packet of %d bytes, %v", len(text), err)
		}
	}
}

// FuzzAdd: whatever a process says that it has counted, no counter goes back, and the scrape can be read.
func FuzzAdd(f *testing.F) {
	c := counters(10)
	c.Done(record("web", "redis:6379", proxy.Fail(proxy.ClientGone, io.EOF)))
	for _, packet := range c.Ledger(nothing().Moved).News() {
		f.Add([]byte(packet))
	}
	f.Add([]byte(`{"series":[{"client":"_other","opened":-1}]}`))
	f.Add([]byte(`{"series":[{"client":"_other","target":"x","opened":1},{"client":"_none","failed":{"new":1}}]}`))
	f.Add([]byte(`{"total":{"established":{"bounds_ns":[1],"buckets":[1,2]}}}`))
	f.Fuzz(func(t *testing.T, packet []byte) {
		c := counters(3)
		c.Done(record("web", "redis:6379", nil))
		before := ours(t, c)
		p := c.Predecessor()
		err := p.Add(packet)
		p.Ended()
		for name, value := range ours(t, c) {
			if value < before[name] {
				t.Errorf("%s was %g and is %g after %s, %v", name, before[name], value, packet, err)
			}
		}
	})
}

// TestLongSums: the time that a few hundred thousand connections take which go on for a day each is counted, and told
// to the next daemon.
func TestLongSums(t *testing.T) {
	const many, day = 200_000, 24 * time.Hour
	c, next := counters(10), counters(10)
	r := record("web", "redis:6379", nil)
	r.Duration, r.Held = day, day
	for range many {
		c.Done(r)
	}
	hears := next.Predecessor()
	for _, packet := range c.Ledger(nothing().Moved).News() {
		if err := hears.Add(packet); err != nil {
			t.Fatal(err)
		}
	}
	got := ours(t, next)
	for _, name := range []string{
		"ambassadord_connection_duration_seconds_sum", "ambassadord_connection_establish_seconds_sum",
		`ambassadord_client_connection_establish_seconds_sum{client="web",project="shop",service="",target="redis:6379"}`,
	} {
		if want := many * day.Seconds(); got[name] != want {
			t.Errorf("%s is %g; want %g", name, got[name], want)
		}
	}
}

// TestNewsOfHalfAnEnd: what is told while an end is being counted lacks some of it, which is told next, although
// nothing else is counted.
func TestNewsOfHalfAnEnd(t *testing.T) {
	c, next := counters(10), counters(10)
	r := record("web", "redis:6379", nil)
	tells, hears := c.Ledger(nothing().Moved), next.Predecessor()
	pass := func() {
		for _, packet := range tells.News() {
			if err := hears.Add(packet); err != nil {
				t.Fatal(err)
			}
		}
	}
	s := c.clients.of(&r.Route, r.Endpoint.Addr)
	c.total.opens(true, 1, time.Second)
	c.total.moves(1, 2)
	c.total.closes(-1)
	pass()
	c.total.duration.observe(time.Second)
	s.opens(true, 1, time.Second)
	s.moves(1, 2)
	s.closes(-1)
	pass()
	if diff := cmp.Diff(ours(t, c), ours(t, next)); diff != "" {
		t.Errorf("(-first +next):\n%s", diff)
	}
}

// TestRoomBeforeTheEnd: a connection for whose series there was no room when it was opened is open nowhere when it has
// ended, although there is room by then; and so is one of the daemon before.
func TestRoomBeforeTheEnd(t *testing.T) {
	live := func(client, target string) proxy.Moved {
		r := record(client, target, nil)
		return proxy.Moved{Route: &r.Route, Endpoint: r.Endpoint.Addr, First: true, Attempts: 1}
	}
	ends := func(c *Counters, client, target string) {
		r := record(client, target, nil)
		r.Told.Connection = true
		c.Done(r)
	}
	makeRoom := func(c *Counters) {
		c.clients.sweep(&status.Snapshot{}, time.Unix(1000, 0).Add(2*goneAfter))
		if n := len(c.clients.list()); n > clientShare {
			t.Fatalf("%d series", n)
		}
	}
	good := func(when string, c *Counters, open int64) {
		t.Helper()
		c.clients.sweep(&status.Snapshot{}, time.Unix(1000, 0))
		sum := int64(0)
		for _, s := range append(c.clients.list(), &c.clients.other) {
			sum += s.open()
		}
		if sum != open || c.total.open() != open {
			t.Errorf("%s: %d are open, and %d by their series; want %d", when, c.total.open(), sum, open)
		}
	}
	c := counters(2 * clientShare)
	for i := range 2 * clientShare {
		c.Done(record(fmt.Sprint("earlier-", i/2), fmt.Sprint("x:", i), nil))
	}
	old := counters(100)
	tells, hears := old.Ledger(nothing().Moved), c.Predecessor()
	pass := func() {
		for _, packet := range tells.News() {
			if err := hears.Add(packet); err != nil {
				t.Fatal(err)
			}
		}
	}
	old.moved([]proxy.Moved{live("old", "redis:6379"), live("older", "redis:6379")})
	pass()
	c.moved([]proxy.Moved{live("web", "redis:6379"), live("web", "redis:6379"), live("other", "redis:6379")})
	good("opened", c, 5)
	makeRoom(c)
	ends(old, "old", "redis:6379")
	pass()
	good("the old daemon's has ended", c, 4)
	ends(c, "web", "redis:6379")
	good("one has ended", c, 3)
	c.moved([]proxy.Moved{live("web", "redis:6379")})
	ends(c, "web", "redis:6379")
	ends(c, "web", "redis:6379")
	good("and others", c, 2)
	hears.Ended()
	good("the old daemon has ended", c, 1)
	ends(c, "other", "redis:6379")
	good("all have", c, 0)
}

// TestCountsThatAddUpTooFar: no number of packets has a counter overflow.
func TestCountsThatAddUpTooFar(t *testing.T) {
	c := counters(10)
	p := c.Predecessor()
	for range 20 {
		_ = p.Add(json.RawMessage(`{"total":{"opened":1152921504606846976,"bytes_up":1152921504606846976,"duration":{"sum_us":1152921504606846976}}}`))
		_ = p.Add(json.RawMessage(`{"series":[{"client":"web","failed":{"a":1152921504606846976,"b":1152921504606846976,"c":1152921504606846976}}]}`))
		_ = p.Add(json.RawMessage(`{"series":[{"client":"web","dials":1152921504606846976}]}`))
		for name, value := range ours(t, c) {
			if value < 0 || value > 1<<61 {
				t.Fatalf("%s is %g", name, value)
			}
		}
	}
}
