//go:build integration

package dns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	"go.uber.org/goleak"

	"github.com/ambassadord/ambassadord/internal/servertest"
	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/sourcetest"
)

// nsd is a real name server on a loopback port of its own, with zones that a test
// edits. It has authority and does not recurse.
type nsd struct {
	addr    string
	dir     string
	process *exec.Cmd
	exited  chan struct{}
	serial  int
}

// startNSD runs a server for test.zone and, without its zone file, broken.zone.
func startNSD(t testing.TB, records ...string) *nsd {
	t.Helper()
	binary, err := exec.LookPath("nsd")
	if err != nil {
		t.Fatalf("no name server to test with: %v; run make setup", err)
	}
	s := &nsd{dir: t.TempDir()}
	s.writeZone(t, records)
	t.Cleanup(func() {
		s.stop(t)
		if t.Failed() {
			text, _ := os.ReadFile(filepath.Join(s.dir, "nsd.log"))
			t.Logf("NSD's log:\n%s", text)
		}
	})
	for attempt := 1; ; attempt++ {
		s.run(t, binary)
		if s.await(t) {
			return s
		}
		if attempt == 5 { // each time on another port
			t.Fatal("NSD ends at once")
		}
	}
}

func (s *nsd) run(t testing.TB, binary string) {
	t.Helper()
	host, port := "127.0.0.1", servertest.FreePorts(t, 1)[0]
	s.addr = net.JoinHostPort(host, port)
	write(t, filepath.Join(s.dir, "nsd.conf"), fmt.Sprintf(`
server:
	ip-address: %[2]s@%[3]s
	username: ""
	server-count: 1
	rrl-ratelimit: 0 # by default 200 a second; the suite asks more often
	database: ""
	zonesdir: %[1]q
	xfrdir: %[1]q
	xfrdfile: ""
	zonelistfile: "%[1]s/zones.list"
	pidfile: "%[1]s/nsd.pid"
	logfile: "%[1]s/nsd.log"
remote-control:
	control-enable: no
zone:
	name: test.zone
	zonefile: test.zone
zone:
	name: broken.zone
	zonefile: broken.zone
`, s.dir, host, port))
	s.start(t, binary)
}

// start runs it as it is configured.
func (s *nsd) start(t testing.TB, binary string) {
	t.Helper()
	s.process = exec.Command(binary, "-d", "-c", filepath.Join(s.dir, "nsd.conf"))
	if err := s.process.Start(); err != nil {
		t.Fatal(err)
	}
	s.exited = make(chan struct{})
	go reap(s.process, s.exited)
}

func reap(process *exec.Cmd, exited chan<- struct{}) {
	defer close(exited)
	_ = process.Wait()
}

// await waits until the server has the zone as it was written last; false if the
// process is gone.
func (s *nsd) await(t testing.TB) bool {
	t.Helper()
	alive := true
	eventually(t, "NSD serves the zone", func() bool {
		select {
		case <-s.exited:
			alive = false
			return true
		default:
		}
		// While it loads a zone, the process that has the old one still answers now and
		// then.
		const inARow = 10
		for range inARow {
			if s.serves(t) != s.serial {
				return false
			}
		}
		return true
	})
	return alive
}

// serves is the serial of the zone that it answers from, 0 if it does not answer.
func (s *nsd) serves(t testing.TB) int {
	t.Helper()
	m := new(mdns.Msg).SetQuestion("test.zone.", mdns.TypeSOA)
	reply, err := mdns.Exchange(m, s.addr)
	if err != nil || len(reply.Answer) == 0 {
		return 0
	}
	return int(reply.Answer[0].(*mdns.SOA).Serial)
}

func (s *nsd) stop(t testing.TB) {
	t.Helper()
	if s.process == nil {
		return
	}
	if err := s.process.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Error(err)
	}
	<-s.exited
}

// restart starts it again where it was, and waits until it serves its zone.
func (s *nsd) restart(t testing.TB) {
	t.Helper()
	s.start(t, s.process.Path)
	if !s.await(t) {
		t.Fatal("NSD does not start again")
	}
}

