package dns

import (
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
)

// FuzzParse feeds messages as they come off the wire to both parsers. Whatever a
// server sends, endpoints must be such that they can be dialled or looked up. The
// corpus has answers of NSD 4.6 and Consul 1.22 as they were sent.
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
		name := "s.test."
		if len(m.Question) > 0 {
			name = m.Question[0].Name
		}
		for _, qtype := range []uint16{mdns.TypeA, mdns.TypeAAAA} {
			found := parseHost(m, dnsQuestion{name, qtype})
			for _, addr := range found.addrs {
				if !addr.IsValid() || addr.IsUnspecified() {
					t.Errorf("address %v", addr)
				}
			}
			if found.ttl < 0 {
				t.Errorf("TTL %v", found.ttl)
			}
			if end := looseEnd(m, dnsQuestion{name, qtype}); end != "" && (len(found.addrs) > 0 || end == mdns.CanonicalName(name)) {
				t.Errorf("%d addresses, and still %q is to be asked for", len(found.addrs), end)
			}
		}
		_, _ = refusal(m), mayBeCut(m)
		found := parseService(m, name)
		if len(found.endpoints) > 2*maxExpanded {
			t.Errorf("%d endpoints", len(found.endpoints))
		}
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

// FuzzConverse lets a hostile server send anything instead of a reply, with the
// right ID so that it gets somewhere.
func FuzzConverse(f *testing.F) {
	question := new(mdns.Msg)
	question.SetQuestion("s.test.", mdns.TypeA)
	reply := new(mdns.Msg).SetReply(question)
	reply.Answer = parseRecords(f, "s.test. 1 A 10.0.0.1")
	packet, err := reply.Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(packet, uint16(len(packet)))
	f.Add(packet[:20], uint16(len(packet)))
	f.Add(packet[:20], uint16(20))
	f.Add([]byte{}, uint16(0))
	client := New(Config{})
	f.Fuzz(func(t *testing.T, packet []byte, length uint16) {
		ours, theirs := net.Pipe()
		deadline := time.Now().Add(10 * time.Second)
		_ = ours.SetDeadline(deadline)
		_ = theirs.SetDeadline(deadline)
		done := make(chan struct{})
		go func() {
			defer close(done)
			defer theirs.Close()
			var asked [2]byte
			if _, err := io.ReadFull(theirs, asked[:]); err != nil {
				return
			}
			text := make([]byte, binary.BigEndian.Uint16(asked[:]))
			if _, err := io.ReadFull(theirs, text); err != nil {
				return
			}
			if len(packet) >= 2 {
				packet = append(text[:2:2], packet[2:]...)
			}
			_, _ = theirs.Write(append(binary.BigEndian.AppendUint16(nil, length), packet...))
		}()
		m := question.Copy()
		unpack := func(packet []byte, into *mdns.Msg) error { return client.exchanger.unpack(t.Context(), packet, into) }
		reply, _, err := converse(ours, "tcp", m, unpack)
		_ = ours.Close()
		<-done
		if err == nil && !isReply(reply, m) {
			t.Errorf("took %v for a reply", reply)
		}
	})
}
