package dns

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	"go.uber.org/goleak"

	"github.com/ambassadord/ambassadord/resolver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testServer is a DNS server on a loopback port, UDP and TCP, whose answers a
// test replaces as it goes.
type testServer struct {
	addr string

	mu      sync.Mutex
	handler func(*mdns.Msg, bool) *mdns.Msg
	asked   []string // "udp A name."
	forgets bool     // who asked: a test counts memory
}

// newTestServer starts a server that answers from zone records.
func newTestServer(t testing.TB, records ...string) *testServer {
	t.Helper()
	s := &testServer{}
	s.serve(t, records...)
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = tcp.Addr().String()
	udp, err := net.ListenPacket("udp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	for _, server := range []*mdns.Server{
		{Listener: tcp, Handler: s.network(true)},
		{PacketConn: udp, Handler: s.network(false)},
	} {
		started, stopped := make(chan struct{}), make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		go func() {
			defer close(stopped)
			_ = server.ActivateAndServe()
		}()
		<-started
		t.Cleanup(func() {
			_ = server.Shutdown()
			<-stopped
		})
	}
	return s
}

// forget makes the server keep no record of who asked.
func (s *testServer) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgets = true
}

// handle replaces the answers; a nil message is no answer at all.
func (s *testServer) handle(h func(request *mdns.Msg, tcp bool) *mdns.Msg) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handler = h
}

// serve answers from zone records: NXDOMAIN for names that have none, NODATA for
// types, each with a SOA of one second.
func (s *testServer) serve(t testing.TB, records ...string) {
	t.Helper()
	zone := parseRecords(t, records...)
	s.handle(func(request *mdns.Msg, _ bool) *mdns.Msg { return zoneReply(request, zone) })
}

func zoneReply(request *mdns.Msg, zone []mdns.RR) *mdns.Msg {
	m := new(mdns.Msg)
	m.SetReply(request)
	m.RecursionAvailable = true
	q := request.Question[0]
	exists := false
	for _, rr := range zone {
		if !strings.EqualFold(rr.Header().Name, q.Name) {
			continue
		}
		exists = true
		if rr.Header().Rrtype == q.Qtype {
			m.Answer = append(m.Answer, rr)
		}
	}
	if !exists {
		m.Rcode = mdns.RcodeNameError
	}
	if len(m.Answer) == 0 {
		m.Ns = []mdns.RR{&mdns.SOA{
			Hdr: mdns.RR_Header{Name: "example.com.", Rrtype: mdns.TypeSOA, Class: mdns.ClassINET, Ttl: 60},
			Ns:  "ns.example.com.", Mbox: "root.example.com.", Minttl: 1,
		}}
	}
	return m
}

func (s *testServer) network(tcp bool) mdns.HandlerFunc {
	return func(w mdns.ResponseWriter, request *mdns.Msg) {
		q := request.Question[0]
		name := map[bool]string{true: "tcp ", false: "udp "}[tcp] + mdns.TypeToString[q.Qtype] + " " + q.Name
		s.mu.Lock()
		if !s.forgets {
			s.asked = append(s.asked, name)
		}
		handler := s.handler
		s.mu.Unlock()
		if reply := handler(request, tcp); reply != nil {
			_ = w.WriteMsg(reply)
		}
	}
}

// count is how often the server was asked for what contains text.
func (s *testServer) count(text string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, asked := range s.asked {
		if strings.Contains(asked, text) {
			n++
		}
	}
	return n
}

func parseRecords(t testing.TB, records ...string) []mdns.RR {
	t.Helper()
	var rrs []mdns.RR
	for _, text := range records {
		rr, err := mdns.NewRR(text)
		if err != nil {
			t.Fatalf("record %q: %v", text, err)
		}
		rrs = append(rrs, rr)
	}
	return rrs
}

// answerWith replies with these records whatever is asked.
func answerWith(answer, extra []mdns.RR) func(*mdns.Msg, bool) *mdns.Msg {
	return func(request *mdns.Msg, _ bool) *mdns.Msg {
		m := new(mdns.Msg)
		m.SetReply(request)
		m.RecursionAvailable = true
		m.Answer, m.Extra = answer, extra
		return m
	}
}

func answerCode(rcode int) func(*mdns.Msg, bool) *mdns.Msg {
	return func(request *mdns.Msg, _ bool) *mdns.Msg {
		m := new(mdns.Msg)
		return m.SetRcode(request, rcode)
	}
}

func silence(*mdns.Msg, bool) *mdns.Msg { return nil }

// amidSilence is the Timeout of tests in which one server is silent on purpose, which
// takes all of it, and what another says must come in time. Such tests run in parallel.
const amidSilence = 2 * time.Second

// testConfig asks servers alone and refreshes fast. It gives up late: a busy machine's
// server is slow, and not silent.
func testConfig(t testing.TB, resolvConf, hostsFile string, servers ...*testServer) Config {
	t.Helper()
	dir := t.TempDir()
	config := Config{
		ResolvConf:     filepath.Join(dir, "resolv.conf"),
		HostsFile:      filepath.Join(dir, "hosts"),
		Timeout:        10 * time.Second,
		MinTTL:         20 * time.Millisecond,
		MaxTTL:         50 * time.Millisecond,
		MaxNegativeTTL: 30 * time.Millisecond,
		FilesInterval:  20 * time.Millisecond,
	}
	for _, s := range servers {
		config.Servers = append(config.Servers, s.addr)
	}
	write(t, config.ResolvConf, resolvConf)
	write(t, config.HostsFile, hostsFile)
	return config
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func hostQuery(host string, port uint16) resolver.Query {
	return resolver.Query{Scheme: resolver.SchemeDNS, Host: host, Port: port}
}

func serviceQuery(name string) resolver.Query {
	return resolver.Query{Scheme: resolver.SchemeSRV, Host: name}
}
