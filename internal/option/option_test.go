package option

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/hint"
)

// TestTable: every row reads its own default and what it writes itself, has a field
// of its own, and says what it is.
func TestTable(t *testing.T) {
	seen := map[string]bool{}
	groups := []Group{Balancing, Failover, Health, Limits, Timeouts, Removal, Upstream}
	last := 0
	for _, o := range All() {
		if seen[o.Name] {
			t.Errorf("%s is there twice", o.Name)
		}
		seen[o.Name] = true
		if o.Help == "" || o.Range == "" || strings.Contains(o.Help, "\n") || strings.HasSuffix(o.Help, ".") {
			t.Errorf("%s: help %q, range %q", o.Name, o.Help, o.Range)
		}
		if at := slices.Index(groups, o.Group); at < last {
			t.Errorf("%s of %s stands below a later group", o.Name, o.Group)
		} else {
			last = at
		}
		if err := o.Validate(o.Default); err != nil {
			t.Errorf("%s: its default: %v", o.Name, err)
		}
		if got := o.In(Default()); got != o.Default {
			t.Errorf("%s: the default %q is written %q", o.Name, o.Default, got)
		}
	}
	if fields := reflect.TypeFor[Set]().NumField(); fields != len(seen) {
		t.Errorf("%d options and %d fields; want one for each", len(seen), fields)
	}
	for _, d := range dependences() {
		if !seen[d.name] || !seen[d.on] {
			t.Errorf("a dependence of %s on %s, which are not both in the table", d.name, d.on)
		}
	}
}

// TestFields: each option changes its own field of a Set and no other.
func TestFields(t *testing.T) {
	for _, o := range All() {
		s := Default()
		if err := o.put(&s, samples[o.Name]); err != nil {
			t.Errorf("%s=%s: %v", o.Name, samples[o.Name], err)
			continue
		}
		var changed []string
		before, after := reflect.ValueOf(Default()), reflect.ValueOf(s)
		for i := range before.NumField() {
			if before.Field(i).Interface() != after.Field(i).Interface() {
				changed = append(changed, before.Type().Field(i).Name)
			}
		}
		if want := fieldOf(o.Name); !slices.Equal(changed, []string{want}) {
			t.Errorf("%s changes %v; want %s", o.Name, changed, want)
		}
		again := Default()
		if err := o.put(&again, o.In(s)); err != nil || again != s {
			t.Errorf("%s: %q is written as %q and read as another (%v)", o.Name, samples[o.Name], o.In(s), err)
		}
	}
}

func fieldOf(name string) string {
	var out string
	for _, part := range strings.Split(name, "-") {
		out += strings.ToUpper(part[:1]) + part[1:]
	}
	return out
}

// samples are values that are not the defaults.
var samples = map[string]string{
	"policy": "round-robin", "locality": "prefer", "slow-start": "30s",
	"timeout": "2s", "attempt-timeout": "250ms", "hedge": "100ms", "retry": "first-byte", "refuse": "early", "wait": "1m30s",
	"eject-after": "5", "eject-for": "1m", "eject-for-max": "1h", "eject-most": "30%",
	"check": "http", "check-port": "8080", "check-path": "/health?full=1", "check-host": "redis.example.com",
	"check-send": `PING\r\n`, "check-expect": `+PONG\x00\\`, "check-interval": "1s", "check-timeout": "500ms",
	"check-jitter": "20", "check-rise": "3", "check-fall": "1",
	"client-limit": "10", "target-limit": "1000", "client-rate": "50", "queue": "0",
	"idle-timeout": "1h", "half-closed-timeout": "30s", "max-lifetime": "24h", "keepalive": "0", "user-timeout": "30s",
	"on-removal": "drain", "drain-after": "0",
	"on-unhealthy": "close", "fail-back": "drain", "max-lifetime-jitter": "25", "proxy-protocol": "v2", "proxy-protocol-tlvs": "labels", "proxy-protocol-max": "536", "source-address": "client", "mark": "4294967295",
}

