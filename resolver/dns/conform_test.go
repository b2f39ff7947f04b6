package dns

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/sourcetest"
)

// conformConfig asks again all the time.
func conformConfig(t testing.TB, servers ...*testServer) Config {
	t.Helper()
	config := testConfig(t, "", "", servers...)
	config.MinTTL, config.MaxTTL, config.MaxNegativeTTL = time.Millisecond, time.Millisecond, time.Millisecond
	return config
}

// controlOf is what a test can do to the answers of a server, set being how it
// answers that these endpoints are all.
func controlOf(server *testServer, port uint16, set func(t testing.TB, addrs []netip.Addr)) sourcetest.Control {
	server.forget()
	var current []netip.Addr
	return sourcetest.Control{
		Set: func(t testing.TB, endpoints ...string) {
			current = nil
			for _, e := range endpoints {
				current = append(current, netip.MustParseAddrPort(e).Addr())
			}
			set(t, current)
		},
		Port:  port,
		Break: func(testing.TB) { server.handle(answerCode(mdns.RcodeServerFailure)) },
		Mend:  func(t testing.TB) { set(t, current) },
	}
}

// hostAt makes name have these addresses; none makes it no name at all.
func hostAt(server *testServer, name string) func(testing.TB, []netip.Addr) {
	return func(t testing.TB, addrs []netip.Addr) {
		t.Helper()
		var records []string
		for _, addr := range addrs {
			records = append(records, fmt.Sprintf("%s. 0 A %s", name, addr))
		}
		server.serve(t, records...)
	}
}

// serviceAt makes name have a target at each of these addresses, which come along
// with it as glue, or have to be asked for.
func serviceAt(server *testServer, name string, port uint16, glue bool) func(testing.TB, []netip.Addr) {
	return func(t testing.TB, addrs []netip.Addr) {
		t.Helper()
		var services, hosts []string
		for i, addr := range addrs {
			services = append(services, fmt.Sprintf("%s. 0 SRV 1 10 %d r%d.test.", name, port, i))
			hosts = append(hosts, fmt.Sprintf("r%d.test. 0 A %s", i, addr))
		}
		zone, extra := parseRecords(t, append(services, hosts...)...), parseRecords(t, hosts...)
		server.handle(func(request *mdns.Msg, _ bool) *mdns.Msg {
			m := zoneReply(request, zone)
			if glue && request.Question[0].Qtype == mdns.TypeSRV {
				m.Extra = extra
			}
			return m
		})
	}
}

func TestHostsConformance(t *testing.T) {
	server := newTestServer(t, "redis.example.com. 0 A 10.0.0.1", "redis.example.com. 0 AAAA 2001:db8::1")
	config := conformConfig(t, server)
	sourcetest.Run(t, sourcetest.Case{
		New:         func(testing.TB) (resolver.Source, func()) { return New(config).Hosts(), nil },
		Query:       hostQuery("redis.example.com", 6379),
		Want:        []string{"10.0.0.1:6379", "[2001:db8::1]:6379"},
		Change:      func(t testing.TB) { server.serve(t, "redis.example.com. 0 A 10.0.0.2") },
		WantChanged: []string{"10.0.0.2:6379"},
		Control:     controlOf(server, 6379, hostAt(server, "redis.example.com")),
	})
}

func TestServicesConformance(t *testing.T) {
	server := newTestServer(t, "redis.test. 0 SRV 1 10 6379 r1.test.", "redis.test. 0 SRV 1 10 6380 r2.test.")
	config := conformConfig(t, server)
	sourcetest.Run(t, sourcetest.Case{
		New:         func(testing.TB) (resolver.Source, func()) { return New(config).Services(), nil },
		Query:       serviceQuery("redis.test"),
		Want:        []string{"r1.test.:6379", "r2.test.:6380"},
		Change:      func(t testing.TB) { server.serve(t, "redis.test. 0 SRV 1 10 7000 r3.test.") },
		WantChanged: []string{"r3.test.:7000"},
		Control:     controlOf(server, 6379, serviceAt(server, "redis.test", 6379, true)),
	})
}

func TestGivenServerConformance(t *testing.T) {
	system, given := newTestServer(t), newTestServer(t, "redis.consul. 0 A 10.0.0.1", "redis.consul. 0 SRV 1 2 6379 r1.consul.")
	config := conformConfig(t, system)
	t.Run("addresses", func(t *testing.T) {
		sourcetest.Run(t, sourcetest.Case{
			New:   func(testing.TB) (resolver.Source, func()) { return New(config).Hosts(), nil },
			Query: at(given.addr, hostQuery("redis.consul", 80)),
			Want:  []string{"10.0.0.1:80"},
			Change: func(t testing.TB) {
				given.serve(t, "redis.consul. 0 SRV 1 2 6379 r1.consul.", "r1.consul. 0 A 10.0.0.7")
			},
			WantChanged: nil,
			Control:     controlOf(given, 80, hostAt(given, "redis.consul")),
		})
	})
	t.Run("services", func(t *testing.T) {
		given.serve(t, "redis.consul. 0 SRV 1 2 6379 r1.consul.", "r1.consul. 0 A 10.0.0.7")
		sourcetest.Run(t, sourcetest.Case{
			New:         func(testing.TB) (resolver.Source, func()) { return New(config).Services(), nil },
			Query:       at(given.addr, serviceQuery("redis.consul")),
			Want:        []string{"10.0.0.7:6379"},
			Change:      func(t testing.TB) { given.serve(t, "redis.consul. 0 SRV 1 2 7000 r2.consul.") },
			WantChanged: []string{"r2.consul.:7000"}, // which it does not know: left to the system's
			Control:     controlOf(given, 7000, serviceAt(given, "redis.consul", 7000, false)),
		})
	})
	if n := system.count(""); n != 0 {
		t.Errorf("the system's server was asked %d times for targets that name theirs", n)
	}
}
