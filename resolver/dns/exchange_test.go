package dns

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/ambassadord/ambassadord/resolver/sourcetest"
)

// cutLikeConsul answers over UDP with three of the records, and says nothing.
func cutLikeConsul(zone []mdns.RR) func(*mdns.Msg, bool) *mdns.Msg {
	return func(request *mdns.Msg, tcp bool) *mdns.Msg {
		m := zoneReply(request, zone)
		m.Authoritative = true
		if !tcp && len(m.Answer) > 3 {
			m.Answer = m.Answer[:3]
		}
		return m
	}
}

func TestAnswerCutWithoutSayingSo(t *testing.T) {
	t.Parallel()
	var records, want []string
	for i := range 5 {
		records = append(records, fmt.Sprintf("s.test. 0 A 10.0.0.%d", i))
		want = append(want, fmt.Sprintf("10.0.0.%d:80", i))
	}
	zone := parseRecords(t, records...)
	server := newTestServer(t)
	server.handle(cutLikeConsul(zone))
	config := testConfig(t, "", "", server)
	config.Timeout = amidSilence
	source := New(config).Hosts()
	w := sourcetest.Watch(t, source, hostQuery("s.test", 80))
	w.Await(t, want...)
	w.Stop(t)

	// Where there is nothing over TCP, what came over UDP has to do.
	for name, fault := range map[string]func(*mdns.Msg, bool) *mdns.Msg{
		"SERVFAIL": answerCode(mdns.RcodeServerFailure),
		"silence":  silence,
	} {
		server.handle(func(request *mdns.Msg, tcp bool) *mdns.Msg {
			if tcp {
				return fault(request, tcp)
			}
			return cutLikeConsul(zone)(request, tcp)
		})
		w = sourcetest.Watch(t, source, hostQuery("s.test", 80))
		if a := w.Next(t); len(a.Endpoints) != 3 {
			t.Errorf("%s over TCP: %v (%s), want the three of UDP", name, sourcetest.Endpoints(a), a.Note)
		}
		w.Stop(t)
	}
	server.handle(func(request *mdns.Msg, _ bool) *mdns.Msg { // a cache: no authority
		m := cutLikeConsul(zone)(request, true)
		m.Authoritative = false
		return m
	})
	asked := server.count("tcp A s.test.")
	w = sourcetest.Watch(t, New(testConfig(t, "", "", server)).Hosts(), hostQuery("s.test", 80))
	w.Await(t, want...)
	w.Stop(t)
	if n := server.count("tcp A s.test."); n != asked {
		t.Error("a cache's answer was asked for twice")
	}
}

func TestEDNSSwallowed(t *testing.T) {
	t.Parallel()
	zone := parseRecords(t, "a.test. 0 A 10.0.0.1")
	server := newTestServer(t)
	server.handle(func(request *mdns.Msg, _ bool) *mdns.Msg {
		if request.IsEdns0() != nil {
			return nil
		}
		return zoneReply(request, zone)
	})
	config := testConfig(t, "", "", server)
	config.Timeout = amidSilence
	w := sourcetest.Watch(t, New(config).Hosts(), hostQuery("a.test", 80))
	w.Await(t, "10.0.0.1:80")
	w.Stop(t)
}

// A server may ignore the size that it was offered.
func TestLargeAnswerOverUDP(t *testing.T) {
	var records []string
	for i := range 100 {
		records = append(records, fmt.Sprintf("s.test. 0 A 10.0.0.%d", i))
	}
	server := newTestServer(t, records...)
	found, err := New(testConfig(t, "", "", server)).lookupHost(t.Context(), hostQuery("s.test", 80))
	if err != nil || len(found.answer.Endpoints) != 100 || server.count("tcp") != 0 {
		t.Errorf("%d endpoints, %d questions over TCP, %v", len(found.answer.Endpoints), server.count("tcp"), err)
	}
}

