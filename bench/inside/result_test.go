package main

import (
	"strings"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/bench/inside/job"
)

func TestSpread(t *testing.T) {
	for _, test := range []struct {
		values []float64
		want   spread
	}{
		{nil, spread{}},
		{[]float64{3}, spread{3, 3, 3, 1}},
		{[]float64{5, 1, 3}, spread{3, 1, 5, 3}},
		{[]float64{4, 1, 2, 9}, spread{3, 1, 9, 4}},
	} {
		if got := spreadOf(test.values); got != test.want {
			t.Errorf("spreadOf(%v) = %v, want %v", test.values, got, test.want)
		}
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
	r := &result{}
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
	if first := strings.Join(rows[1][2:], " "); first != "0.80 0.50 0.40" {
		t.Errorf("the first comparison is %s, want 0.80 0.50 0.40 without a spread", first)
	}
}
