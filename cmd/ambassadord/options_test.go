package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/oneshot"
	"github.com/ambassadord/ambassadord/internal/option"
	"github.com/ambassadord/ambassadord/internal/settings"
	"github.com/ambassadord/ambassadord/resolver"
)

// values are, for each option, a value that is not its default and one that it does
// not take, with what is said of that.
var values = map[string]struct{ good, bad, err string }{
	"policy":              {"round-robin", "fastest", `"fastest" is no word that policy knows`},
	"locality":            {"prefer", "on", `"on" is no word that locality knows`},
	"slow-start":          {"30s", "2h", "2h is out of range"},
	"timeout":             {"20s", "0", "0 is out of range"},
	"attempt-timeout":     {"1s", "soon", `"soon" is not a duration`},
	"retry":               {"first-byte", "first-bite", `"first-bite" is no word that retry knows`},
	"refuse":              {"early", "erly", `"erly" is no word that refuse knows`},
	"hedge":               {"100ms", "100", `"100" has no unit`},
	"wait":                {"4s", "6m", "6m is out of range"},
	"eject-after":         {"5", "-1", "-1 is out of range"},
	"eject-for":           {"20s", "0s", "0s is out of range"},
	"eject-for-max":       {"10m", "25h", "25h is out of range"},
	"eject-most":          {"100", "101", "101 is out of range"},
	"check":               {"tcp", "https", `"https" is no word that check knows`},
	"check-port":          {"8080", "65536", "65536 is out of range"},
	"check-path":          {"/health", "health", `"health" does not begin with /`},
	"check-host":          {"redis.example.com", "a b", `"a b" is no host`},
	"check-send":          {`PING\r\n`, `\q`, `it has an escape that is not known: \q`},
	"check-expect":        {"+PONG", `\x0`, `it has an escape that is not known: \x0`},
	"check-interval":      {"1s", "10ms", "10ms is out of range"},
	"check-timeout":       {"1s", "1h", "1h is out of range"},
	"check-jitter":        {"0", "110%", "110% is out of range"},
	"check-rise":          {"1", "0", "0 is out of range"},
	"check-fall":          {"1", "101", "101 is out of range"},
	"client-limit":        {"10", "many", `"many" is not a whole number`},
	"target-limit":        {"1000", "1e3", `"1e3" is not a whole number`},
	"client-rate":         {"50", "-50", "-50 is out of range"},
	"queue":               {"0", "65536", "65536 is out of range"},
	"idle-timeout":        {"1h", "-1h", "-1h is out of range"},
	"half-closed-timeout": {"1m", "1d", `"1d" is not a duration`},
	"max-lifetime":        {"24h", "9000h", "9000h is out of range"},
	"max-lifetime-jitter": {"25", "101", "101 is out of range"},
	"on-unhealthy":        {"keep", "kep", `"kep" is no word that on-unhealthy knows`},
	"fail-back":           {"drain", "close", `"close" is no word that fail-back knows`},
	"proxy-protocol-tlvs": {"labels", "label", `"label" is no word that proxy-protocol-tlvs knows`},
	"proxy-protocol-max":  {"4112", "4113", "4113 is out of range"},
	"keepalive":           {"0", "999ms", "999ms is out of range"},
	"user-timeout":        {"30s", "25h", "25h is out of range"},
	"on-removal":          {"drain", "dran", `"dran" is no word that on-removal knows`},
	"drain-after":         {"5s", "later", `"later" is not a duration`},
	"proxy-protocol":      {"v2", "v3", `"v3" is no word that proxy-protocol knows`},
	"source-address":      {"client", "eth0", `"eth0" is no IP address`},
	"mark":                {"1", "4294967296", "4294967296 is out of range"},
}

// needed are what makes some options do something: without, they are told of.
var needed = map[string]setting{
	"check-path": {"check", "http"}, "check-host": {"check", "http"}, "check-send": {"check", "tcp"}, "drain-after": {"on-removal", "drain"},
	"check-port": {"check", "tcp"}, "check-expect": {"check", "tcp"}, "check-interval": {"check", "tcp"}, "check-timeout": {"check", "tcp"},
	"proxy-protocol-tlvs": {"proxy-protocol", "v2"}, "proxy-protocol-max": {"proxy-protocol", "v2"}, "max-lifetime-jitter": {"max-lifetime", "1h"},
	"check-jitter": {"check", "tcp"}, "check-rise": {"check", "tcp"}, "check-fall": {"check", "tcp"},
}