func TestRefusal(t *testing.T) {
	for rcode, want := range map[int]string{
		mdns.RcodeServerFailure:  "SERVFAIL: it could not find out",
		mdns.RcodeRefused:        "REFUSED: it does not answer this for us",
		mdns.RcodeSuccess:        "knows no answer and asks nobody else",
		mdns.RcodeNotImplemented: "NOTIMP",
		3841:                     "response code 3841",
	} {
		m := &mdns.Msg{MsgHdr: mdns.MsgHdr{Rcode: rcode}}
		if got := refusal(m); got != want {
			t.Errorf("%d: %q, want %q", rcode, got, want)
		}
		m.SetEdns0(udpSize, false)
		m.IsEdns0().Option = []mdns.EDNS0{&mdns.EDNS0_EDE{
			InfoCode:  mdns.ExtendedErrorCodeNoReachableAuthority,
			ExtraText: "\x1b[31m" + strings.Repeat("x", 1000),
		}}
		want += ` (extended error 22: No Reachable Authority): "\x1b[31mxxx`
		if got := refusal(m); !strings.HasPrefix(got, want) || len(got) > 300 {
			t.Errorf("%d: %q, want it to begin with %q, and short", rcode, got, want)
		}
	}
}

// Whoever has authority over an alias alone leaves its end to be asked for.
func TestAliasToAnotherZone(t *testing.T) {
	partial := func(records ...string) func(*mdns.Msg, bool) *mdns.Msg {
		zone := parseRecords(t, records...)
		return func(request *mdns.Msg, tcp bool) *mdns.Msg {
			m := answerWith(nil, nil)(request, tcp)
			for _, rr := range zone {
				if rr.Header().Name == request.Question[0].Name {
					m.Answer = append(m.Answer, rr)
				}
			}
			if len(m.Answer) == 0 {
				m.Rcode = mdns.RcodeRefused
			}
			return m
		}
	}
	for name, test := range map[string]struct {
		given  []string // records of the target's own server, which refuses other names
		system []string // records of the system's
		want   string
		note   string
	}{
		"its own":    {[]string{"a.test. 0 CNAME b.test.", "b.test. 0 CNAME c.test.", "c.test. 0 A 10.0.0.1"}, nil, "10.0.0.1:80", ""},
		"elsewhere":  {[]string{"a.test. 0 CNAME b.test."}, []string{"b.test. 0 A 10.0.0.2"}, "10.0.0.2:80", ""},
		"nowhere":    {[]string{"a.test. 0 CNAME b.test."}, nil, "", "the name b.test, of which a.test is an alias, does not exist"},
		"no address": {[]string{"a.test. 0 CNAME b.test."}, []string{"b.test. 0 TXT x"}, "", "the name b.test, of which a.test is an alias, has no A or AAAA records"},
		"a loop":     {[]string{"a.test. 0 CNAME b.test.", "b.test. 0 CNAME a.test."}, nil, "", "a.test. is a chain of more than 16 aliases"},
	} {
		t.Run(name, func(t *testing.T) {
			given, system := newTestServer(t), newTestServer(t, test.system...)
			given.handle(partial(test.given...))
			w := sourcetest.Watch(t, New(testConfig(t, "", "", system)).Hosts(), at(given.addr, hostQuery("a.test", 80)))
			if test.want != "" {
				w.Await(t, test.want)
			} else if a := w.Await(t); a.Note != test.note {
				t.Errorf("note %q, want %q", a.Note, test.note)
			}
			w.Stop(t)
		})
	}
}