func TestMessages(t *testing.T) {
	for _, test := range []struct{ name, text, err, hint string }{
		{"timeout", "soon", `"soon" is not a duration`, "write a number with its unit, such as 2s or 500ms; timeout takes 1ms to 1h"},
		{"timeout", "5", `"5" has no unit`, "write 5s or 5ms; timeout takes 1ms to 1h"},
		{"timeout", "", `"" is not a duration`, "write a number with its unit, such as 2s or 500ms; timeout takes 1ms to 1h"},
		{"timeout", "0", "0 is out of range", "timeout takes 1ms to 1h"},
		{"timeout", "-1s", "-1s is out of range", "timeout takes 1ms to 1h"},
		{"wait", "10m", "10m is out of range", "wait takes 0 (refuse at once) or 1ms to 5m"},
		{"keepalive", "500ms", "500ms is out of range", "keepalive takes 0 (off) or 1s to 9h"},
		{"policy", "leastconn", `"leastconn" is no word that policy knows`, "policy takes least-connections, round-robin, random, source, first"},
		{"policy", "round_robin", `"round_robin" is no word that policy knows`, "did you mean round-robin? policy takes least-connections, round-robin, random, source, first"},
		{"policy", "Random", `"Random" is no word that policy knows`, "did you mean random? policy takes least-connections, round-robin, random, source, first"},
		{"eject-after", "-1", "-1 is out of range", "eject-after takes 0 (never) or 1 to 1000"},
		{"eject-after", "1.5", `"1.5" is not a whole number`, "eject-after takes 0 (never) or 1 to 1000"},
		{"eject-most", "101%", "101% is out of range", "eject-most takes 0 to 100 percent"},
		{"eject-most", "half", `"half" is not a whole number`, "eject-most takes 0 to 100 percent"},
		{"check-port", "65536", "65536 is out of range", "check-port takes 0 (the endpoint's) or 1 to 65535"},
		{"queue", "99999999999999999999", "99999999999999999999 is out of range", "queue takes 0 (none) or 1 to 65535"},
		{"mark", "4294967296", "4294967296 is out of range", "mark takes 0 (none) or 1 to 4294967295"},
		{"check-path", "health", `"health" does not begin with /`, "check-path takes a path that begins with /, a query included"},
		{"check-path", "/a b", `"/a b" has characters that a request line cannot hold`, "check-path takes a path that begins with /, a query included"},
		{"check-host", "a/b", `"a/b" is no host`, "check-host takes a name or an address, with a port or without"},
		{"check-send", `\q`, `it has an escape that is not known: \q`, `check-send takes a text with the escapes \r \n \t \\ \xHH`},
		{"check-send", strings.Repeat("x", 2000), "2000 bytes are more than 1024", `check-send takes a text with the escapes \r \n \t \\ \xHH`},
		{"source-address", "clinet", `"clinet" is no IP address`, "did you mean client? source-address takes an IP address or client"},
		{"source-address", "eth0", `"eth0" is no IP address`, "source-address takes an IP address or client"},
		{"source-address", "0.0.0.0", "0.0.0.0 is no address to connect from", "source-address takes an IP address or client"},
		{"tiemout", "1s", `unknown option "tiemout"`, "did you mean timeout?"},
		{"colour", "red", `unknown option "colour"`, "the options are listed in docs/options.md"},
	} {
		o, err := Lookup(test.name)
		if err == nil {
			err = o.Validate(test.text)
		}
		if err == nil || err.Error() != test.err || hint.Of(err) != test.hint {
			t.Errorf("%s=%s: %v (%s)\nwant %s (%s)", test.name, test.text, err, hint.Of(err), test.err, test.hint)
		}
	}
}

func TestSource(t *testing.T) {
	for text, want := range map[string]Source{
		"":                {},
		"client":          {Client: true},
		"10.1.2.3":        {Addr: netip.MustParseAddr("10.1.2.3")},
		"::ffff:10.1.2.3": {Addr: netip.MustParseAddr("10.1.2.3")},
		"fd00::7":         {Addr: netip.MustParseAddr("fd00::7")},
	} {
		s, problems := Merge(nil, Layer{{Name: "source-address", Text: text}})
		if len(problems) > 0 || s.SourceAddress != want {
			t.Errorf("%q is %+v, %v; want %+v", text, s.SourceAddress, problems, want)
		}
	}
}