type setting struct{ name, value string }

// place is somewhere to write options of port 6379, whose target is a:1.
type place struct {
	name string
	// read gives what holds for the port with those options written there, and what
	// is said of them.
	read func(t *testing.T, settings ...setting) (option.Set, []error)
	// refuses says that a bad value is refused altogether.
	refuses bool
	// origin is how the place is named.
	origin string
}

func places() []place {
	labels := func(format string) func(*testing.T, ...setting) (option.Set, []error) {
		return func(_ *testing.T, settings ...setting) (option.Set, []error) {
			labels := map[string]string{"connect.6379": "a:1"}
			for _, s := range settings {
				labels[strings.Replace(format, "NAME", s.name, 1)] = s.value
			}
			return readPort(&binding.Layers{Limits: allowed()}, labels, nil)
		}
	}
	environment := func(format string) func(*testing.T, ...setting) (option.Set, []error) {
		return func(_ *testing.T, settings ...setting) (option.Set, []error) {
			var env []string
			for _, s := range settings {
				env = append(env, strings.Replace(format, "NAME", variable(s.name), 1)+"="+s.value)
			}
			return readPort(&binding.Layers{Limits: allowed()}, map[string]string{"connect.6379": "a:1"}, env)
		}
	}
	return []place{
		{"label", labels("connect.6379.NAME"), false, "label connect.6379.NAME"},
		{"bracketed label", labels("connect[6379].NAME"), false, "label connect[6379].NAME"},
		{"label for all ports", labels("connect.NAME"), false, "label connect.NAME"},
		{"environment", environment("CONNECT_6379_NAME"), false, "environment CONNECT_6379_VARIABLE"},
		{"environment, first form", environment("BACKEND_6379_NAME"), false, "environment BACKEND_6379_VARIABLE"},
		{"environment in mixed case", environment("connect_6379_NAME"), false, "environment connect_6379_VARIABLE"},
		{"defaults of a file", inFile("defaults:\n"), true, "file.yml:2:"},
		{"targets of a file", inFile("targets:\n  \"a:1\":\n"), true, "file.yml:3:"},
		{"clients of a file", inFile("clients:\n  - container: web\n    ports:\n      6379:\n        target: a:1\n"), true, "file.yml:6:"},
		{"listen of a file", inFile("listen:\n  - address: 6379\n    target: a:1\n"), true, "file.yml:4:"},
		{"flag", func(_ *testing.T, settings ...setting) (option.Set, []error) {
			var args []string
			for _, s := range settings {
				args = append(args, "--default", s.name+"="+s.value)
			}
			return withFlags(args...)
		}, true, "--default NAME"},
	}
}

// variable is an option's name in a variable.
func variable(name string) string { return strings.ReplaceAll(strings.ToUpper(name), "-", "_") }

// allowed lets containers set what is the operator's.
func allowed() option.Limited {
	limits := option.Limited{}
	for _, name := range option.Names() {
		limits[name] = option.Limit{}
	}
	return limits
}

func readPort(layers *binding.Layers, labels map[string]string, env []string) (option.Set, []error) {
	set := binding.Read(binding.Declarer{Name: "web", Labels: labels, Env: env}, layers, resolver.Parse)
	var errs []error
	for _, p := range set.Problems {
		errs = append(errs, p)
	}
	b, _ := set.Lookup(6379)
	return b.Options, errs
}

