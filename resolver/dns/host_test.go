package dns

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/sourcetest"
)

func TestHostPublishesOnlyChanges(t *testing.T) {
	one := parseRecords(t, "a.test. 0 A 10.0.0.1", "a.test. 0 A 10.0.0.2")
	other := parseRecords(t, "a.test. 0 A 10.0.0.2", "a.test. 0 A 10.0.0.1")
	server := newTestServer(t)
	server.handle(func(request *mdns.Msg, _ bool) *mdns.Msg {
		if request.Question[0].Qtype == mdns.TypeA && server.count("udp A ")%2 == 0 {
			return zoneReply(request, one)
		}
		return zoneReply(request, other)
	})
	w := sourcetest.Watch(t, New(testConfig(t, "", "", server)).Hosts(), hostQuery("a.test", 80))
	w.Await(t, "10.0.0.1:80", "10.0.0.2:80")
	eventually(t, "it was asked six times", func() bool { return server.count("udp A ") >= 6 })
	w.Quiet(t)
	server.serve(t, "other.test. 0 A 10.0.0.1")
	a := w.Await(t)
	if want := "the name a.test does not exist"; a.Note != want {
		t.Errorf("note %q, want %q", a.Note, want)
	}
	w.Stop(t)
}

func TestHostAbsence(t *testing.T) {
	server := newTestServer(t, "text.test. 0 TXT hello", "zero.test. 0 A 0.0.0.0")
	source := New(testConfig(t, "", "", server)).Hosts()
	for host, note := range map[string]string{
		"text.test": "the name text.test has no A or AAAA records",
		"zero.test": "the name zero.test has no A or AAAA records",
		"none.test": "the name none.test does not exist",
	} {
		w := sourcetest.Watch(t, source, hostQuery(host, 80))
		if a := w.Await(t); a.Note != note {
			t.Errorf("%s: note %q, want %q", host, a.Note, note)
		}
		w.Stop(t)
	}
}

func TestHostFollowsAliases(t *testing.T) {
	server := newTestServer(t)
	server.handle(answerWith(parseRecords(t,
		"c.test. 0 A 10.0.0.3", // not in the order of the chain, and not in one case
		"B.test. 0 CNAME c.test.",
		"a.test. 0 CNAME b.TEST.",
		"stranger.test. 0 A 10.9.9.9",
	), nil))
	w := sourcetest.Watch(t, New(testConfig(t, "", "", server)).Hosts(), hostQuery("a.test", 80))
	w.Await(t, "10.0.0.3:80")
	server.handle(answerWith(parseRecords(t, "a.test. 0 CNAME b.test.", "b.test. 0 CNAME a.test.", "a.test. 0 A 10.0.0.1"), nil))
	if a := w.Await(t); !strings.Contains(a.Note, "more than 16 aliases") {
		t.Errorf("a loop of aliases: note %q", a.Note)
	}
	w.Stop(t)
}

func TestHostTruncatedAnswerComesOverTCP(t *testing.T) {
	var records, want []string
	for i := range 200 {
		records = append(records, fmt.Sprintf("big.test. 0 A 10.1.0.%d", i))
		want = append(want, fmt.Sprintf("10.1.0.%d:80", i))
	}
	zone := parseRecords(t, records...)
	server := newTestServer(t)
	server.handle(func(request *mdns.Msg, tcp bool) *mdns.Msg {
		m := zoneReply(request, zone)
		if !tcp {
			m.Truncate(udpSize)
		}
		return m
	})
	w := sourcetest.Watch(t, New(testConfig(t, "", "", server)).Hosts(), hostQuery("big.test", 80))
	w.Await(t, want...)
	w.Stop(t)
	if server.count("tcp A big.test.") == 0 {
		t.Error("never asked over TCP")
	}
}

func TestHostServerWithoutEDNS(t *testing.T) {
	zone := parseRecords(t, "old.test. 0 A 10.0.0.1")
	server := newTestServer(t)
	server.handle(func(request *mdns.Msg, _ bool) *mdns.Msg {
		if request.IsEdns0() == nil {
			return zoneReply(request, zone)
		}
		m := new(mdns.Msg).SetRcode(request, mdns.RcodeFormatError)
		m.Question = nil // some leave it out
		return m
	})
	w := sourcetest.Watch(t, New(testConfig(t, "", "", server)).Hosts(), hostQuery("old.test", 80))
	w.Await(t, "10.0.0.1:80")
	w.Stop(t)
}

