package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/engines"
)

func planOf(t *testing.T) *plan {
	t.Helper()
	durations, err := engines.LoadDurations()
	if err != nil {
		t.Fatal(err)
	}
	return &plan{root: "/root", dir: "/bin", durations: durations}
}

// Each test of the table is in one job, and what is to be alone in one of its own.
func TestTable(t *testing.T) {
	for _, e := range engines.Engines {
		c, in := newColumn(e, &printer{}), map[string]int{}
		jobs := planOf(t).table(c)
		for _, j := range jobs {
			pkg, tests, _ := strings.Cut(j.name, ": ")
			for test := range strings.SplitSeq(tests, ", ") {
				in[pkg+"."+test]++
				if engines.IsAlone(pkg+"."+test) != j.alone || j.alone && tests != test {
					t.Errorf("engine %s: alone is %v: %s", e.Name, j.alone, j.name)
				}
			}
		}
		for _, test := range engines.Wanted(engines.Features, e.Name) {
			if name, _, _ := strings.Cut(test, "/"); in[name] != 1 {
				t.Errorf("engine %s: %s is in %d jobs", e.Name, test, in[name])
			}
		}
		parts := 0
		for _, p := range c.parts {
			parts += p.left
		}
		if parts != len(jobs) {
			t.Errorf("engine %s: %d parts of packages are expected of %d jobs", e.Name, parts, len(jobs))
		}
	}
}

// What is short shares a process, in its order, and what is long or apart has its own.
func TestBatches(t *testing.T) {
	seconds := map[string]int{"A": 1, "B": 30, "C": 15, "D": 5, "E": 4, "Alone": 1}
	lasts := func(name string) time.Duration { return time.Duration(seconds[name]) * time.Second }
	got := batches([]string{"A", "B", "Alone", "D", "C", "E"}, lasts, func(name string) bool { return name == "Alone" })
	want := [][]string{{"B"}, {"D", "C"}, {"A", "E"}, {"Alone"}}
	if !slices.EqualFunc(got, want, slices.Equal) {
		t.Errorf("%v, want %v", got, want)
	}
}

// As many hosts as are busy at a time are shared out by what there is to do.
func TestHostCounts(t *testing.T) {
	jobs := map[string][]*job{
		"much":   {jobOf("a", 60, false), jobOf("b", 60, false), jobOf("c", 60, false), jobOf("d", 60, false)},
		"little": {jobOf("e", 30, false), jobOf("f", 30, false), jobOf("g", 1000, true)},
		"one":    {jobOf("h", 60, false)},
		"none":   {},
	}
	counts := hostCounts(jobs, 3)
	for engine, want := range map[string]int{"much": 2, "little": 1, "one": 1, "none": 1} {
		if counts[engine] != want {
			t.Errorf("%s has %d hosts, want %d", engine, counts[engine], want)
		}
	}
}

// A package that has passed is told of as Go does.
func TestSummary(t *testing.T) {
	for text, want := range map[string]string{
		"PASS\nok  \tx/y\t1.013s\n": "ok  \tx/y\t1.013s", "?   \tx/z\t[no test files]\n": "?   \tx/z\t[no test files]", "": "",
	} {
		if got := summary(text); got != want {
			t.Errorf("of %q it is %q, want %q", text, got, want)
		}
	}
}
