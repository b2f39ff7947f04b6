package dns

import (
	"net"
	"testing"

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