// withFlags reads the configuration of a command line as run does, and then port
// 6379 of a container and of the listeners.
func withFlags(args ...string) (option.Set, []error) {
	flags, set := newRunFlags(nil), pflag.NewFlagSet("", pflag.ContinueOnError)
	flags.register(set)
	set.StringVar(&flags.configFile, configFlag, "", "")
	if err := set.Parse(args); err != nil {
		return option.Set{}, []error{err}
	}
	cfg, err := flags.load(set, nil)
	if err != nil {
		return option.Set{}, []error{err}
	}
	if err := settings.Check(cfg, resolver.Parse); err != nil {
		return option.Set{}, []error{err}
	}
	layers := &binding.Layers{Defaults: cfg.Defaults, Clients: cfg.Clients, Targets: map[string]option.Layer{}, Limits: allowed()}
	for _, t := range cfg.Targets {
		layers.Targets[t.Target] = t.Options
	}
	if len(cfg.Listeners) == 1 {
		target, err := resolver.Parse(cfg.Listeners[0].Target)
		if err != nil {
			return option.Set{}, []error{err}
		}
		options, _ := layers.ListenerOptions(target, cfg.Listeners[0].Options)
		return options, nil
	}
	labels := map[string]string{}
	if len(cfg.Clients) == 0 {
		labels["connect.6379"] = "a:1"
	}
	return readPort(layers, labels, nil)
}

