package dns

import (
	"testing"

	mdns "github.com/miekg/dns"
)

// FuzzParse feeds messages as they come off the wire to both parsers. Whatever a
// server sends, endpoints must be such that they can be dialled or looked up.
func FuzzParse(f *testing.F) {
	for _, records := range [][]string{
		{"s.test. 1 A 10.0.0.1", "s.test. 1 AAAA 2001:db8::1"},
		{"s.test. 1 CNAME b.test.", "b.test. 1 CNAME s.test."},
		{"s.test. 1 SRV 1 2 3 a.test.", "s.test. 1 SRV 0 0 0 .", `s.test. 1 SRV 1 2 3 \000\255.test.`},
	} {
		m := new(mdns.Msg)
		m.SetQuestion("s.test.", mdns.TypeSRV)
		m.Answer = parseRecords(f, records...)
		m.Extra = parseRecords(f, "a.test. 1 A 0.0.0.0", "a.test. 1 A 10.0.0.2")
		packet, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(packet)
	}
	f.Fuzz(func(t *testing.T, packet []byte) {
		m := new(mdns.Msg)
		if m.Unpack(packet) != nil {
			return
		}
		for _, qtype := range []uint16{mdns.TypeA, mdns.TypeAAAA} {
			found := parseHost(m, question{"s.test.", qtype})
			for _, addr := range found.addrs {
				if !addr.IsValid() || addr.IsUnspecified() {
					t.Errorf("address %v", addr)
				}
			}
			if found.ttl < 0 {
				t.Errorf("TTL %v", found.ttl)
			}
		}
		found := parseService(m, "s.test.")
		for _, e := range found.endpoints {
			port := e.Addr.Port()
			if !e.Addr.IsValid() {
				port = e.Port
				if _, ok := mdns.IsDomainName(e.Host); !ok || e.Host == "" || e.Host == "." {
					t.Errorf("host %q", e.Host)
				}
			}
			if port == 0 {
				t.Errorf("port 0 in %+v", e)
			}
		}
		if found.ttl < 0 {
			t.Errorf("TTL %v", found.ttl)
		}
	})
}
