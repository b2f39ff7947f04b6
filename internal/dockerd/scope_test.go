package dockerd

import (
	"fmt"
	"strings"
	"testing"
)

func TestScopeOf(t *testing.T) {
	shop := map[string]string{LabelProject: "shop"}
	on := func(names ...string) (networks []Network) {
		for _, name := range names {
			networks = append(networks, Network{Name: name})
		}
		return networks
	}
	pod := &Container{ID: "pod", Labels: map[string]string{LabelProject: "blog"}, NetworkMode: "blog", Networks: on("blog", "x y")}
	for _, test := range []struct {
		name string
		of   *Container
		want string
	}{
		{"nothing", &Container{NetworkMode: "none", Networks: on("none")}, ""},
		{"the default bridge", &Container{NetworkMode: "default", Networks: on("bridge")}, ""},
		{"the host's network", &Container{NetworkMode: "host", Networks: on("host"), Labels: shop}, "project=shop"},
		{"its networks", &Container{NetworkMode: "b", Networks: on("bridge", "b", "a", GatewayBridge), Labels: shop}, "network=a&network=b&project=shop"},
		{"another's networks, and its own project", &Container{NetworkMode: "container:pod", Labels: shop}, "network=blog&network=x+y&project=shop"},
		{"its namespace's owner is gone", &Container{NetworkMode: "container:gone", Labels: shop}, "project=shop"},
		{"only announced", &Container{NetworkMode: "back", Labels: shop, Announced: true}, "network=back&project=shop"},
		{"announced, the mode not known", &Container{Labels: shop, Announced: true}, "project=shop"},
		{"announced on the default bridge", &Container{NetworkMode: "default", Labels: shop, Announced: true}, "project=shop"},
		{"no project's name", &Container{Labels: map[string]string{LabelProject: strings.Repeat("x", maxProject+1)}}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			scope := NewSnapshot(test.of, pod).ScopeOf(test.of)
			text := scope.String()
			if text != test.want {
				t.Errorf("%q, want %q", text, test.want)
			}
			if again := ParseScope(text); fmt.Sprintf("%q", again) != fmt.Sprintf("%q", scope) || strings.Contains(text, " ") {
				t.Errorf("%q is read as %q, want %q, and has no space", text, again, scope)
			}
		})
	}
}