func TestHostOneFamilyFails(t *testing.T) {
	t.Parallel()
	zone := parseRecords(t, "half.test. 0 A 10.0.0.1")
	for name, fault := range map[string]func(*mdns.Msg, bool) *mdns.Msg{
		"SERVFAIL": answerCode(mdns.RcodeServerFailure),
		"NXDOMAIN": answerCode(mdns.RcodeNameError),
		"silence":  silence,
	} {
		t.Run(name, func(t *testing.T) {
			server := newTestServer(t)
			server.handle(func(request *mdns.Msg, tcp bool) *mdns.Msg {
				if request.Question[0].Qtype == mdns.TypeAAAA {
					return fault(request, tcp)
				}
				return zoneReply(request, zone)
			})
			config := testConfig(t, "options attempts:15", "", server)
			config.Timeout = amidSilence
			w := sourcetest.Watch(t, New(config).Hosts(), hostQuery("half.test", 80))
			a := w.Await(t, "10.0.0.1:80")
			if noted := strings.Contains(a.Note, "AAAA records of half.test."); noted != (name != "NXDOMAIN") {
				t.Errorf("note %q", a.Note)
			}
			w.Stop(t)
			if n := server.count("AAAA"); name == "silence" && n > 8 {
				t.Errorf("waited for %d tries of AAAA although A had answered", n)
			}
		})
	}
}

func TestHostFailover(t *testing.T) {
	for name, fault := range map[string]func(*mdns.Msg, bool) *mdns.Msg{
		"SERVFAIL": answerCode(mdns.RcodeServerFailure),
		"REFUSED":  answerCode(mdns.RcodeRefused),
		"referral": answerCode(mdns.RcodeSuccess),
		"silence":  silence,
		"wrong question": func(request *mdns.Msg, _ bool) *mdns.Msg {
			m := new(mdns.Msg).SetReply(request)
			m.Question[0].Name = "evil.test."
			m.Answer = parseRecords(t, "a.test. 60 A 10.6.6.6")
			return m
		},
		"wrong ID": func(request *mdns.Msg, _ bool) *mdns.Msg {
			m := zoneReply(request, parseRecords(t, "a.test. 60 A 10.6.6.6"))
			m.Id++
			return m
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			first, second := newTestServer(t), newTestServer(t, "a.test. 0 A 10.0.0.1")
			first.handle(fault)
			config := testConfig(t, "", "", first, second)
			config.Timeout = amidSilence
			w := sourcetest.Watch(t, New(config).Hosts(), hostQuery("a.test", 80))
			w.Await(t, "10.0.0.1:80")
			w.Stop(t)
			if first.count("a.test.") == 0 {
				t.Error("the first server was not asked first")
			}
		})
	}
}

// TestSameErrorEachTime: of two questions that fail the error is the same whichever fails first,
// since an error that changes is logged anew.
func TestSameErrorEachTime(t *testing.T) {
	t.Parallel()
	server := newTestServer(t)
	client := New(testConfig(t, "", "", server))
	for _, slow := range []uint16{mdns.TypeA, mdns.TypeAAAA} {
		server.handle(func(request *mdns.Msg, tcp bool) *mdns.Msg {
			if request.Question[0].Qtype == slow {
				time.Sleep(20 * time.Millisecond) // the server's, to be the later one
			}
			return answerCode(mdns.RcodeRefused)(request, tcp)
		})
		if err := sourcetest.Watch(t, client.Hosts(), hostQuery("a.test", 80)).Err(t); err == nil || !strings.Contains(err.Error(), "for A records") {
			t.Errorf("with type %d later: %v", slow, err)
		}
	}
}

