package metrics

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

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
