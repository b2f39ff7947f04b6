package dns

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	mdns "github.com/miekg/dns"

	"github.com/ambassadord/ambassadord/resolver"
)

func TestParseResolvConf(t *testing.T) {
	for name, test := range map[string]struct {
		text string
		want resolvConf
	}{
		"empty":                 {"", resolvConf{ndots: 1, attempts: 2}},
		"four servers":          {"nameserver 10.0.0.1\nnameserver ::1\nnameserver fe80::1%eth0\n nameserver 10.0.0.4", resolvConf{servers: []string{"10.0.0.1:53", "[::1]:53", "[fe80::1%eth0]:53", "10.0.0.4:53"}, ndots: 1, attempts: 2}},
		"no addresses":          {"nameserver ns.test\nnameserver\nnameserver 10.0.0.256\n", resolvConf{ndots: 1, attempts: 2}},
		"comments":              {"# nameserver 10.0.0.1\n; search a.test\nnameserver 10.0.0.2 # the router\nsearch b.test ; c.test\n", resolvConf{servers: []string{"10.0.0.2:53"}, search: []string{"b.test"}, ndots: 1, attempts: 2}},
		"the last search":       {"search a.test b.test.\ndomain c.test d.test\n", resolvConf{search: []string{"c.test"}, ndots: 1, attempts: 2}},
		"the root":              {"search .\n", resolvConf{search: []string{""}, ndots: 1, attempts: 2}},
		"options":               {"options rotate ndots:5 timeout:1\toptions attempts:3\n", resolvConf{ndots: 5, attempts: 3, timeout: time.Second, rotate: true}},
		"options above":         {"options ndots:16 timeout:3600 attempts:60000\n", resolvConf{ndots: 15, attempts: 5, timeout: 30 * time.Second}},
		"options below":         {"options ndots:0 timeout:0 attempts:0\n", resolvConf{ndots: 0, attempts: 1, timeout: time.Second}},
		"options that are none": {"options ndots:x timeout:-1 attempts: edns0 trust-ad\r\n", resolvConf{ndots: 1, attempts: 2}},
		"a very long line":      {"search " + strings.Repeat("x", 1<<20) + "\nnameserver 10.0.0.1\nsearch a.test", resolvConf{servers: []string{"10.0.0.1:53"}, search: []string{"a.test"}, ndots: 1, attempts: 2}},
	} {
		if diff := cmp.Diff(&test.want, parseResolvConf(test.text), cmp.AllowUnexported(resolvConf{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestNames(t *testing.T) {
	long := strings.Repeat("l.", 100) + "test"
	for _, test := range []struct{ text, host, want string }{
		{"", "redis", "redis."},
		{"search a.test b.test", "redis", "redis.a.test. redis.b.test. redis."},
		{"search a.test b.test", "redis.", "redis."},
		{"search a.test", "redis.x", "redis.x. redis.x.a.test."},
		{"search a.test\noptions ndots:2", "redis.x", "redis.x.a.test. redis.x."},
		{"search a.test\noptions ndots:0", "redis", "redis. redis.a.test."},
		{"search . a.test a.test", "redis", "redis. redis.a.test."},
		{"search " + long + " a.test", long, long + ". " + long + ".a.test."},
	} {
		if got := strings.Join(parseResolvConf(test.text).names(test.host), " "); got != test.want {
			t.Errorf("%q: %s stands for %s, want %s", test.text, test.host, got, test.want)
		}
	}
}

func FuzzResolvConf(f *testing.F) {
	f.Add("nameserver 10.0.0.1\nnameserver fe80::1%eth0\nsearch a.test .\noptions ndots:2 rotate timeout:1 attempts:9", "redis")
	f.Fuzz(func(t *testing.T, text, host string) {
		conf := parseResolvConf(text)
		if conf.attempts < 1 || conf.attempts > maxAttempts || conf.timeout < 0 || conf.timeout > maxTimeout || conf.ndots < 0 || conf.ndots > maxNdots {
			t.Errorf("out of bounds: %+v", conf)
		}
		if q, err := resolver.ParseHostPort(host + ":1"); err != nil || q.Scheme != resolver.SchemeDNS {
			return
		}
		names := conf.names(strings.TrimSpace(host))
		if len(names) > len(conf.search)+1 {
			t.Errorf("%d names from %d suffixes", len(names), len(conf.search))
		}
		for _, name := range names {
			if _, ok := mdns.IsDomainName(name); !ok || !mdns.IsFqdn(name) {
				t.Errorf("%q is no whole name", name)
			}
		}
	})
}

func FuzzHosts(f *testing.F) {
	f.Add("172.17.0.2 backends Backends.test # an alias\n::1 six\n0.0.0.0 blocked", "backends")
	f.Fuzz(func(t *testing.T, text, name string) {
		addrs, known := parseHosts(text).find(name)
		if len(addrs) > 0 && !known || len(addrs) > len(text)+2 {
			t.Errorf("%d addresses, known %t", len(addrs), known)
		}
		if slices.ContainsFunc(addrs, func(a netip.Addr) bool { return !diallable(a) }) {
			t.Errorf("addresses %v", addrs)
		}
	})
}
