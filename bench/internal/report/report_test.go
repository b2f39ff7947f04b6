package report

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSpread(t *testing.T) {
	got := SpreadOf([]float64{4, 1, 3, 2, 5})
	if want := (Spread{5, 3, 2, 4}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := SpreadOf([]float64{1, 2}).Median; got != 1.5 {
		t.Errorf("the median of two is %v", got)
	}
	if got := SpreadOf(nil); got.N != 0 || !math.IsNaN(got.Median) || got.String() != "–" {
		t.Errorf("the spread of nothing is %+v", got)
	}
}

// Rounds differ by ten times here, as a busy machine's may; within each, ours takes
// half of what the plain loop does.
func result() *Result {
	r := &Result{Rounds: 3}
	for _, name := range []string{Direct, Ours, Plain, HAProxy, Nginx} {
		r.Machine.Peers = append(r.Machine.Peers, Peer{Name: name, Version: "1 <2>"})
	}
	for round, scale := range []float64{1, 8, 4} {
		for _, measure := range Measures() {
			for name, cpu := range map[string]float64{Ours: 0.5, Plain: 1, HAProxy: 4, Nginx: 2} {
				r.Samples = append(r.Samples, Sample{
					Place: Private, Measure: measure, Contestant: name, Round: round, Rate: scale / cpu, CPU: scale * cpu, P99: scale * cpu,
				})
			}
			r.Samples = append(r.Samples, Sample{Place: Private, Measure: measure, Contestant: Direct, Round: round, Rate: scale * 4})
		}
	}
	return r
}

// TestChangesArePaired: the daemon is compared with another build of it where that has
// taken part, and nowhere else.
func TestChangesArePaired(t *testing.T) {
	r := result()
	if rows := r.changes(nil).rows; len(rows) != 1 {
		t.Errorf("without another build there are %q", rows)
	}
	for round, scale := range []float64{1, 8, 4} {
		r.Samples = append(r.Samples, Sample{
			Place: Private, Measure: Churn(1), Contestant: Before, Round: round, Rate: scale, CPU: scale, P99: 2 * scale,
		})
	}
	rows := r.changes(nil).rows
	if len(rows) != 2 || !strings.HasPrefix(rows[1][2], "2.00") || !strings.HasPrefix(rows[1][3], "0.50") || !strings.HasPrefix(rows[1][4], "0.25") {
		t.Errorf("rate, CPU and p99 changed by %q; want 2, 0.5 and 0.25", rows)
	}
}

// TestMedianWithin: the bounds are those of tables of the sign test.
func TestMedianWithin(t *testing.T) {
	var values []float64
	for n, want := range map[int][2]float64{6: {1, 6}, 8: {1, 8}, 9: {2, 8}, 16: {4, 13}, 40: {14, 27}} {
		values = values[:0]
		for i := range n {
			values = append(values, float64(n-i))
		}
		if low, high, ok := MedianWithin(values); !ok || low != want[0] || high != want[1] {
			t.Errorf("of %d figures: %v to %v, %v; want %v", n, low, high, ok, want)
		}
	}
	if _, _, ok := MedianWithin([]float64{1, 2, 3, 4, 5}); ok {
		t.Error("five figures have bounds")
	}
}

func TestRatioIsPaired(t *testing.T) {
	r := result()
	// A round without a figure of ours drops out, it does not become a ratio of zero.
	r.Samples = append(r.Samples, Sample{Place: Private, Measure: Churn(1), Contestant: Ours, Round: 3, Error: "broke"},
		Sample{Place: Private, Measure: Churn(1), Contestant: Plain, Round: 3, CPU: 1})
	if got := r.Ratio(Private, Churn(1), Ours, Plain, CPU()); got != (Spread{3, 0.5, 0.5, 0.5}) {
		t.Errorf("got %+v, want 0.5 in each of 3 rounds", got)
	}
	if name, _ := r.Best(Private, Churn(1), proxiesInC(), CPU()); name != Nginx {
		t.Errorf("the best by CPU is %q", name)
	}
	if _, ok := r.Best(Host, Churn(1), proxiesInC(), CPU()); ok {
		t.Error("there is a best where nothing was measured")
	}
}

func TestVerdicts(t *testing.T) {
	const quarter = "1 bulk: CPU per GB ≤ 0.25 × nginx's"
	r := result()
	r.Idle = []Idle{
		{Contestant: Ours, Conns: Crowd, Held: Crowd, Memory: 200, Descriptors: 2, Overrun: &Overrun{Survived: true}},
		{Contestant: HAProxy, Conns: Crowd, Held: Crowd, Memory: 4000},
	}
	state := map[string]string{}
	for _, v := range r.Verdicts() {
		state[v.Claim] = v.state()
	}
	for claim, want := range map[string]string{
		"1 bulk: throughput ≥ 2 × the best of HAProxy and nginx": "met",
		quarter: "met",
		"4 churn: CPU per connection ≤ 0.7 × the plain loop's":                                   "met",
		"5 idle at 9,000: user memory ≤ 0.2 × HAProxy's":                                         "met",
		"5 idle: running out of descriptors survived and recovered from":                         "not met",
		"2 bulk, unprivileged, 100 idle connections beside: CPU per GB ≤ 0.2 × the plain loop's": "not measured",
	} {
		if state[claim] != want {
			t.Errorf("%s: %q, want %q", claim, state[claim], want)
		}
	}
	// One measure beyond its limit is enough.
	for i := range r.Samples {
		if s := &r.Samples[i]; s.Contestant == Ours && s.Measure == Bulk("down", 8) {
			s.CPU *= 1.1
		}
	}
	for _, v := range r.Verdicts() {
		if v.Claim == quarter && v.Met {
			t.Errorf("met although one is not: %s", v.Figure)
		}
	}
}

func TestDocsKeepsWhatIsWrittenByHand(t *testing.T) {
	folder := t.TempDir()
	r := result()
	if err := r.Docs(folder); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(folder, "performance.md")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text = append(text, "\nMy words.\n"...)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.Docs(folder); err != nil {
		t.Fatal(err)
	}
	if again, _ := os.ReadFile(path); !bytes.Equal(again, text) {
		t.Errorf("the page changed:\n%s", again)
	}
	if err := os.WriteFile(path, []byte("no marks"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.Docs(folder); err == nil || !strings.Contains(err.Error(), markBegin) {
		t.Errorf("a page without marks: %v", err)
	}
}

func TestChartIsXML(t *testing.T) {
	chart := result().Chart()
	decoder := xml.NewDecoder(bytes.NewReader(chart))
	bars := 0
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, chart)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "rect" {
			for _, a := range e.Attr {
				if a.Name.Local == "class" && a.Value == "ours" {
					bars++
				}
			}
		}
	}
	if want := 2 * len(Measures()); bars != want {
		t.Errorf("%d bars of ours, want %d", bars, want)
	}
}