func TestHostErrors(t *testing.T) {
	closed, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := &testServer{addr: closed.LocalAddr().String()}
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	server := newTestServer(t)
	for name, c := range map[string]struct {
		server  *testServer
		handler func(*mdns.Msg, bool) *mdns.Msg
		timeout time.Duration
		want    string
	}{
		"SERVFAIL": {server, answerCode(mdns.RcodeServerFailure), 0, "SERVFAIL"},
		"REFUSED":  {server, answerCode(mdns.RcodeRefused), 0, "REFUSED"},
		"silence":  {server, silence, 250 * time.Millisecond, "no answer over udp within 250ms"},
		"nobody":   {nobody, nil, 0, "connection refused"},
	} {
		t.Run(name, func(t *testing.T) {
			c.server.handle(c.handler)
			config := testConfig(t, "", "", c.server)
			config.Timeout = cmp.Or(c.timeout, config.Timeout)
			client := New(config)
			for _, err := range []error{
				sourcetest.Watch(t, client.Hosts(), hostQuery("a.test", 80)).Err(t),
				sourcetest.Watch(t, client.Services(), serviceQuery("a.test")).Err(t),
			} {
				if err == nil {
					t.Fatal("Watch returned nil")
				}
				for _, part := range []string{c.want, c.server.addr, "records of a.test."} {
					if !strings.Contains(err.Error(), part) {
						t.Errorf("%q does not say %q", err, part)
					}
				}
				if !strings.Contains(hint.Of(err), "dig @127.0.0.1") {
					t.Errorf("hint %q", hint.Of(err))
				}
			}
		})
	}
}

func TestPanicOverAnAnswerIsAFailure(t *testing.T) {
	nobody := nameServers{} // without a server, which no upstream is
	nobody.attempts = 1
	for _, r := range New(testConfig(t, "", "")).askBoth(t.Context(), nobody, "a.test.") {
		if r.err == nil || !strings.Contains(r.err.Error(), "records of a.test. panicked") {
			t.Errorf("error %v", r.err)
		}
	}
}

func TestCancelDuringASlowQuestion(t *testing.T) {
	server := newTestServer(t)
	server.handle(silence)
	config := testConfig(t, "", "", server)
	config.Timeout = time.Minute
	w := sourcetest.Watch(t, New(config).Hosts(), hostQuery("a.test", 80))
	eventually(t, "both families are asked", func() bool { return server.count("a.test.") == 2 })
	w.Stop(t)
}

func TestHostsFile(t *testing.T) {
	server := newTestServer(t, "backends.test. 0 A 10.0.0.1")
	config := testConfig(t, "", "172.17.0.2 backends Backends.test # an alias\nnonsense\n::2 six\n", server)
	source := New(config).Hosts()

	for host, want := range map[string][]string{
		"backends":  {"172.17.0.2:80"},
		"six.":      {"[::2]:80"},
		"localhost": {"127.0.0.1:80", "[::1]:80"},
	} {
		w := sourcetest.Watch(t, source, hostQuery(host, 80))
		w.Await(t, want...)
		w.Stop(t)
	}

	w := sourcetest.Watch(t, source, hostQuery("backends.test", 80))
	w.Await(t, "172.17.0.2:80")
	if n := server.count(""); n != 0 {
		t.Errorf("DNS was asked %d times for names in the hosts file", n)
	}
	write(t, config.HostsFile, "172.17.0.30 backends.test\n")
	w.Await(t, "172.17.0.30:80")
	if err := os.Remove(config.HostsFile); err != nil {
		t.Fatal(err)
	}
	w.Await(t, "10.0.0.1:80")
	w.Stop(t)
}

// A name that the hosts file sends nowhere is blocked: it is not for DNS to answer,
// and 0.0.0.0, when dialled, is this very host.
func TestHostsFileBlocks(t *testing.T) {
	server := newTestServer(t, "ads.test. 0 A 10.0.0.1", "half.test. 0 A 10.0.0.1")
	config := testConfig(t, "", "0.0.0.0 ads.test half.test\n172.17.0.2 half.test\n", server)
	source := New(config).Hosts()
	w := sourcetest.Watch(t, source, hostQuery("ads.test", 80))
	if a := w.Await(t); a.Note != config.HostsFile+" gives ads.test no address that can be dialled" {
		t.Errorf("note %q", a.Note)
	}
	w.Stop(t)
	w = sourcetest.Watch(t, source, hostQuery("half.test", 80))
	w.Await(t, "172.17.0.2:80")
	w.Stop(t)
}

