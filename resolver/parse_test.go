package resolver

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ambassadord/ambassadord/internal/hint"
)

func TestParse(t *testing.T) {
	static := func(host string, port uint16) Query { return Query{Scheme: SchemeStatic, Host: host, Port: port} }
	name := func(host string, port uint16) Query { return Query{Scheme: SchemeDNS, Host: host, Port: port} }
	for _, test := range []struct {
		text string
		want []Query
	}{
		{"192.168.1.100:8080", []Query{static("192.168.1.100", 8080)}},
		{"[2001:db8::7]:8080", []Query{static("2001:db8::7", 8080)}},
		{"[2001:DB8:0::7]:8080", []Query{static("2001:db8::7", 8080)}},
		{" 192.168.1.100:8080\t", []Query{static("192.168.1.100", 8080)}},
		{"redis.example.com:6379", []Query{name("redis.example.com", 6379)}},
		{"Redis.Example.COM:6379", []Query{name("redis.example.com", 6379)}},
		{"my_redis-1:6379", []Query{name("my_redis-1", 6379)}},
		{"localhost:1", []Query{name("localhost", 1)}},
		{"a:6379,b:6380", []Query{name("a", 6379), name("b", 6380)}},
		{"a:6379, 10.0.0.1:6379 ,[::1]:6379", []Query{name("a", 6379), static("10.0.0.1", 6379), static("::1", 6379)}},
		{"redis.service.consul", []Query{{Scheme: SchemeSRV, Host: "redis.service.consul"}}},
		{"_redis._tcp.example.com.", []Query{{Scheme: SchemeSRV, Host: "_redis._tcp.example.com."}}},
		{"redis", []Query{{Scheme: SchemeSRV, Host: "redis"}}},
		{"dns://127.0.0.1:8600/redis.service.consul:6379", []Query{{Scheme: SchemeDNS, Host: "redis.service.consul", Port: 6379, Server: "127.0.0.1:8600"}}},
		{"dns://127.0.0.1/Redis.Service.Consul", []Query{{Scheme: SchemeSRV, Host: "redis.service.consul", Server: "127.0.0.1:53"}}},
		{"DNS://[2001:DB8::53]/a:1", []Query{{Scheme: SchemeDNS, Host: "a", Port: 1, Server: "[2001:db8::53]:53"}}},
		{"dns://[fe80::1%eth0]:5353/a:1", []Query{{Scheme: SchemeDNS, Host: "a", Port: 1, Server: "[fe80::1%eth0]:5353"}}},
		{"dns://NS.example.com:5353/a.b.:1", []Query{{Scheme: SchemeDNS, Host: "a.b.", Port: 1, Server: "ns.example.com:5353"}}},
		{"dns:///a:1", []Query{name("a", 1)}},
		{"srv://127.0.0.1:8600/_redis._tcp.service.consul", []Query{{Scheme: SchemeSRV, Host: "_redis._tcp.service.consul", Server: "127.0.0.1:8600"}}},
		{"srv://redis.service.consul", []Query{{Scheme: SchemeSRV, Host: "redis.service.consul"}}},
		{"srv:///redis ", []Query{{Scheme: SchemeSRV, Host: "redis"}}},
		{"consul://127.0.0.1:8500/path/to/nodes", []Query{{Scheme: "consul", Host: "127.0.0.1", Port: 8500, Path: "path/to/nodes"}}},
		{"consul:///path", []Query{{Scheme: "consul", Path: "path"}}},
		{"CONSUL://h:1/p", []Query{{Scheme: "consul", Host: "h", Port: 1, Path: "p"}}},
		{"docker://web_1:80", []Query{{Scheme: "docker", Host: "web_1", Port: 80}}},
		{"docker://?label=app=redis&port=6379", []Query{{Scheme: "docker", Params: "label=app%3Dredis&port=6379"}}},
		{"docker://?port=6379&label=app=redis", []Query{{Scheme: "docker", Params: "label=app%3Dredis&port=6379"}}},
		{"consul-service://redis?tag=a&tag=b&dc=dc2", []Query{{Scheme: "consul-service", Host: "redis", Params: "dc=dc2&tag=a&tag=b"}}},
	} {
		got, err := Parse(test.text)
		if err != nil {
			t.Errorf("Parse(%q): %v", test.text, err)
			continue
		}
		if diff := cmp.Diff([]Choice{{Queries: test.want}}, got.Choices); diff != "" {
			t.Errorf("Parse(%q) (-want +got):\n%s", test.text, diff)
		}
		again, err := Parse(got.String())
		if err != nil || cmp.Diff(got, again) != "" {
			t.Errorf("Parse(%q) of %q's canonical form = %v, %v; want the same target", got.String(), test.text, again, err)
		}
	}
}

