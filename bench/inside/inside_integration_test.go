//go:build integration

package main

import (
	"os/exec"
	"testing"

	"github.com/ambassadord/ambassadord/bench/internal/benchtest"
)

// TestInside measures once with two daemons up at the same time: everybody has every
// figure, each daemon is on the way of its own client alone, and nothing is left behind.
func TestInside(t *testing.T) {
	var r insideResult
	benchtest.Run(t, &r, "-rounds", "1", "-time", "100ms", "-only", "^(listen|redirect|published)$")
	if want := 4 * len(workloads()); len(r.Values) != want {
		t.Errorf("%d values, want %d", len(r.Values), want)
	}
	for _, v := range r.Values {
		if v.Rate <= 0 || v.CPU <= 0 || v.Proxy < 0 || v.Proxy > 0 && v.Contestant == direct {
			t.Errorf("%+v", v)
		}
	}
	// A workload may be too short for the clock of processes, all of them are not.
	for _, c := range []string{listen, redirect} {
		var between float64
		for _, w := range workloads() {
			for _, f := range r.figures(c, w.name, proxy) {
				between += f
			}
		}
		if between == 0 {
			t.Errorf("the daemon of %s has done nothing", c)
		}
	}
	out, err := exec.CommandContext(t.Context(), "docker", "ps", "-aq", "--filter", "ancestor="+image).CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("left behind: %s, %v", out, err)
	}
}
