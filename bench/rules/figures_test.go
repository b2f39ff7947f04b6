package main

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// TestFiguresAreCompared: each daemon is compared with the first, within a round.
func TestFiguresAreCompared(t *testing.T) {
	after := func(ready ...int) (all []start) {
		for _, r := range ready {
			all = append(all, start{ready: time.Duration(r) * time.Millisecond})
		}
		return all
	}
	r := rulesResult{n: 3, all: []*measuredDaemon{
		{name: "old", starts: after(100, 200, 400)}, {name: "today", starts: after(50, 100, 800)},
	}}
	got := r.compared("ready", func(s start) float64 { return ms(s.ready) })
	if want := []string{"ready", "200 (150–300)", "100 (75–450), × 0.50"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestProgramsAreCounted: the daemon itself is none, nor is what could not be started.
func TestProgramsAreCounted(t *testing.T) {
	trace := filepath.Join(t.TempDir(), "trace")
	const lines = `10 execve("/tmp/ambassadord", ["ambassadord", "run"], 0x7 /* 9 vars */) = 0
11 execve("/usr/sbin/iptables", ["iptables"], 0xc /* 9 vars */) = 0
12 execve("/usr/sbin/ip6tables", ["ip6tables"], 0xc /* 9 vars */) = 0
12 execve("/usr/local/bin/iptables", ["iptables"], 0xc /* 9 vars */) = -1 ENOENT (No such file or directory)
13 execve("/usr/sbin/iptables", ["iptables"], 0xc /* 9 vars */ <unfinished ...>
13 <... execve resumed>) = 0
13 +++ exited with 0 +++
`
	if err := os.WriteFile(trace, []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := programs(trace)
	if err != nil {
		t.Fatal(err)
	}
	if want := "3 (1 ip6tables, 2 iptables)"; count(got) != want {
		t.Errorf("got %s, want %s", count(got), want)
	}
	if got := count(nil); got != "0" {
		t.Errorf("none is %q", got)
	}
}
