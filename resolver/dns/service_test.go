package dns

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/internal/answer"
	"github.com/ambassadord/ambassadord/resolver/sourcetest"
)

func TestParseService(t *testing.T) {
	tests := map[string]struct {
		answer, extra []string
		want          []resolver.Endpoint
		note          string
		left          []string
		ttl           time.Duration
	}{
		"glue goes by name, not by place": {
			answer: []string{"s.test. 30 SRV 2 10 80 b.test.", "s.test. 30 SRV 1 20 81 A.test."},
			extra:  []string{"a.test. 9 A 10.0.0.1", "s.test. 1 TXT x", "other.test. 1 A 10.9.9.9", "b.TEST. 20 AAAA 2001:db8::2"},
			want: []resolver.Endpoint{
				{Addr: netip.MustParseAddrPort("10.0.0.1:81"), Name: "a.test", Priority: 1, Weight: 20},
				{Addr: netip.MustParseAddrPort("[2001:db8::2]:80"), Name: "b.test", Priority: 2, Weight: 10},
			},
			ttl: 9 * time.Second,
		},
		"glue through an alias": {
			answer: []string{"s.test. 30 SRV 0 0 80 a.test."},
			extra:  []string{"real.test. 30 A 10.0.0.1", "a.test. 4 CNAME real.test."},
			want:   []resolver.Endpoint{{Addr: netip.MustParseAddrPort("10.0.0.1:80"), Name: "a.test"}},
			ttl:    4 * time.Second,
		},
		"a target without glue stays a name": {
			answer: []string{"s.test. 30 SRV 0 1 80 a.test.", "s.test. 30 SRV 0 1 80 b.test."},
			extra:  []string{"b.test. 30 A 10.0.0.2"},
			want: []resolver.Endpoint{
				{Host: "a.test.", Port: 80, Name: "a.test", Weight: 1},
				{Addr: netip.MustParseAddrPort("10.0.0.2:80"), Name: "b.test", Weight: 1},
			},
			ttl: 30 * time.Second,
		},
		"a target with two addresses": {
			answer: []string{"s.test. 30 SRV 0 1 80 a.test."},
			extra:  []string{"a.test. 30 AAAA 2001:db8::1", "a.test. 30 A 10.0.0.1"},
			want: []resolver.Endpoint{
				{Addr: netip.MustParseAddrPort("10.0.0.1:80"), Name: "a.test", Weight: 1},
				{Addr: netip.MustParseAddrPort("[2001:db8::1]:80"), Name: "a.test", Weight: 1},
			},
			ttl: 30 * time.Second,
		},
		"an address as target": {
			answer: []string{"s.test. 30 SRV 0 1 80 10.0.0.7."},
			want:   []resolver.Endpoint{{Addr: netip.MustParseAddrPort("10.0.0.7:80"), Name: "10.0.0.7", Weight: 1}},
			ttl:    30 * time.Second,
		},
		"the service's name is an alias": {
			answer: []string{"real.test. 30 SRV 0 1 80 a.test.", "s.test. 5 CNAME real.test.", "not.test. 1 SRV 0 1 80 b.test."},
			want:   []resolver.Endpoint{{Host: "a.test.", Port: 80, Name: "a.test", Weight: 1}},
			ttl:    5 * time.Second,
		},
		"twice the same": {
			answer: []string{"s.test. 30 SRV 0 1 80 a.test.", "s.test. 30 SRV 0 1 80 a.test."},
			want:   []resolver.Endpoint{{Host: "a.test.", Port: 80, Name: "a.test", Weight: 1}},
			ttl:    30 * time.Second,
		},
		"no such service": {
			answer: []string{"s.test. 30 SRV 0 0 0 ."},
			note:   `the service is not offered (its SRV target is ".")`,
			ttl:    30 * time.Second,
		},
		"port 0": {
			answer: []string{"s.test. 30 SRV 0 0 0 a.test.", "s.test. 30 SRV 0 0 80 b.test."},
			want:   []resolver.Endpoint{{Host: "b.test.", Port: 80, Name: "b.test"}},
			left:   []string{"a.test has port 0 in its SRV record"},
			ttl:    30 * time.Second,
		},
		"a target that is no host name": {
			answer: []string{`s.test. 30 SRV 0 0 80 \027[31m.test.`},
			left:   []string{`\027[31m.test is an SRV target that is not a host name`},
			ttl:    30 * time.Second,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			m := &mdns.Msg{Answer: parseRecords(t, tt.answer...), Extra: parseRecords(t, tt.extra...)}
			got := parseService(m, "s.test.")
			if !slices.Equal(got.endpoints, tt.want) {
				t.Errorf("endpoints %+v\nwant %+v", got.endpoints, tt.want)
			}
			said := got.answer()
			if said.Note != tt.note {
				t.Errorf("note %q, want %q", said.Note, tt.note)
			}
			if left := sourcetest.LeftOut(said); !slices.Equal(left, tt.left) {
				t.Errorf("left out %q, want %q", left, tt.left)
			}
			if got.ttl != tt.ttl {
				t.Errorf("TTL %v, want %v", got.ttl, tt.ttl)
			}
		})
	}
}