func TestSearchList(t *testing.T) {
	server := newTestServer(t,
		"redis.b.test. 0 A 10.0.0.2", "redis. 0 A 10.0.0.9", "x.y.a.test. 0 A 10.0.0.3", "x.y. 0 A 10.0.0.4",
		"svc.b.test. 0 SRV 0 5 80 t.test.", "text.a.test. 0 TXT hello")
	config := testConfig(t, "search a.test b.test\noptions ndots:1\n", "", server)
	client := New(config)
	for host, want := range map[string]string{
		"redis":  "10.0.0.2:80", // a.test has none, b.test has; the bare name comes last
		"redis.": "10.0.0.9:80",
		"x.y":    "10.0.0.4:80", // dots enough: as written first
	} {
		w := sourcetest.Watch(t, client.Hosts(), hostQuery(host, 80))
		w.Await(t, want)
		w.Stop(t)
	}
	w := sourcetest.Watch(t, client.Services(), serviceQuery("svc"))
	w.Await(t, "t.test.:80")
	w.Stop(t)

	w = sourcetest.Watch(t, client.Hosts(), hostQuery("text", 80))
	if a := w.Await(t); a.Note != "the name text has no A or AAAA records" {
		t.Errorf("note %q: one of the names exists", a.Note)
	}
	w.Stop(t)

	// resolv.conf is read again when it changes.
	w = sourcetest.Watch(t, client.Hosts(), hostQuery("x.y", 80))
	w.Await(t, "10.0.0.4:80")
	write(t, config.ResolvConf, "search a.test\noptions ndots:2\n")
	w.Await(t, "10.0.0.3:80")
	w.Stop(t)
}

func TestSearchGoesOnAfterARefusal(t *testing.T) {
	server := newTestServer(t)
	zone := parseRecords(t, "redis.b.test. 0 A 10.0.0.2")
	server.handle(func(request *mdns.Msg, tcp bool) *mdns.Msg {
		if strings.HasSuffix(request.Question[0].Name, ".a.test.") {
			return answerCode(mdns.RcodeRefused)(request, tcp)
		}
		return zoneReply(request, zone)
	})
	source := New(testConfig(t, "search a.test b.test", "", server)).Hosts()
	w := sourcetest.Watch(t, source, hostQuery("redis", 80))
	w.Await(t, "10.0.0.2:80")
	w.Stop(t)
	err := sourcetest.Watch(t, source, hostQuery("other", 80)).Err(t)
	var failure *askError
	if !errors.As(err, &failure) || failure.question.name != "other.a.test." {
		t.Errorf("error %v: the refused name may be the one that exists", err)
	}
}

func TestUnreadableFilesAreErrors(t *testing.T) {
	config := testConfig(t, "", "")
	config.ResolvConf = t.TempDir() // a folder
	err := sourcetest.Watch(t, New(config).Hosts(), hostQuery("a.test", 80)).Err(t)
	if err == nil || !strings.Contains(err.Error(), config.ResolvConf) {
		t.Errorf("error %v does not name the file", err)
	}
}

func TestCheck(t *testing.T) {
	client := New(Config{})
	long := strings.Repeat("a", 64) + ".test"
	for what, err := range map[string]error{
		"host without port":   client.Hosts().Check(hostQuery("a.test", 0)),
		"an address":          client.Hosts().Check(hostQuery("10.0.0.1", 80)),
		"no host":             client.Hosts().Check(hostQuery("", 80)),
		"a label too long":    client.Hosts().Check(hostQuery(long, 80)),
		"service with port":   client.Services().Check(hostQuery("a.test", 80)),
		"service without":     client.Services().Check(serviceQuery("")),
		"service with a path": client.Services().Check(resolver.Query{Host: "a.test", Path: "x"}),
	} {
		if err == nil || hint.Of(err) == "" {
			t.Errorf("%s: error %v, hint %q", what, err, hint.Of(err))
		}
	}
	if err := client.Services().Check(serviceQuery("_redis._tcp.example.com")); err != nil {
		t.Error(err)
	}
}

// eventually waits until ok, which another goroutine brings about.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in 10 s: %s", what)
		}
	}
}
