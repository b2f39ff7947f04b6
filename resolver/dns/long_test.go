package dns

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	mdns "github.com/miekg/dns"
)

// TestLongAnswersAreCut: of an answer with thousands of records no more are read than may
// be used, and one within the bound is read whole.
func TestLongAnswersAreCut(t *testing.T) {
	for _, records := range []int{1, mostRecords, mostRecords + 1, 3 * mostRecords} {
		m := new(mdns.Msg)
		m.SetQuestion("many.example.", mdns.TypeA)
		m.Response, m.Compress = true, true
		for i := range records {
			m.Answer = append(m.Answer, &mdns.A{
				Hdr: mdns.RR_Header{Name: "many.example.", Rrtype: mdns.TypeA, Class: mdns.ClassINET},
				A:   net.IPv4(10, 0, byte(i>>8), byte(i)),
			})
		}
		m.Ns = []mdns.RR{&mdns.NS{Hdr: mdns.RR_Header{Name: "example.", Rrtype: mdns.TypeNS, Class: mdns.ClassINET}, Ns: "ns.example."}}
		packet, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		cut(packet)
		got := new(mdns.Msg)
		if err := got.Unpack(packet); err != nil {
			t.Fatalf("%d records: %v", records, err)
		}
		whole := records <= mostRecords
		if len(got.Answer) != min(records, mostRecords) || (len(got.Ns) == 1) != whole {
			t.Errorf("of %d records %d were read, and %d of the authority", records, len(got.Answer), len(got.Ns))
		}
	}
	cut(nil) // a message without a header is an error of its own
}

// TestLongAnswersTakeTurns: while as many long answers are read as may be, another one waits
// for its turn, and no longer than the question has time; a short one does not.
func TestLongAnswersTakeTurns(t *testing.T) {
	short, long := new(mdns.Msg), new(mdns.Msg)
	short.SetQuestion("few.example.", mdns.TypeA)
	long.SetQuestion("many.example.", mdns.TypeTXT)
	for range longAnswer / 200 {
		long.Answer = append(long.Answer, &mdns.TXT{
			Hdr: mdns.RR_Header{Name: "many.example.", Rrtype: mdns.TypeTXT, Class: mdns.ClassINET},
			Txt: []string{strings.Repeat("x", 200)},
		})
	}
	pack := func(m *mdns.Msg) []byte {
		packet, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		return packet
	}
	synctest.Test(t, func(t *testing.T) {
		c := New(Config{}).exchanger
		c.reading = make(chan struct{}, 1)
		c.reading <- struct{}{} // somebody reads one
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := c.unpack(ctx, pack(short), new(mdns.Msg)); err != nil {
			t.Errorf("a short one: %v", err)
		}
		if err := c.unpack(ctx, pack(long), new(mdns.Msg)); !errors.Is(err, errNotRead) {
			t.Errorf("a long one, which has no turn: %v", err)
		}
		time.AfterFunc(time.Minute, func() { <-c.reading })
		began := time.Now()
		if err := c.unpack(t.Context(), pack(long), new(mdns.Msg)); err != nil || time.Since(began) != time.Minute {
			t.Errorf("it was read after %v: %v", time.Since(began), err)
		}
		if len(c.reading) > 0 {
			t.Error("it has kept its turn")
		}
	})
}