func TestLooseEnd(t *testing.T) {
	soa := "test. 60 SOA ns.test. root.test. 1 2 3 4 5"
	for name, test := range map[string]struct {
		answer, authority []string
		rcode             int
		want              string
	}{
		"no alias":          {answer: []string{"a.test. 1 AAAA ::1"}},
		"an open end":       {answer: []string{"a.test. 1 CNAME B.test."}, want: "b.test."},
		"records":           {answer: []string{"b.test. 1 A 10.0.0.1", "a.test. 1 CNAME b.test."}},
		"known to be empty": {answer: []string{"a.test. 1 CNAME b.test."}, authority: []string{soa}},
		"does not exist":    {answer: []string{"a.test. 1 CNAME b.test."}, rcode: mdns.RcodeNameError},
		"a loop":            {answer: []string{"a.test. 1 CNAME a.test."}},
	} {
		m := &mdns.Msg{MsgHdr: mdns.MsgHdr{Rcode: test.rcode}, Answer: parseRecords(t, test.answer...), Ns: parseRecords(t, test.authority...)}
		if got := looseEnd(m, dnsQuestion{"a.test.", mdns.TypeA}); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

// A hostile server names a new alias each time, and takes back the old ones.
func TestEndlessAliases(t *testing.T) {
	server := newTestServer(t)
	server.handle(func(request *mdns.Msg, tcp bool) *mdns.Msg {
		next := fmt.Sprintf("n%d.test.", server.count(""))
		return answerWith(parseRecords(t, request.Question[0].Name+" 0 CNAME "+next, "a.test. 0 CNAME "+next), nil)(request, tcp)
	})
	client := New(testConfig(t, "", "", server))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if found, err := client.lookupHost(ctx, hostQuery("a.test", 80)); err != nil || len(found.answer.Endpoints) != 0 {
		t.Errorf("%+v, %v", found, err)
	}
	if n := server.count(""); n > 2*(maxChain+1) {
		t.Errorf("%d questions for one lookup", n)
	}
}

func TestServiceTargetsOfAGivenServer(t *testing.T) {
	given := newTestServer(t,
		"s.test. 0 SRV 1 10 80 a.test.", "s.test. 0 SRV 1 20 81 a.test.", "s.test. 0 SRV 2 30 82 far.example.", "s.test. 0 SRV 3 0 83 10.0.0.9.",
		"a.test. 0 A 10.0.0.1", "a.test. 0 AAAA 2001:db8::1")
	client := New(testConfig(t, "", "", newTestServer(t)))
	w := sourcetest.Watch(t, client.Services(), at(given.addr, serviceQuery("s.test")))
	a := w.Await(t, "10.0.0.1:80", "[2001:db8::1]:80", "10.0.0.1:81", "[2001:db8::1]:81", "far.example.:82", "10.0.0.9:83")
	w.Stop(t)
	for _, e := range a.Endpoints {
		if e.Addr.IsValid() != (e.Host == "") || e.Addr.Port() == 81 && (e.Weight != 20 || e.Priority != 1 || e.Name != "a.test") {
			t.Errorf("endpoint %+v", e)
		}
	}
	given.serve(t, "s.test. 60 SRV 1 10 80 a.test.", "a.test. 5 A 10.0.0.1")
	config := testConfig(t, "", "")
	config.MaxTTL = time.Minute
	found, err := New(config).lookupService(t.Context(), at(given.addr, serviceQuery("s.test")))
	if err != nil || found.holds != 5*time.Second {
		t.Errorf("it holds for %v, %v; want the 5 s of the target", found.holds, err)
	}
	if n := given.count("udp A a.test."); n == 0 || n > given.count("SRV") {
		t.Errorf("a target of two records was asked for %d times", n)
	}
}

// What a given server does not say of its targets within its time is left to the
// system's servers; the service itself is known.
func TestServiceTargetsInTime(t *testing.T) {
	var records []string
	for i := range 20 {
		records = append(records, fmt.Sprintf("s.test. 0 SRV 1 1 80 t%d.test.", i))
	}
	found := parseService(&mdns.Msg{Answer: parseRecords(t, records...)}, "s.test.")
	targets := slices.Clone(found.endpoints)
	given := newTestServer(t)
	given.handle(silence)
	client := New(testConfig(t, "", "", newTestServer(t)))
	up, err := client.upstream(t.Context(), given.addr)
	if err != nil {
		t.Fatal(err)
	}
	up.timeout = 50 * time.Millisecond // no question of this test is answered
	client.lookupTargets(t.Context(), up, &found)
	if len(targets) != 20 || !slices.Equal(found.endpoints, targets) {
		t.Errorf("endpoints %+v, want the 20 that there were", found.endpoints)
	}
	if n := given.count("A t"); n > 2*2*2 { // two families, two rounds, and the next target at most
		t.Errorf("waited for %d questions about targets", n)
	}
}
