package binding

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/option"
	"github.com/ambassadord/ambassadord/resolver"
)

func layer(origin string, pairs ...string) option.Layer {
	var l option.Layer
	for i := 0; i < len(pairs); i += 2 {
		l = append(l, option.Setting{Name: pairs[i], Text: pairs[i+1], Origin: origin})
	}
	return l
}

// allowed lets containers set what is the operator's.
func allowed() option.Limited {
	limits := option.Limited{}
	for _, name := range option.Names() {
		limits[name] = option.Limit{}
	}
	return limits
}

// TestLayers: each layer wins over those below it.
func TestLayers(t *testing.T) {
	layers := &Layers{
		Limits: allowed(),
		Defaults: []option.Layer{layer("file", "wait", "1s", "queue", "1", "hedge", "1ms", "mark", "1", "client-rate", "1", "eject-after", "1", "client-limit", "1"),
			layer("flag", "queue", "2", "hedge", "2ms", "mark", "2", "client-rate", "2", "eject-after", "2", "client-limit", "2")},
		Targets: map[string]option.Layer{"redis:6379": layer("target", "hedge", "3ms", "mark", "3", "client-rate", "3", "eject-after", "3", "client-limit", "3")},
		Clients: []Static{{Container: "w*", Ports: map[uint16]StaticPort{
			1: {Target: "redis:6379", Origin: "clients", Options: layer("clients", "client-limit", "7")},
			2: {Target: "redis:6379", Origin: "clients", Options: layer("clients", "client-rate", "8", "client-limit", "8")},
		}}},
	}
	set := Read(Declarer{
		Name: "web",
		Labels: map[string]string{
			"connect.1": "redis:6379", "connect.1.eject-after": "6", "connect.mark": "4", "connect.client-rate": "4",
			"connect.eject-after": "4",
		},
		Env: []string{"CONNECT_1_CLIENT_RATE=5", "backend_1_eject_after=5", "CONNECT_2_CLIENT_LIMIT=9"},
	}, layers, resolver.Parse)
	want := option.Default()
	want.Wait, want.Queue, want.Hedge, want.Mark, want.ClientRate, want.EjectAfter, want.ClientLimit =
		time.Second, 2, 3*time.Millisecond, 4, 5, 6, 3
	if b, _ := set.Lookup(1); b.Options != want {
		t.Errorf("port 1 has %+v\nwant %+v", b.Options, want)
	}
	want.EjectAfter, want.ClientRate, want.ClientLimit = 4, 8, 9
	if b, _ := set.Lookup(2); b.Options != want || b.Origin != "clients" {
		t.Errorf("port 2 has %+v\nwant %+v", b.Options, want)
	}
	if len(set.Problems) > 0 {
		t.Errorf("problems %v", set.Problems)
	}
}

func TestTargetOptionsGoByCanonicalText(t *testing.T) {
	target, err := resolver.Parse("b:2,a:1")
	if err != nil {
		t.Fatal(err)
	}
	layers := &Layers{Targets: map[string]option.Layer{target.String(): layer("target", "wait", "7s")}}
	set := Read(Declarer{Labels: map[string]string{"connect.1": "b:2, a:1", "connect.2": "a:1"}}, layers, resolver.Parse)
	for port, want := range map[uint16]time.Duration{1: 7 * time.Second, 2: 3 * time.Second} {
		if b, _ := set.Lookup(port); b.Options.Wait != want {
			t.Errorf("port %d (%s) waits %s; want %s", port, b.Target, b.Options.Wait, want)
		}
	}
}