func TestServiceAbsence(t *testing.T) {
	server := newTestServer(t, "host.test. 0 A 10.0.0.1", "dot.test. 0 SRV 0 0 0 .")
	source := New(testConfig(t, "search other.test", "", server)).Services()
	for name, want := range map[string]struct{ note, hint string }{
		"host.test":          {"the name host.test has no SRV records", "for its addresses write host.test:PORT"},
		"none.test":          {"the name none.test does not exist", "for its addresses write none.test:PORT"},
		"_none._tcp.test":    {"the name _none._tcp.test does not exist", ""},
		"none.service.other": {"the name none.service.other does not exist", ""},
		"dot.test":           {"the service is not offered", ""},
	} {
		w := sourcetest.Watch(t, source, serviceQuery(name))
		if a := w.Await(t); !strings.Contains(a.Note, want.note) || !strings.Contains(a.Hint, want.hint) || want.hint == "" && a.Hint != "" {
			t.Errorf("%s: note %q, hint %q; want %q", name, a.Note, a.Hint, want)
		}
		w.Stop(t)
	}
}

func TestServiceIsBounded(t *testing.T) {
	var records []string
	for i := range answer.MaxEndpoints + 5 {
		records = append(records, fmt.Sprintf("s.test. 0 SRV 0 1 %d t.test.", i+1))
	}
	server := newTestServer(t)
	zone := parseRecords(t, records...)
	server.handle(func(request *mdns.Msg, tcp bool) *mdns.Msg {
		m := zoneReply(request, zone)
		m.Compress = true
		if !tcp {
			m.Truncate(udpSize)
		}
		return m
	})
	w := sourcetest.Watch(t, New(testConfig(t, "", "", server)).Services(), serviceQuery("s.test"))
	a := w.Next(t)
	if len(a.Endpoints) != answer.MaxEndpoints || !strings.Contains(a.Note, "only the first 1000 of 1005") {
		t.Errorf("%d endpoints, note %q", len(a.Endpoints), a.Note)
	}
	w.Stop(t)
}

// TestServiceDoesNotMultiply feeds 64 KiB whose records, each with all addresses of
// its target, stand for two million endpoints.
func TestServiceDoesNotMultiply(t *testing.T) {
	m := &mdns.Msg{Compress: true}
	m.SetQuestion("s.test.", mdns.TypeSRV)
	for i := range 1200 {
		m.Answer = append(m.Answer, parseRecords(t, fmt.Sprintf("s.test. 0 SRV 0 1 %d t.test.", i+1))...)
		m.Extra = append(m.Extra, parseRecords(t, fmt.Sprintf("t.test. 0 A 10.0.%d.%d", i/250, i%250+1))...)
	}
	for len(m.Extra) < 1800 {
		m.Extra = append(m.Extra, m.Extra[0])
	}
	if packet, err := m.Pack(); err != nil || len(packet) > mdns.MaxMsgSize {
		t.Fatalf("%d bytes, %v: no such message comes over the wire", len(packet), err)
	}
	found := parseService(m, "s.test.")
	if n := len(found.endpoints); n == 0 || n > 2*maxExpanded {
		t.Errorf("%d endpoints from one message", n)
	}
}

func TestHowLongAnswersHold(t *testing.T) {
	client := New(Config{})
	for ttl, want := range map[time.Duration]time.Duration{
		0: time.Second, 5 * time.Second: 5 * time.Second, time.Hour: time.Minute, longest: time.Minute,
	} {
		if got := client.holds(ttl); got != want {
			t.Errorf("TTL %v holds for %v, want %v", ttl, got, want)
		}
	}
	for ttl, want := range map[time.Duration]time.Duration{
		0: time.Second, 5 * time.Second: 5 * time.Second, time.Hour: 10 * time.Second, longest: 10 * time.Second,
	} {
		if got := client.absence(ttl, "none").holds; got != want {
			t.Errorf("negative TTL %v holds for %v, want %v", ttl, got, want)
		}
	}
	if got := ttl(&mdns.RR_Header{Ttl: math.MaxInt32 + 1}); got != 0 {
		t.Errorf("a TTL with its highest bit set is %v, want 0", got)
	}
	soa := parseRecords(t, "test. 30 SOA ns.test. root.test. 1 2 3 4 7")
	if got := negativeTTL(&mdns.Msg{Ns: soa}); got != 7*time.Second {
		t.Errorf("negative TTL %v, want the SOA's 7s", got)
	}
	if got := negativeTTL(&mdns.Msg{}); got != longest {
		t.Errorf("negative TTL without SOA: %v", got)
	}
}
