//go:build integration

package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestInside measures once with two daemons up at the same time: everybody has every
// figure, each daemon is on the way of its own client alone, and nothing is left behind.
func TestInside(t *testing.T) {
	folder := t.TempDir()
	program, path := filepath.Join(folder, "inside"), filepath.Join(folder, "result.json")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	cmd := exec.CommandContext(t.Context(), program, "-rounds", "1", "-time", "100ms", "-only", "^(listen|redirect|published)$", "-json", path)
	// Asked to end, it takes along what it has started.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 30 * time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var r result
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
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