// TestBadOption: a value that cannot be used costs itself, and the port is served.
func TestBadOption(t *testing.T) {
	for _, test := range []struct {
		labels   map[string]string
		env      []string
		wait     time.Duration
		problems []string // text (hint)
	}{
		{map[string]string{"connect.1.wait": "1h"}, nil, 3 * time.Second,
			[]string{"label connect.1.wait: 1h is out of range; 3s is used (wait takes 0 (refuse at once) or 1ms to 5m)"}},
		{map[string]string{"connect.1.wait": "1h"}, []string{"CONNECT_1_WAIT=2s"}, 2 * time.Second,
			[]string{"label connect.1.wait: 1h is out of range; 2s is used (wait takes 0 (refuse at once) or 1ms to 5m)"}},
		{map[string]string{"connect.wait": "1h"}, nil, 3 * time.Second,
			[]string{"label connect.wait: 1h is out of range; passed over (wait takes 0 (refuse at once) or 1ms to 5m)"}},
		{map[string]string{"connect.wiat": "1s"}, nil, 3 * time.Second,
			[]string{`label connect.wiat: unknown option "wiat"; passed over (did you mean connect.wait?)`}},
		{map[string]string{"connect.1.wiat": "1s"}, nil, 3 * time.Second,
			[]string{`label connect.1.wiat: unknown option "wiat"; passed over (did you mean connect.1.wait?)`}},
		{map[string]string{"connect[1].colour": "red"}, nil, 3 * time.Second,
			[]string{`label connect[1].colour: unknown option "colour"; passed over (the options are listed in docs/options.md)`}},
		{nil, []string{"Backend_1_Wait=5"}, 3 * time.Second,
			[]string{`environment Backend_1_Wait: "5" has no unit; 3s is used (write 5s or 5ms; wait takes 0 (refuse at once) or 1ms to 5m)`}},
		{nil, []string{"CONNECT_1_SLOWSTART=5s"}, 3 * time.Second,
			[]string{`environment CONNECT_1_SLOWSTART: unknown option "slowstart"; passed over (did you mean CONNECT_1_SLOW_START?)`}},
		{nil, []string{"CONECT_1_WAIT=5s"}, 3 * time.Second,
			[]string{"environment CONECT_1_WAIT: looks like a declaration but is none; passed over (did you mean CONNECT_1_WAIT?)"}},
		{nil, []string{"CONNECT_1_HOST=other.program", "BACKEND_1_HOST=x", "CONNECT_TIMEOUT=5", "BACKEND_1_=x", "API_1_WAIT=x"}, 3 * time.Second, nil},
		{map[string]string{"connect.1.wait": "1s", "connect[1].wait": "2s"}, nil, time.Second,
			[]string{"label connect[1].wait: passed over: label connect.1.wait sets wait of port 1 too and wins (keep one of the two)"}},
		{nil, []string{"BACKEND_1_WAIT=2s", "CONNECT_1_WAIT=1s"}, time.Second,
			[]string{"environment BACKEND_1_WAIT: passed over: environment CONNECT_1_WAIT sets wait of port 1 too and wins (keep one of the two)"}},
		{map[string]string{"connect.1.wait": "1s"}, []string{"BACKEND_1_WAIT=2s"}, time.Second, nil},
		{map[string]string{"connect.2.wait": "1s"}, []string{"BACKEND_3_WAIT=2s"}, 3 * time.Second, []string{
			"label connect.2.wait: an option of port 2, which nothing declares (" + labelHint + ")",
			"environment BACKEND_3_WAIT: an option of port 3, which nothing declares (" + labelHint + ")"}},
		{map[string]string{"connect.drain-after": "1m", "connect.on-removal": "keep", "connect.2": "b:2"}, nil, 3 * time.Second,
			[]string{"label connect.drain-after: drain-after does nothing with on-removal keep (set on-removal, on-unhealthy or fail-back to drain, or leave it out)"}},
	} {
		labels := map[string]string{"connect.1": "a:1"}
		for k, v := range test.labels {
			labels[k] = v
		}
		set := read(labels, test.env)
		if b, ok := set.Lookup(1); !ok || b.Problem != nil || b.Options.Wait != test.wait {
			t.Errorf("%v %v: port 1 is %+v; want it served, with wait %s", test.labels, test.env, b, test.wait)
		}
		var problems []string
		for _, p := range set.Problems {
			problems = append(problems, p.Error()+" ("+hint.Of(p)+")")
		}
		if !slices.Equal(problems, test.problems) {
			t.Errorf("%v %v: problems\n%s\nwant\n%s", test.labels, test.env, strings.Join(problems, "\n"), strings.Join(test.problems, "\n"))
		}
	}
}

