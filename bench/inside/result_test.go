package main

import (
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/bench/inside/job"
)

// TestConfidence has the ranks that tables of the sign test give.
func TestConfidence(t *testing.T) {
	for n, want := range map[int][2]float64{1: {1, 1}, 5: {1, 5}, 6: {1, 6}, 10: {2, 9}, 16: {4, 13}, 100: {40, 61}, 3000: {1446, 1555}} {
		var figures []float64
		for i := n; i > 0; i-- {
			figures = append(figures, float64(i))
		}
		if low, high := confidence(figures); low != want[0] || high != want[1] {
			t.Errorf("of 1 to %d: %v to %v, want %v", n, low, high, want)
		}
	}
	if low, high := confidence(nil); !math.IsNaN(low) || !math.IsNaN(high) {
		t.Errorf("of nothing: %v to %v", low, high)
	}
}

// TestOwnNames runs nothing: that a daemon with such names serves beside another is what
// every measurement of two modes relies on.
func TestOwnNames(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	if err := os.WriteFile(from, []byte("a@ambassadord/redirectb@ambassadord/controlc/run/ambassadordd"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := ownNames(to, from, host); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(to); string(got) != "a@hosthosthos/redirectb@hosthosthos/controlc/run/hosthosthosd" {
		t.Errorf("the copy is %q", got)
	}
	if err := ownNames(to, to, host); err == nil {
		t.Error("a program without such names was copied")
	}
}

func TestWhoeverIsAloneIsNotUpWithOthers(t *testing.T) {
	var ways []*measuredWay
	for _, c := range contestants() {
		ways = append(ways, &measuredWay{insideContestant: c})
	}
	var got []string
	for _, party := range parties(ways) {
		for _, w := range party {
			got = append(got, w.name)
		}
		got = append(got, "|")
	}
	want := []string{host, "|", direct, listen, redirect, published, dnat, "|"}
	if !slices.Equal(got, want) {
		t.Errorf("the parties are %q, want %q", got, want)
	}
}

func TestAValueIsPerOperationOrGigabyte(t *testing.T) {
	r := job.Result{Operations: 1000, Bytes: 2e9, Elapsed: 2 * time.Second, Busy: time.Second}
	got, err := newValue(workload{}, r, 500*time.Millisecond)
	if err != nil || got.Rate != 500 || got.CPU != 1000 || got.Proxy != 500 {
		t.Errorf("of operations: %+v, %v; want 500 a second at 1000 µs, 500 of them between", got, err)
	}
	got, err = newValue(workload{stream: true}, r, 500*time.Millisecond)
	if err != nil || got.Rate != 1 || got.CPU != 5e5 || got.Proxy != 2.5e5 {
		t.Errorf("of a stream: %+v, %v; want 1 GB/s at 5e5 µs, half of them between", got, err)
	}
	if _, err := newValue(workload{}, job.Result{Elapsed: time.Second}, 0); err == nil {
		t.Error("nothing was done, and that is a value")
	}
}

// TestShowsComparesWithinRounds has a slow round in which everything takes twice as long:
// the ratios must not show it, and a claim must fail by one comparison.
func TestShowsComparesWithinRounds(t *testing.T) {
	r := &insideResult{}
	for round := range 3 {
		slow := 1 + float64(round%2)
		for _, w := range workloads() {
			listening := 4.0
			if w.name == workloads()[2].name {
				listening = 6
			}
			r.Values = append(r.Values,
				value{Round: round, Contestant: listen, Workload: w.name, CPU: listening * slow, P50: slow},
				value{Round: round, Contestant: redirect, Workload: w.name, CPU: 5 * slow, P50: 2 * slow},
				value{Round: round, Contestant: published, Workload: w.name, CPU: 10 * slow, P50: 4 * slow})
		}
	}
	rows := r.shows()
	want := [][2]string{{"listen ÷ redirect", "**not met**: 10 of 11"}, {"redirect ÷ published", "**met**: 11 of 11"}, {"listen ÷ published", "**met**: 11 of 11"}}
	head, last := rows[0], rows[len(rows)-1]
	if len(head) != 2+len(want) {
		t.Fatalf("the claims %q; want those of contestants that ran, %v", head, want)
	}
	for i, w := range want {
		if head[2+i] != w[0] || last[2+i] != w[1] {
			t.Errorf("%s: %s; want %s: %s", head[2+i], last[2+i], w[0], w[1])
		}
	}
	if first := strings.Join(rows[1][2:], " "); first != "0.800 0.500 0.400" {
		t.Errorf("the first comparison is %s, want 0.800 0.500 0.400 without a spread", first)
	}
}