func TestParseChain(t *testing.T) {
	static := func(host string, port uint16) Query { return Query{Scheme: SchemeStatic, Host: host, Port: port} }
	name := func(host string, port uint16) Query { return Query{Scheme: SchemeDNS, Host: host, Port: port} }
	for _, test := range []struct {
		text, canonical string
		want            []Choice
	}{
		{"10.0.0.1:1|10.0.0.2:2", "10.0.0.1:1 | 10.0.0.2:2", []Choice{{Queries: []Query{static("10.0.0.1", 1)}}, {Queries: []Query{static("10.0.0.2", 2)}}}},
		{
			"docker://web:80?label=a | 10.0.0.1:1,10.0.0.2:2 | redis", "docker://web:80?label=a | 10.0.0.1:1,10.0.0.2:2 | redis",
			[]Choice{
				{Queries: []Query{{Scheme: "docker", Host: "web", Port: 80, Params: "label=a"}}},
				{Queries: []Query{static("10.0.0.1", 1), static("10.0.0.2", 2)}},
				{Queries: []Query{{Scheme: SchemeSRV, Host: "redis"}}},
			},
		},
		{"consul://h:1/a%7Cb?x=%7C", "consul://h:1/a%7Cb?x=%7C", []Choice{{Queries: []Query{{Scheme: "consul", Host: "h", Port: 1, Path: "a|b", Params: "x=%7C"}}}}},
		{
			"a:1 3,10.0.0.1:2", "a:1 3,10.0.0.1:2",
			[]Choice{{Queries: []Query{name("a", 1), static("10.0.0.1", 2)}, Weights: []uint16{3, 1}}},
		},
		{
			" a:1\t 0 , [::1]:2   65535 | b:1 007", "a:1 0,[::1]:2 65535 | b:1 7",
			[]Choice{
				{Queries: []Query{name("a", 1), static("::1", 2)}, Weights: []uint16{0, 65535}},
				{Queries: []Query{name("b", 1)}, Weights: []uint16{7}},
			},
		},
		{"a:1 1,b:1 1", "a:1,b:1", []Choice{{Queries: []Query{name("a", 1), name("b", 1)}}}}, // as if none were written
		{"consul:///a%3Fb%20c", "consul:///a%3Fb%20c", []Choice{{Queries: []Query{{Scheme: "consul", Path: "a?b c"}}}}},
	} {
		got, err := Parse(test.text)
		if err != nil {
			t.Errorf("Parse(%q): %v", test.text, err)
			continue
		}
		if diff := cmp.Diff(test.want, got.Choices); diff != "" {
			t.Errorf("Parse(%q) (-want +got):\n%s", test.text, diff)
		}
		if got.String() != test.canonical {
			t.Errorf("Parse(%q) is written %q; want %q", test.text, got, test.canonical)
		}
		again, err := Parse(got.String())
		if err != nil || cmp.Diff(got, again) != "" {
			t.Errorf("Parse(%q) of %q's canonical form = %v, %v; want the same target", got.String(), test.text, again, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, test := range []struct {
		text   string
		column int
		msg    string
	}{
		{"", 1, "nothing to connect to"},
		{"  ", 1, "nothing to connect to"},
		{"192.168.1.100", 14, "an address needs a port"},
		{"2001:db8::7:8080", 1, "an IPv6 address needs brackets before its port"},
		{"[10.0.0.1]:80", 1, `"[10.0.0.1]" is not an IPv6 address in brackets`},
		{"[::1:80", 1, `"[::1" is not an IPv6 address in brackets`},
		{"redis:", 7, `"" is not a port`},
		{"redis:0", 7, `"0" is not a port`},
		{"redis:65536", 7, `"65536" is not a port`},
		{"redis:+1", 7, `"+1" is not a port`},
		{"redis:http", 7, `"http" is not a port`},
		{":6379", 1, "no host before the port"},
		{"a:1,,b:2", 5, "an empty item"},
		{"a:1,", 5, "an empty item"},
		{"a:1, b", 7, `"b" has no port`},
		{"a:1,b:x", 7, `"x" is not a port`},
		{"a:1,b!c:2", 6, `'!' cannot stand in a name`},
		{"a:1 heavy", 5, `"heavy" is not a weight from 0 to 65535`},
		{"a:1,b:2  65536", 10, `"65536" is not a weight from 0 to 65535`},
		{"a:1 -1", 5, `"-1" is not a weight`},
		{"a:1 2\t 3,b:1", 8, `"3" follows the weight`},
		{"a:1 2 2,b:1", 7, `"2" follows the weight`},
		{"c:1 | a:1,b:1 x", 15, `"x" is not a weight`},
		{"redis 3", 6, `' ' cannot stand in a name`},
		{"redis 3,b:1", 8, `"redis 3" has no port`},
		{"a: 3", 3, `"" is not a port`},
		{"a:1 b:1", 1, `"a:1 b" is neither a name nor an address`},
		{"re dis:1", 3, `' ' cannot stand in a name`},
		{"r\u00e9dis:1", 2, `'é' cannot stand in a name`},
		{"redis..consul", 7, `a label of 0 characters in the name "redis..consul"`},
		{"10.0.0.256:80", 1, `"10.0.0.256" is neither an IPv4 address nor a name`},
		{"6379", 1, `"6379" is neither an IPv4 address nor a name`},
		{strings.Repeat("a", 64) + ":1", 1, "a label of 64 characters in the name"},
		{strings.Repeat("a.", 127) + "a:1", 1, "a name of 255 characters"},
		{"dns://127.0.0.1:8600", 21, `nothing after the DNS server "127.0.0.1:8600"`},
		{"dns://127.0.0.1:x/a:1", 17, `"x" is not a port`},
		{"dns://:53/a:1", 7, "no host before the port"},
		{"dns://2001:db8::53/a:1", 7, "an IPv6 address needs brackets here"},
		{"dns://n!s/a:1", 8, `'!' cannot stand in a name`},
		{"dns://u@ns/a:1", 8, `'@' cannot stand in a name`},
		{"dns://ns/", 10, "a name of 0 characters"},
		{"dns://ns/a:0", 12, `"0" is not a port`},
		{"dns://ns/a/b:1", 11, `'/' cannot stand in a name`},
		{"dns://ns/a?x=1", 11, `'?' cannot stand in a name`},
		{"dns://ns/10.0.0.1", 10, "10.0.0.1 is an address, not a DNS name"},
		{"dns://ns/[::1]:80", 10, "::1 is an address, not a DNS name"},
		{"srv://ns/a:1", 11, "SRV records bring their own ports"},
		{"srv://", 7, "a name of 0 characters"},
		{"static://10.0.0.1:80", 1, "static:// is no scheme to write"},
		{"docker://web:0", 14, `"0" is not a port`},
		{"docker://u:p@web:80", 10, "a user name in a target"},
		{"docker://web:80#x", 16, "a fragment has no meaning here"},
		{"docker://?a=%zz", 11, `invalid URL escape "%zz"`},
		{"consul://h:99999999/p", 12, `"99999999" is not a port`},
		{strings.Repeat("a:1,", 256) + "a:1", 1, "257 items; the most is 256"},
		{"a:1 |", 6, "a | without a target on both sides"},
		{"| a:1", 1, "a | without a target on both sides"},
		{"a:1||b:1", 5, "a | without a target on both sides"},
		{"a:1 | b:x", 9, `"x" is not a port`},
		{"a:1,b:2 | docker://web:0", 24, `"0" is not a port`},
		{strings.Repeat("a:1|", 16) + "a:1", 1, "a chain of 17 targets; the most is 16"},
		{strings.Repeat("a", 5000), 4097, "longer than 4096 bytes"},
	} {
		_, err := Parse(test.text)
		var syntax *SyntaxError
		if !errors.As(err, &syntax) {
			t.Errorf("Parse(%.40q) = %v; want a SyntaxError", test.text, err)
			continue
		}
		if syntax.Column != test.column || !strings.Contains(syntax.Msg, test.msg) {
			t.Errorf("Parse(%.40q): column %d: %s; want column %d: %s", test.text, syntax.Column, syntax.Msg, test.column, test.msg)
		}
		if hint.Of(err) == "" {
			t.Errorf("Parse(%.40q): %v carries no hint", test.text, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"dns://127.0.0.1:8600/r.consul:1", "dns://[fe80::1%eth0]/r", "srv://ns:5353/_r._tcp", "srv://r", "dns:///a:1",
		"192.168.1.100:8080", "[2001:db8::7]:8080", "redis.example.com:6379", "a:6379,b:6379", "redis.service.consul",
		"consul://127.0.0.1:8500/path", "docker://?label=app=redis&port=6379", "consul-service://r?tag=a", "://", "a:1,", "[::%25eth0]:1",
		"a:1 3,[::1]:2\t0", "a:1 x", "a:1 2 3", "10.0.0.1:1 65536 | b:1 7", " a:1  1 ",
		"a:1 | docker://web:80?label=x | b:1,c:1", "a:1||", "consul://h/a%7Cb | redis", "file:///etc/a%20b.list|10.0.0.1:1",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		target, err := Parse(text)
		if err != nil {
			var syntax *SyntaxError
			if !errors.As(err, &syntax) {
				t.Fatalf("Parse(%q): %v is no SyntaxError", text, err)
			}
			if syntax.Column < 1 || syntax.Column > len(text)+1 {
				t.Fatalf("Parse(%q): column %d lies outside of the text", text, syntax.Column)
			}
			return
		}
		again, err := Parse(target.String())
		if err != nil {
			t.Fatalf("Parse(%q) gives %q, which does not parse: %v", text, target, err)
		}
		if diff := cmp.Diff(target, again); diff != "" {
			t.Fatalf("%q changes when it is parsed again (-first +second):\n%s", target, diff)
		}
	})
}