func TestWideOptionOfNoPort(t *testing.T) {
	set := read(map[string]string{"connect.wait": "1s"}, nil)
	if len(set.Problems) != 1 || hint.Of(set.Problems[0]) != labelHint {
		t.Errorf("problems %v; want one that says how to declare a port", set.Problems)
	}
}

func TestStatic(t *testing.T) {
	one := map[uint16]StaticPort{6379: {Target: "one:1", Origin: "one"}}
	two := map[uint16]StaticPort{6379: {Target: "two:1", Origin: "two"}, 80: {Target: "two:80", Origin: "two"}}
	for _, test := range []struct {
		name    string
		clients []Static
		labels  map[string]string
		want    map[uint16]string
	}{
		{"by name", []Static{{Container: "web", Ports: one}}, nil, map[uint16]string{6379: "one:1"}},
		{"by pattern", []Static{{Container: "w?b*", Ports: one}}, nil, map[uint16]string{6379: "one:1"}},
		{"another", []Static{{Container: "web-2", Ports: one}}, nil, nil},
		{"by label", []Static{{Label: "app=shop", Ports: one}}, map[string]string{"app": "shop"}, map[uint16]string{6379: "one:1"}},
		{"by label of any value", []Static{{Label: "app", Ports: one}}, map[string]string{"app": "shop"}, map[uint16]string{6379: "one:1"}},
		{"another value", []Static{{Label: "app=shop", Ports: one}}, map[string]string{"app": "x"}, nil},
		{"an empty value", []Static{{Label: "app=", Ports: one}}, map[string]string{"app": ""}, map[uint16]string{6379: "one:1"}},
		{"both must match", []Static{{Container: "web", Label: "app=shop", Ports: one}}, nil, nil},
		{"everybody", []Static{{Container: "*", Ports: one}}, nil, map[uint16]string{6379: "one:1"}},
		{"the first wins, port by port", []Static{{Container: "web", Ports: one}, {Container: "*", Ports: two}}, nil,
			map[uint16]string{6379: "one:1", 80: "two:80"}},
		{"the container wins, port by port", []Static{{Container: "web", Ports: two}}, map[string]string{"connect.6379": "own:1"},
			map[uint16]string{6379: "own:1", 80: "two:80"}},
		{"a quarantined port is not taken over", []Static{{Container: "web", Ports: one}}, map[string]string{"connect.6379": "own"},
			map[uint16]string{6379: "own"}},
	} {
		set := Read(Declarer{Name: "web", Labels: test.labels}, &Layers{Clients: test.clients}, resolver.Parse)
		if got := set.Ports(); len(got) != len(test.want) {
			t.Errorf("%s: ports %v; want %v", test.name, got, test.want)
		}
		for port, text := range test.want {
			if b, _ := set.Lookup(port); b.Text != text {
				t.Errorf("%s: port %d leads to %q; want %q", test.name, port, b.Text, text)
			}
		}
	}
}

func TestOptionsOfAStaticPortAreTheContainersToo(t *testing.T) {
	clients := []Static{{Container: "web", Ports: map[uint16]StaticPort{
		1: {Target: "a:1", Origin: "clients", Options: layer("clients", "wait", "1s", "queue", "9")}}}}
	set := Read(Declarer{Name: "web", Labels: map[string]string{"connect.1.wait": "2s"}}, &Layers{Clients: clients}, resolver.Parse)
	if b, _ := set.Lookup(1); b.Options.Wait != 2*time.Second || b.Options.Queue != 9 || len(set.Problems) > 0 {
		t.Errorf("%+v, problems %v; want the label's wait and the file's queue", b.Options, set.Problems)
	}
}
