package dockerd

import (
	"strings"
	"testing"
)

func TestTheLargestLabelsAreLeftOut(t *testing.T) {
	huge := strings.Repeat("x", 400_000)
	c := &Container{
		Labels: map[string]string{"connect.1": "a:1", "one": huge, "two": huge + "x"},
		Env:    []string{"A=1", "THREE=" + huge, "B=2"},
	}
	c.keepDeclared()
	if c.LeftOut != 1 || len(c.Labels) != 3 || len(c.Env) != 2 {
		t.Errorf("%d left out, %d labels, %d variables; want THREE, the largest, to be left out alone", c.LeftOut, len(c.Labels), len(c.Env))
	}
	if c.Env[0] != "A=1" || c.Env[1] != "B=2" || c.Labels["connect.1"] != "a:1" {
		t.Errorf("environment %.40q, labels %.40q", c.Env, c.Labels["connect.1"])
	}
	small := &Container{Labels: map[string]string{"a": "b"}, Env: []string{"A=1"}}
	if small.keepDeclared(); small.LeftOut != 0 || len(small.Labels) != 1 || len(small.Env) != 1 {
		t.Errorf("of a small one is kept %+v", small)
	}
}