// inFile writes options at the end of a file that begins with text, one level below
// its last mapping.
func inFile(text string) func(*testing.T, ...setting) (option.Set, []error) {
	return func(t *testing.T, settings ...setting) (option.Set, []error) {
		path := filepath.Join(t.TempDir(), "file.yml")
		content := text
		for _, s := range settings {
			content += "        " + s.name + ": '" + strings.ReplaceAll(s.value, "'", "''") + "'\n"
		}
		if strings.HasPrefix(text, "listen") { // whose last line is a value
			content = strings.ReplaceAll(content, "        ", "    ")
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return withFlags("--config", path)
	}
}

// TestEveryOptionEverywhere: each option is valid wherever options are written, means
// the same there, and a value that it does not take gets the same message.
func TestEveryOptionEverywhere(t *testing.T) {
	for _, o := range option.All() {
		v, ok := values[o.Name]
		if !ok {
			t.Errorf("the test has no values of %s", o.Name)
			continue
		}
		var beside []setting // what it needs
		layer := option.Layer{{Name: o.Name, Text: v.good}}
		if need, ok := needed[o.Name]; ok {
			beside = append(beside, need)
			layer = append(layer, option.Setting{Name: need.name, Text: need.value})
		}
		want, problems := option.Merge(nil, layer)
		without, _ := option.Merge(nil, layer[1:])
		if len(problems) > 0 || want == without {
			t.Errorf("%s=%s: %v; want a value that is not the default", o.Name, v.good, problems)
		}
		for _, p := range places() {
			if o.Name == "refuse" && p.name == "listen of a file" {
				continue // listen-early.yml of TestBrokenConfigurations
			}
			t.Run(o.Name+"/"+p.name, func(t *testing.T) {
				got, errs := p.read(t, append([]setting{{o.Name, v.good}}, beside...)...)
				if len(errs) > 0 || got != want {
					t.Errorf("%q gives %v and\n%+v\nwant\n%+v", v.good, errs, got, want)
				}
				got, errs = p.read(t, append([]setting{{o.Name, v.bad}}, beside...)...)
				if len(errs) != 1 || !strings.Contains(errs[0].Error(), v.err) {
					t.Fatalf("%q gives %v; want %q", v.bad, errs, v.err)
				}
				origin := strings.NewReplacer("NAME", o.Name, "VARIABLE", variable(o.Name)).Replace(p.origin)
				if text := errs[0].Error(); !strings.Contains(text, origin) {
					t.Errorf("%q does not name the place %q", text, origin)
				}
				if h := hint.Of(errs[0]); !strings.Contains(h, o.Name+" takes ") {
					t.Errorf("the hint %q does not say what %s takes", h, o.Name)
				}
				if !p.refuses && got != without {
					t.Errorf("with %q there holds %+v; want the default", v.bad, got)
				}
			})
		}
	}
	for name := range values {
		if _, err := option.Lookup(name); err != nil {
			t.Errorf("the test has values of %s: %v", name, err)
		}
	}
}

// TestEveryOptionIsCompleted, with its words.
func TestEveryOptionIsCompleted(t *testing.T) {
	names, _ := completeDefault(nil, nil, "")
	all := strings.Join(names, "\n")
	for _, o := range option.All() {
		if !strings.Contains(all, o.Name+"=\t"+o.Help) {
			t.Errorf("%s is not completed", o.Name)
		}
		words, _ := completeDefault(nil, nil, o.Name+"=")
		for _, w := range o.Words {
			if !strings.Contains(strings.Join(words, " "), o.Name+"="+w) {
				t.Errorf("%s=%s is not completed", o.Name, w)
			}
		}
	}
}

// TestExampleFile loads the file that docs/config.md shows.
func TestExampleFile(t *testing.T) {
	page, err := os.ReadFile("../../docs/config.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(page), "```yaml\n")
	example, _, ok2 := strings.Cut(rest, "```")
	if !ok || !ok2 {
		t.Fatal("docs/config.md shows no file")
	}
	path := filepath.Join(t.TempDir(), "example.yml")
	if err := os.WriteFile(path, []byte(example), 0o600); err != nil {
		t.Fatal(err)
	}
	flags, set := newRunFlags(nil), pflag.NewFlagSet("", pflag.ContinueOnError)
	flags.register(set)
	flags.configFile = path
	cfg, err := flags.load(set, nil)
	if err != nil {
		t.Fatal(err)
	}
	parse, err := oneshot.NewParser(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := settings.Check(cfg, parse); err != nil {
		t.Error(err)
	}
	if len(cfg.Listeners) != 2 || len(cfg.Clients) != 2 || len(cfg.Targets) != 2 || cfg.MaxConnections != 20000 || len(cfg.Modes) != 1 {
		t.Errorf("%+v; want all that the file says", cfg)
	}
}

// TestConfigPageNamesEveryKey: what is a key is either told to change at a reload or
// not to.
func TestConfigPageNamesEveryKey(t *testing.T) {
	page, err := os.ReadFile("../../docs/config.md")
	if err != nil {
		t.Fatal(err)
	}
	_, changing, _ := strings.Cut(string(page), "## Changing it")
	set := pflag.NewFlagSet("", pflag.ContinueOnError)
	newRunFlags(nil).register(set)
	for _, key := range append(fileKeys(set), "defaults", "targets", "listen", "clients", "limits") {
		if !strings.Contains(changing, "`"+key+"`") {
			t.Errorf("docs/config.md does not say what a changed %s does", key)
		}
	}
}

// TestLimitsOfFlagsAndFile: a flag wins over the file, option by option.
func TestLimitsOfFlagsAndFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file.yml")
	if err := os.WriteFile(path, []byte("limits: {client-limit: 50, wait: 1s}"), 0o600); err != nil {
		t.Fatal(err)
	}
	load := func(args ...string) (config.Config, error) {
		flags, set := newRunFlags(nil), pflag.NewFlagSet("", pflag.ContinueOnError)
		flags.register(set)
		if err := set.Parse(args); err != nil {
			t.Fatal(err)
		}
		flags.configFile = path
		return flags.load(set, nil)
	}
	cfg, err := load("--limit", "client-limit=100", "--limit", "eject*=allow")
	want := option.Limited{"client-limit": {Most: "100", Origin: "--limit client-limit"}, "wait": {Most: "1s", Origin: path + ":1:28"}}
	for _, name := range []string{"eject-after", "eject-for", "eject-for-max", "eject-most"} {
		want[name] = option.Limit{Origin: "--limit eject*"}
	}
	if !reflect.DeepEqual(cfg.Limits, want) || err != nil {
		t.Errorf("%+v, %v; want %+v", cfg.Limits, err, want)
	}
	for text, said := range map[string]string{
		"client-limit": "says nothing of it", "clientlimit=5": "did you mean client-limit?", "wait=5": "has no unit", "x*=allow": "no option begins",
	} {
		if _, err := load("--limit", text); err == nil || !strings.Contains(err.Error()+hint.Of(err), said) {
			t.Errorf("--limit %s: %v, hint %q; want %q", text, err, hint.Of(err), said)
		}
	}
}
