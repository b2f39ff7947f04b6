package operate

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/ambassadord/ambassadord/internal/explain"
	"github.com/ambassadord/ambassadord/internal/status"
)

// explained has something in each part.
func explained() *explain.Explanation {
	noon := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	bad := status.FailureView{Error: "connection refused", Hint: "start it"}
	return &explain.Explanation{
		Asked: explain.Question{Container: "app", Port: 6379, Dial: true}, Taken: noon,
		Daemon: explain.Daemon{Answers: true, Runs: true, Version: "ambassadord v1", Modes: []string{"redirect"}, Missing: []explain.Unseen{{What: "engine", FailureView: bad}}},
		Engine: explain.Engine{FailureView: bad},
		Container: explain.Container{
			Name: "app", ID: "0123456789ab", Running: true, State: "running", Health: "unhealthy", Project: "shop", Service: "app", Image: "shop/app", Started: noon.Add(-time.Hour),
			Network: "shop_default", Owner: "pod", Addresses: []string{"172.18.0.2 on shop_default"}, Left: &bad, OwnStack: &bad,
		},
		Attached:    &status.Attached{Mode: "redirect", Since: noon.Add(-time.Minute), FailureView: bad},
		Declaration: &explain.Declaration{Origin: "label connect.6379", Target: "docker://redis:6379", Meaning: "docker://redis:6379", Denied: []status.Denied{{Endpoint: "10.0.0.4:6379", FailureView: bad}}},
		Ports:       []uint16{6379},
		NearMisses:  []explain.NearMiss{{Where: "label conect.80", Why: "looks like a declaration but is none", Fix: "did you mean connect.80?"}},
		Target: &status.TargetView{
			Meaning: "docker://redis:6379", Choice: 2, Endpoints: make([]status.EndpointView, 3),
			Sources: []status.SourceView{{
				Source: "docker://redis:6379", Choice: 2, Answered: noon.Add(-3 * time.Second), Endpoints: make([]status.EndpointView, 3), Notes: []string{"a note"}, FailureView: bad,
				LeftOut: []status.LeftOutView{{Name: "redis-4", Address: "10.0.0.5:6379", Why: "is unhealthy"}},
			}, {Source: "10.0.0.9:6379", Choice: 1}},
		},
		Endpoints: []explain.Endpoint{
			{EndpointView: status.EndpointView{Address: "10.0.0.2:6379", Name: "redis-1", Weight: 3, Priority: 1, Health: "healthy"}, State: "used", Open: 2, Failures: 1, WhyFails: "reset"},
			{EndpointView: status.EndpointView{Address: "10.0.0.3:6379", Weight: 1}, State: "ejected", Why: "connection refused", Until: noon.Add(9 * time.Second)},
		},
		Limits:  []explain.Limit{{LimitView: status.LimitView{Limit: "target docker://redis:6379", Most: 8, Open: 8, Waiting: 1}, Holders: []explain.Holder{{Client: "web", Open: 7}, {Client: "app", Open: 1}}}},
		Open:    1,
		Failure: &status.LastFailure{Reason: "dial_failed", Count: 2, Last: noon.Add(-time.Minute), FailureView: bad},
		Inside: explain.Inside{
			Looked: true, Rules: true, Listens: []string{"0.0.0.0:6379"}, UDP: 1, TCPFailed: 2, UDPUnheard: 3,
			Rule: &explain.Rule{Text: "-A AMBASSADORD …", Listen: 61000, Counted: true, Packets: 1},
		},
		Dial:    &explain.Dial{Address: "127.0.0.1:6379", Reason: "dial_failed", FailureView: bad, Steps: []explain.DialStep{{What: "connected from 127.0.0.1:4711", Took: "120µs"}}},
		Unseen:  []explain.Unseen{{What: "the configuration", FailureView: bad}},
		Verdict: explain.Finding{State: explain.Broken, Cause: "over_limit", Text: "the limit is reached", Fix: "raise it"},
		Also:    []explain.Finding{{State: explain.Doubtful, Cause: "udp", Text: "the container speaks UDP", Fix: "let it speak TCP"}},
	}
}

// TestExplanationForPeople compares what is shown with the golden file: as wide as it is, and in 80 characters.
func TestExplanationForPeople(t *testing.T) {
	const golden = "testdata/explanation.txt"
	var b strings.Builder
	for _, s := range []Style{{}, {Width: 80}, {Width: 80, Color: true}} {
		fmt.Fprintf(&b, "=== width %d, colours: %t\n", s.Width, s.Color)
		WriteExplanation(&b, explained(), s)
	}
	fmt.Fprintln(&b, "=== nothing known")
	WriteExplanation(&b, &explain.Explanation{Verdict: explain.Finding{State: explain.OK}}, Style{})
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), b.String()); diff != "" {
		t.Errorf("(-want +got); to write it: go test ./internal/operate -update\n%s", diff)
	}
}

// TestExplanationOfStrangersTexts: whatever containers and registries chose, nothing acts on a terminal, a
// line fits, and a fact is bounded.
func TestExplanationOfStrangersTexts(t *testing.T) {
	evil := "\x1b[2J\r\n\u202e" + strings.Repeat("x y", 2000)
	e := explained()
	e.Container.Image, e.Declaration.Target, e.Target.Sources[0].Notes = evil, evil, []string{evil}
	e.Endpoints[0].Name, e.Verdict.Text, e.NearMisses[0].Where = evil, evil, evil
	var b strings.Builder
	WriteExplanation(&b, e, Style{Width: 80})
	for line := range strings.Lines(b.String()) {
		line = strings.TrimSuffix(line, "\n")
		if n := utf8.RuneCountInString(line); n > 80 {
			t.Errorf("%d characters: %q", n, line)
		}
		if i := strings.IndexFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 {
			t.Errorf("it has %q: %q", line[i:i+1], line)
		}
	}
	if n := b.Len(); n > 20_000 {
		t.Errorf("%d bytes", n)
	}
}
