package binding

import (
	"fmt"
	"strings"
	"testing"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/resolver"
)

func read(labels map[string]string, env []string) Set {
	return Read(Declarer{Name: "web", Labels: labels, Env: env}, nil, resolver.Parse)
}

func TestRead(t *testing.T) {
	for _, test := range []struct {
		name   string
		labels map[string]string
		env    []string
		want   map[uint16]string // port → target as declared
	}{
		{"dotted label", map[string]string{"connect.6379": "redis:6379"}, nil, map[uint16]string{6379: "redis:6379"}},
		{"bracketed label", map[string]string{"connect[6379]": "redis:6379"}, nil, map[uint16]string{6379: "redis:6379"}},
		{"environment", nil, []string{"BACKEND_6379=redis.services.consul", "CONNECT_5432=pg:5432"},
			map[uint16]string{6379: "redis.services.consul", 5432: "pg:5432"}},
		{"environment in any case", nil, []string{"backend_1=a:1", "Connect_2=b:2"}, map[uint16]string{1: "a:1", 2: "b:2"}},
		{"a target with an equals sign", nil, []string{"CONNECT_1=docker://?label=a=b&port=1"},
			map[uint16]string{1: "docker://?label=a=b&port=1"}},
		{"label wins over environment", map[string]string{"connect.1": "label:1"}, []string{"CONNECT_1=env:1"}, map[uint16]string{1: "label:1"}},
		{"CONNECT wins over BACKEND", nil, []string{"BACKEND_1=b:1", "CONNECT_1=c:1"}, map[uint16]string{1: "c:1"}},
		{"dotted wins over bracketed", map[string]string{"connect[1]": "b:1", "connect.1": "d:1"}, nil, map[uint16]string{1: "d:1"}},
		{"others are not ours", map[string]string{"com.example": "x", "connection": "y"}, []string{"BACKEND_HOST=x", "PATH=/bin", "REDIS_6379=x:1", "EMPTY"}, nil},
	} {
		set := read(test.labels, test.env)
		if len(set.Ports()) != len(test.want) {
			t.Errorf("%s: ports %v; want %v", test.name, set.Ports(), test.want)
		}
		for port, text := range test.want {
			b, ok := set.Lookup(port)
			if !ok || b.Text != text || b.Problem != nil || b.Target.String() == "" {
				t.Errorf("%s: port %d is %+v; want %q", test.name, port, b, text)
			}
		}
	}
}

func TestMistakeLosesItsOwnPortOnly(t *testing.T) {
	set := read(map[string]string{
		"connect.6379": "redis:66379",
		"connect.5432": "pg:5432",
	}, []string{"CONNECT_6379=redis:6379"})
	bad, ok := set.Lookup(6379)
	if !ok || bad.Problem == nil {
		t.Fatalf("port 6379 is %+v; want it quarantined, not taken from the environment behind the label's back", bad)
	}
	if text := bad.Problem.Error(); !strings.Contains(text, "label connect.6379") || !strings.Contains(text, "column 7") {
		t.Errorf("the problem %q does not name the label and the column", text)
	}
	if hint.Of(bad.Problem) == "" {
		t.Error("the problem carries no hint")
	}
	if good, ok := set.Lookup(5432); !ok || good.Problem != nil {
		t.Errorf("port 5432 is %+v; want it untouched by the other's mistake", good)
	}
}

func TestProblems(t *testing.T) {
	for _, test := range []struct {
		labels map[string]string
		env    []string
		origin string
		hint   string
	}{
		{map[string]string{"conect.6379": "a:1"}, nil, "label conect.6379", "did you mean connect.6379?"},
		{map[string]string{"connect-6379": "a:1"}, nil, "label connect-6379", "did you mean connect.6379?"},
		{map[string]string{"Connect.6379": "a:1"}, nil, "label Connect.6379", "did you mean connect.6379?"},
		{map[string]string{"connect6379": "a:1"}, nil, "label connect6379", "did you mean connect.6379?"},
		{map[string]string{"connect(6379)": "a:1"}, nil, "", ""},
		{map[string]string{"connect.redis": "a:1"}, nil, "label connect.redis", labelHint},
		{map[string]string{"connect.80/udp": "a:1"}, nil, "label connect.80/udp", "only TCP is carried: let the client speak TCP, or reach the service without ambassadord"},
		{map[string]string{"connect.80/tcp": "a:1"}, nil, "label connect.80/tcp", "leave the /tcp out: only TCP is carried"},
		{map[string]string{"connect.0": "a:1"}, nil, "label connect.0", portHint},
		{map[string]string{"connect.70000": "a:1"}, nil, "label connect.70000", portHint},
		{map[string]string{"connect.1": "a:1", "connect.1.timeuot": "1s"}, nil, "label connect.1.timeuot", "did you mean connect.1.timeout?"},
		{map[string]string{"connect.1": "a:1", "connect.1.timeout": "soon"}, nil, "label connect.1.timeout", "write a number with its unit, such as 2s or 500ms; timeout takes 1ms to 1h"},
		{map[string]string{"connect.1.timeout": "1s"}, nil, "label connect.1.timeout", labelHint},
		{nil, []string{"CONECT_6379=a:1"}, "environment CONECT_6379", "did you mean CONNECT_6379?"},
		{nil, []string{"BACKENDS_6379=a:1"}, "environment BACKENDS_6379", "did you mean BACKEND_6379?"},
		{nil, []string{"BACKEND_99999=a:1"}, "environment BACKEND_99999", portHint},
		{map[string]string{"connect.1": "a:1"}, []string{"BACKEND_1=b:1"}, "environment BACKEND_1", "keep one of the two"},
		{map[string]string{"connect.1": "a:1"}, []string{"BACKEND_1=a:1"}, "", ""},
	} {
		set := read(test.labels, test.env)
		if test.origin == "" {
			if len(set.Problems) != 0 {
				t.Errorf("%v %v: %v; want no problem", test.labels, test.env, set.Problems)
			}
			continue
		}
		if len(set.Problems) != 1 {
			t.Errorf("%v %v: problems %v; want one", test.labels, test.env, set.Problems)
			continue
		}
		if p := set.Problems[0]; p.Origin != test.origin || hint.Of(p) != test.hint {
			t.Errorf("%v %v: %q with hint %q; want %q with %q", test.labels, test.env, p, hint.Of(p), test.origin, test.hint)
		}
	}
}

func TestPortsAreBounded(t *testing.T) {
	labels := map[string]string{}
	for port := range 2000 {
		labels[fmt.Sprintf("connect.%d", port+1)] = "redis:6379"
	}
	set := read(labels, nil)
	if got := set.Ports(); len(got) != maxPorts || got[maxPorts-1] != maxPorts {
		t.Errorf("%d ports are accepted; want the first %d", len(got), maxPorts)
	}
	if len(set.Problems) != 1 || !strings.Contains(set.Problems[0].Error(), "declares 2000 ports") {
		t.Errorf("problems %v; want one that says how many ports there are", set.Problems)
	}
}

func FuzzRead(f *testing.F) {
	f.Add("connect.6379", "redis:6379", "BACKEND_1=a:1")
	f.Add("connect[1].timeout", "1s", "connect_70000=")
	f.Fuzz(func(t *testing.T, key, value, env string) {
		set := read(map[string]string{key: value}, []string{env})
		for _, b := range set.All() {
			if (b.Problem == nil) != (len(b.Target.Choices) > 0) {
				t.Errorf("%q=%q, %q: %+v has a target and a problem, or neither", key, value, env, b)
			}
		}
	})
}