// writeZone writes the zone file as an editor does: aside, then in its place.
func (s *nsd) writeZone(t testing.TB, records []string) {
	t.Helper()
	s.serial++
	text := fmt.Sprintf("$ORIGIN test.zone.\n@ 60 SOA ns root %d 3600 600 86400 2\n@ 60 NS ns\nns 60 A 127.0.0.1\n%s\n", s.serial, strings.Join(records, "\n"))
	path := filepath.Join(s.dir, "test.zone")
	write(t, path+".new", text)
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// edit replaces the zone's records and has the server read them.
func (s *nsd) edit(t testing.TB, records ...string) {
	t.Helper()
	s.writeZone(t, records)
	if err := s.process.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if !s.await(t) {
		t.Fatal("NSD is gone")
	}
}

// control is what a test can do to the server: records are its zone when these
// addresses are to be found.
func (s *nsd) control(port uint16, records func(addrs []netip.Addr) []string) sourcetest.Control {
	return sourcetest.Control{
		Set: func(t testing.TB, endpoints ...string) {
			var addrs []netip.Addr
			for _, e := range endpoints {
				addrs = append(addrs, netip.MustParseAddrPort(e).Addr())
			}
			s.edit(t, records(addrs)...)
		},
		Port:    port,
		Break:   func(t testing.TB) { s.stop(t) },
		Mend:    func(t testing.TB) { s.restart(t) },
		Updates: 300, // it reads its zones anew for each
	}
}

func TestNSDConformance(t *testing.T) {
	server := startNSD(t, "redis 1 A 10.0.0.1", "redis 1 AAAA 2001:db8::1",
		"_r._tcp 1 SRV 1 10 6379 redis", "_r._tcp 1 SRV 2 20 6380 far.example.")
	config := conformConfig(t, newTestServer(t))
	t.Run("addresses", func(t *testing.T) {
		sourcetest.Run(t, sourcetest.Case{
			New:         func(testing.TB) (resolver.Source, func()) { return New(config).Hosts(), nil },
			Query:       at(server.addr, hostQuery("redis.test.zone", 80)),
			Want:        []string{"10.0.0.1:80", "[2001:db8::1]:80"},
			Change:      func(t testing.TB) { server.edit(t, "redis 1 A 10.0.0.2", "_r._tcp 1 SRV 1 10 6379 redis") },
			WantChanged: []string{"10.0.0.2:80"},
			Control: server.control(80, func(addrs []netip.Addr) (records []string) {
				for _, addr := range addrs {
					records = append(records, "redis 1 A "+addr.String())
				}
				return records
			}),
			Own: waiting,
		})
	})
	t.Run("services", func(t *testing.T) {
		server.edit(t, "redis 1 A 10.0.0.2", "_r._tcp 1 SRV 1 10 6379 redis")
		sourcetest.Run(t, sourcetest.Case{
			New:         func(testing.TB) (resolver.Source, func()) { return New(config).Services(), nil },
			Query:       at(server.addr, serviceQuery("_r._tcp.test.zone")),
			Want:        []string{"10.0.0.2:6379"},
			Change:      func(t testing.TB) { server.edit(t, "_r._tcp 1 SRV 1 10 6379 far.example.") },
			WantChanged: []string{"far.example.:6379"},
			Control: server.control(6379, func(addrs []netip.Addr) (records []string) {
				for i, addr := range addrs {
					records = append(records, fmt.Sprintf("_r._tcp 1 SRV 1 10 6379 r%d", i), fmt.Sprintf("r%d 1 A %s", i, addr))
				}
				return records
			}),
			Own: waiting,
		})
	})
}

// waiting are the goroutines of this test that wait for the server to end.
var waiting = []goleak.Option{
	goleak.IgnoreAnyFunction("github.com/ambassadord/ambassadord/resolver/dns.reap"),
}

// TestNSDTTL holds a watch with the default bounds to a real zone's TTL: an edit
// shows no sooner than that and not much later.
func TestNSDTTL(t *testing.T) {
	server := startNSD(t, "a 3 A 10.0.0.1")
	config := testConfig(t, "", "")
	config.Timeout, config.MinTTL, config.MaxTTL, config.MaxNegativeTTL = 0, 0, 0, 0
	w := sourcetest.Watch(t, New(config).Hosts(), at(server.addr, hostQuery("a.test.zone", 80)))
	elapsed := func(what string, ttl time.Duration, change func(), want ...string) {
		t.Helper()
		began := time.Now()
		change()
		w.Await(t, want...)
		if took := time.Since(began); took < ttl-time.Second || took > ttl+5*time.Second {
			t.Errorf("%s: published after %v; the TTL is %v", what, took, ttl)
		}
	}
	w.Await(t, "10.0.0.1:80")
	elapsed("a change", 3*time.Second, func() { server.edit(t, "b 3 A 10.0.0.1") })
	// The SOA's minimum of 2 s says how long an absence holds.
	elapsed("an addition", 2*time.Second, func() { server.edit(t, "a 3600 A 10.0.0.3") }, "10.0.0.3:80")
	w.Stop(t)
}

func TestNSDTruncates(t *testing.T) {
	var records, want []string
	for i := range 300 {
		records = append(records, fmt.Sprintf("big 60 A 10.1.%d.%d", i/250, i%250+1))
		want = append(want, fmt.Sprintf("10.1.%d.%d:80", i/250, i%250+1))
	}
	server := startNSD(t, records...)
	client := New(testConfig(t, "", "", newTestServer(t)))
	m := new(mdns.Msg).SetQuestion("big.test.zone.", mdns.TypeA)
	reply, err := client.exchanger.exchange(t.Context(), "udp", attempt{server: server.addr, timeout: 5 * time.Second}, m)
	if err != nil || !reply.Truncated {
		t.Fatalf("NSD did not truncate its answer: %v, %v", reply, err)
	}
	w := sourcetest.Watch(t, client.Hosts(), at(server.addr, hostQuery("big.test.zone", 80)))
	w.Await(t, want...)
	w.Stop(t)
}

func TestNSDAnswers(t *testing.T) {
	system := newTestServer(t, "elsewhere.test. 60 A 10.0.0.9")
	server := startNSD(t, "text 60 TXT hello", "real 60 A 10.0.0.1", "alias 60 CNAME alias2", "alias2 60 CNAME real",
		"loop 60 CNAME pool", "pool 60 CNAME loop", "away 60 CNAME elsewhere.test.", "lost 60 CNAME nowhere.test.",
		"_r._tcp 60 SRV 1 10 80 real", "_r._tcp 60 SRV 0 20 81 elsewhere.test.", "_none._tcp 60 SRV 0 0 0 .", "_alias._tcp 60 CNAME _r._tcp")
	client := New(testConfig(t, "", "", system))
	for name, want := range map[string]string{
		"real.test.zone:80":     "10.0.0.1:80",
		"alias.test.zone:80":    "10.0.0.1:80",
		"away.test.zone:80":     "10.0.0.9:80",
		"_r._tcp.test.zone":     "10.0.0.1:80 elsewhere.test.:81",
		"_alias._tcp.test.zone": "10.0.0.1:80 elsewhere.test.:81",

		"none.test.zone:80":    "the name none.test.zone does not exist",
		"text.test.zone:80":    "the name text.test.zone has no A or AAAA records",
		"lost.test.zone:80":    "the name nowhere.test, of which lost.test.zone is an alias, does not exist",
		"loop.test.zone:80":    "a chain of more than 16 aliases",
		"_none._tcp.test.zone": "the service is not offered",
		"real.test.zone":       "the name real.test.zone has no SRV records",

		"redis.other.zone:80": "SERVER: REFUSED: it does not answer this for us",
		"redis.broken.zone":   "SERVER: SERVFAIL: it could not find out",
	} {
		t.Run(name, func(t *testing.T) {
			q, look := askAt(t, server.addr, name), client.lookupHost
			if q.Scheme == resolver.SchemeSRV {
				look = client.lookupService
			}
			found, err := look(t.Context(), q)
			got := strings.Join(sourcetest.Endpoints(found.answer), " ") + found.answer.Note
			if err != nil {
				got = strings.ReplaceAll(err.Error(), server.addr, "SERVER")
			}
			if !strings.Contains(got, want) {
				t.Errorf("%q, want %q", got, want)
			}
		})
	}
}
