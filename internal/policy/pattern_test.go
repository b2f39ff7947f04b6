package policy

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/ambassadord/ambassadord/internal/hint"
)

// TestRegistryPatterns: what is taken matches the servers that it is about, however whoever
// writes targets writes them; what no server can be like is refused (as the files of
// internal/config's testdata are).
func TestRegistryPatterns(t *testing.T) {
	for pattern, servers := range map[string]struct{ same, others []string }{
		"10.9.9.9:8500":           {[]string{"10.9.9.9:8500", "[::ffff:10.9.9.9]:8500"}, []string{"10.9.9.9:8501", "10.9.9.8:8500"}},
		"10.9.9.9":                {[]string{"10.9.9.9:8500", "[::ffff:a09:909]:1"}, []string{"10.9.9.99:8500"}},
		"10.9.*":                  {[]string{"10.9.1.2:8500"}, []string{"10.8.1.2:8500"}},
		"10.9.*:85??":             {[]string{"10.9.1.2:8500"}, []string{"10.9.1.2:9500"}},
		"[2001:db8::7]:8500":      {[]string{"[2001:db8::7]:8500", "[2001:DB8:0::7]:8500"}, []string{"[2001:db8::8]:8500", "[2001:db8::7]:8501"}},
		"[2001:db8::7]":           {[]string{"[2001:db8::7]:8500", "[2001:DB8:0::7]:1"}, []string{"[2001:db8::8]:8500"}},
		"2001:DB8:0::7":           {[]string{"[2001:db8::7]:8500", "[2001:db8::7%eth0]:8500"}, []string{"[2001:db8::8]:8500"}},
		"2001:db8::*":             {[]string{"[2001:db8::7]:8500"}, []string{"[2001:db9::7]:8500"}},
		"[2001:db8::7]:*":         {[]string{"[2001:db8::7]:8500", "[2001:DB8:0::7]:1"}, []string{"[2001:db8::8]:8500"}},
		"[2001:DB8:0::7]:85??":    {[]string{"[2001:db8::7]:8500"}, []string{"[2001:db8::7]:9500"}},
		"[2001:db8::*]:8500":      {[]string{"[2001:db8::7]:8500"}, []string{"[2001:db8::7]:8501", "[2001:db9::7]:8500"}},
		"[2001:db8::[1-3]:7]":     {[]string{"[2001:db8::2:7]:8500"}, []string{"[2001:db8::4:7]:8500"}},
		"[2001:db8::[1-3]]:8[01]": {[]string{"[2001:db8::2]:80"}, []string{"[2001:db8::2]:82", "[2001:db8::4]:80"}},
		"[::ffff:10.9.9.9]:*":     {[]string{"10.9.9.9:1"}, []string{"10.9.9.8:1"}},
		"2001:db8:0:*":            {[]string{"[2001:db8:0:1::7]:1"}, []string{"[2001:db8:1:1::7]:1"}},
		"Consul.Example.:8500":    {[]string{"consul.example:8500", "CONSUL.example.:8500"}, []string{"consul.example:8501"}},
		"consul-[a-c].example":    {[]string{"consul-b.example.:1"}, []string{"consul-d.example:1"}},
		"consul-[1-3].example:8*": {[]string{"consul-2.example:8500"}, []string{"consul-2.example:9500"}},
	} {
		parsed, err := ParseRegistry(pattern)
		if err != nil {
			t.Errorf("%q: %v", pattern, err)
			continue
		}
		scope := func(server string) *Scope {
			return New(Config{Rules: []Rule{{Action: Deny, Registries: []string{parsed}}}}).
				Scope(web, Target{Parts: []Part{{Kind: "consul", Name: "p", Registry: server}}})
		}
		there := netip.MustParseAddrPort("192.0.2.1:80")
		for _, server := range servers.same {
			if !scope(server).Check(there, false).Denied() {
				t.Errorf("%q is not about %s", pattern, server)
			}
		}
		for _, server := range servers.others {
			if scope(server).Check(there, false).Denied() {
				t.Errorf("%q is about %s, too", pattern, server)
			}
		}
	}
	for _, text := range []string{
		"", ":", ":8500", "10.9.9.9:", "10.9.9.9:8500x", "10.9.9.9:0", "10.9.9.9:65536", "10.9.*:x*", "10.0.0.0/8", "bogus://a:1", "[::1", "[::1]:x", "[::1]:0",
		"2001:0db8::*", "[2001:0db8::*]:80", "0064:ff9b::*", "2001:db8::00*", "::ffff:10.9.*", "[::1]:", "[2001:db8::7]:8500x", "[2001:db8::g*]:80",
		"2001:db8::7:8500:x", "fd00::*:g", "a b", "a..b", "10.9.9.999", `a\`, "[z-a].example", strings.Repeat("a", 64),
	} {
		if got, err := ParseRegistry(text); err == nil || hint.Of(err) == "" {
			t.Errorf("%q is taken for %q: %v, %q", text, got, err, hint.Of(err))
		}
	}
}

// TestTargetPatterns: how a target writes a name makes no difference.
func TestTargetPatterns(t *testing.T) {
	for pattern, name := range map[string]string{
		"db.example.": "DB.example", "db.example": "db.example.", "10.9.9.9": "::ffff:10.9.9.9", "[2001:DB8:0::7]": "2001:db8::7", "2001:db8::7": "2001:db8::7",
	} {
		parsed, err := ParseTarget(pattern)
		if err != nil {
			t.Errorf("%q: %v", pattern, err)
			continue
		}
		s := New(Config{Rules: []Rule{{Action: Deny, Targets: []string{parsed}}}}).Scope(web, of("static", name))
		if v, _ := s.Target(); !v.Denied() {
			t.Errorf("%q is not about %s", pattern, name)
		}
	}
}

// TestImpossible: what other kinds of target may have is not refused.
func TestImpossible(t *testing.T) {
	for name, r := range map[string]Rule{
		"a path with a colon":       {Kinds: []string{"consul"}, Targets: []string{"services/redis:6379"}},
		"a key like a server":       {Kinds: []string{"etcd"}, Targets: []string{"redis:6379"}},
		"a file":                    {Kinds: []string{"file"}, Targets: []string{"/data/*"}},
		"any file":                  {Kinds: []string{"file"}, Targets: []string{"*.list"}},
		"a file, or a key":          {Kinds: []string{"file", "consul"}, Targets: []string{"lists/redis", "/lists/redis"}},
		"addresses":                 {Kinds: []string{"static"}, Targets: []string{"10.1.*", "2001:db8::*"}},
		"a container or an address": {Kinds: []string{"static", "docker"}, Targets: []string{"web"}},
		"a server":                  {Kinds: []string{"docker", "dns"}, Registries: []string{"10.9.9.9"}},
		"a key like a host's port":  {Targets: []string{"svc:80", "10.9.9.9:80"}},
		"a key or a host":           {Kinds: []string{"dns", "consul"}, Targets: []string{"svc:80"}},
		"a key like an address":     {Kinds: []string{"etcd"}, Targets: []string{"2001:0db8::*"}},
		"a folder of links":         {Kinds: []string{"file"}, Targets: []string{"/srv/..data/*"}},
		"a range":                   {Targets: []string{"web-[1-3]", "[^a]*"}},
	} {
		if key, err := r.Impossible(); err != nil {
			t.Errorf("%s: %s: %v", name, key, err)
		}
	}
}