func TestEscapes(t *testing.T) {
	s, problems := Merge(nil, Layer{{Name: "check", Text: "tcp"}, {Name: "check-send", Text: `PING\r\n\t\\\x00é`}})
	if want := "PING\r\n\t\\\x00é"; len(problems) > 0 || s.CheckSend != want {
		t.Errorf("%q, %v; want %q", s.CheckSend, problems, want)
	}
	for _, broken := range []string{`\`, `\x`, `\x1`, `\xzz`, `a\`} {
		if _, problems := Merge(nil, Layer{{Name: "check", Text: "tcp"}, {Name: "check-send", Text: broken}}); len(problems) != 1 {
			t.Errorf("%q: %v; want one problem", broken, problems)
		}
	}
}

func set(origin string, pairs ...string) Layer {
	var layer Layer
	for i := 0; i < len(pairs); i += 2 {
		layer = append(layer, Setting{Name: pairs[i], Text: pairs[i+1], Origin: origin})
	}
	return layer
}

func TestMerge(t *testing.T) {
	for _, test := range []struct {
		name     string
		shared   []Layer
		own      Layer
		want     func(*Set)
		problems []string
	}{
		{"nothing", nil, nil, func(*Set) {}, nil},
		{"the higher layer wins", []Layer{set("file", "wait", "1s", "timeout", "9s"), set("flag", "wait", "2s")}, set("label", "wait", "4s"),
			func(s *Set) { s.Wait, s.Timeout = 4*time.Second, 9*time.Second }, nil},
		{"a bad value costs itself", []Layer{set("file", "wait", "1s")}, set("label", "wait", "1", "queue", "7"),
			func(s *Set) { s.Wait, s.Queue = time.Second, 7 }, []string{`label: "1" has no unit; 1s is used`}},
		{"the later of one layer wins", nil, append(set("environment", "wait", "1s"), set("label", "wait", "2s")...),
			func(s *Set) { s.Wait = 2 * time.Second }, nil},
		{"a bad later leaves the earlier", nil, append(set("environment", "wait", "1s"), set("label", "wait", "x")...),
			func(s *Set) { s.Wait = time.Second }, []string{`label: "x" is not a duration; 1s is used`}},
		{"unknown", nil, set("label", "wiat", "1s"), func(*Set) {}, []string{`label: unknown option "wiat"; passed over`}},

		{"eject-for beyond the built-in most", nil, set("label", "eject-for", "10m"),
			func(*Set) {}, []string{"label: eject-for is 10m and eject-for-max 5m, which is less; 10s is used"}},
		{"the higher of two that contradict goes", []Layer{set("file", "eject-for", "1m")}, set("label", "eject-for-max", "30s"),
			func(s *Set) { s.EjectFor = time.Minute }, []string{"label: eject-for is 1m and eject-for-max 30s, which is less; 5m is used"}},
		{"both raised", nil, set("label", "eject-for", "10m", "eject-for-max", "1h"),
			func(s *Set) { s.EjectFor, s.EjectForMax = 10*time.Minute, time.Hour }, nil},
		{"two contradictions", nil, append(set("environment", "eject-for", "10m"), set("label", "eject-for", "20m")...),
			func(*Set) {}, []string{
				"environment: eject-for is 10m and eject-for-max 5m, which is less; 10s is used",
				"label: eject-for is 20m and eject-for-max 5m, which is less; 10s is used"}},

		{"a path for no check", nil, set("label", "check-path", "/health"),
			func(s *Set) { s.CheckPath = "/health" }, []string{"label: check-path does nothing with check none"}},
		{"a path for a TCP check", nil, set("label", "check", "tcp", "check-path", "/health"),
			func(s *Set) { s.Check, s.CheckPath = CheckTCP, "/health" }, []string{"label: check-path does nothing with check tcp"}},
		{"a path in case of a check", []Layer{set("file", "check-path", "/health")}, nil,
			func(s *Set) { s.CheckPath = "/health" }, nil},
		{"a path for a check that is switched off", []Layer{set("file", "check", "http", "check-path", "/health")}, set("label", "check", "none"),
			func(s *Set) { s.CheckPath = "/health" }, nil},
		{"a path for another check of its own layer", []Layer{set("file", "check", "tcp", "check-path", "/health")}, nil,
			func(s *Set) { s.Check, s.CheckPath = CheckTCP, "/health" }, []string{"file: check-path does nothing with check tcp"}},
		{"an interval above the check's layer", []Layer{set("file", "check", "http")}, set("label", "check-interval", "1s"),
			func(s *Set) { s.Check, s.CheckInterval = CheckHTTP, time.Second }, nil},
		{"the default written out", nil, set("label", "check-interval", "5s"), func(*Set) {}, nil},
		{"wait beyond timeout", nil, set("label", "wait", "30s"),
			func(s *Set) { s.Wait = 30 * time.Second }, []string{"label: wait does nothing beyond timeout, which is 10s"}},
		{"a short timeout over a long wait", []Layer{set("file", "wait", "30s", "timeout", "30s")}, set("label", "timeout", "1s"),
			func(s *Set) { s.Wait, s.Timeout = 30*time.Second, time.Second }, nil},
	} {
		want := Default()
		test.want(&want)
		got, problems := Merge(test.shared, test.own)
		if got != want {
			t.Errorf("%s: %+v\nwant %+v", test.name, got, want)
		}
		var texts []string
		for _, p := range problems {
			text := p.Error()
			if p.Instead != "" {
				text += "; " + p.Instead
			}
			texts = append(texts, text)
			if hint.Of(p) == "" {
				t.Errorf("%s: %v has no hint", test.name, p)
			}
		}
		if !slices.Equal(texts, test.problems) {
			t.Errorf("%s: problems %q\nwant %q", test.name, texts, test.problems)
		}
	}
}

func FuzzMerge(f *testing.F) {
	f.Add("wait", "5s", "check-send", `\x00`)
	f.Add("eject-for", "10h", "eject-for-max", "1s")
	f.Fuzz(func(t *testing.T, name, text, ownName, ownText string) {
		s, _ := Merge([]Layer{{{Name: name, Text: text}}}, Layer{{Name: ownName, Text: ownText}})
		if s.EjectFor > s.EjectForMax {
			t.Errorf("%+v contradicts itself", s)
		}
		for _, o := range All() {
			if err := o.Validate(o.In(s)); err != nil {
				t.Errorf("%s=%q, %s=%q: %s has a value that cannot be written: %v", name, text, ownName, ownText, o.Name, err)
			}
		}
	})
}

// Thousands of listeners merge their options, most of which nobody has written: the sets that an
// option is looked up in, a KiB each, are not copied for those.
func TestMergeOfNothingAllocatesLittle(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() { Merge(nil, nil) }); n > 6 {
		t.Errorf("%v allocations; want 6 at most", n)
	}
}

// TestMessagesQuoteNoPassword: what a check sends and expects, and the query of its path, may be one.
func TestMessagesQuoteNoPassword(t *testing.T) {
	for name, texts := range map[string][]string{
		"check-send":   {`AUTH s3cret\q`, `\s3cret`, `AUTH s3cret\x0`},
		"check-expect": {`s3cret\`},
		"check-path":   {"health?k=s3cret", "/health?k=s3cret two"},
	} {
		for _, text := range texts {
			o, err := Lookup(name)
			if err != nil {
				t.Fatal(err)
			}
			if err := o.put(new(Set), text); err == nil || strings.Contains(err.Error()+hint.Of(err), "s3c") {
				t.Errorf("%s=%s is refused with %v; hint: %s", name, text, err, hint.Of(err))
			}
		}
	}
}
