package operate

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/ambassadord/ambassadord/internal/admin"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/status"
)

var update = flag.Bool("update", false, "write the golden file")

// full is a view with a value in each field, and one container more where all is well.
func full(t *testing.T) status.View {
	t.Helper()
	text, err := os.ReadFile("../status/testdata/snapshot.json")
	if err != nil {
		t.Fatal(err)
	}
	var v status.View
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	v.Containers = append([]status.Container{{Name: "fine", Bindings: []status.Binding{{Port: 80, Target: "10.0.0.7:80", Meaning: "10.0.0.7:80", Origin: "label connect.80"}}}}, v.Containers...)
	v.Targets = append(v.Targets, status.TargetView{
		Meaning: "10.0.0.7:80", Clients: 1, Endpoints: []status.EndpointView{{Address: "10.0.0.7:80"}},
		Sources: []status.SourceView{{Source: "10.0.0.7:80", Answered: v.Taken.Add(-time.Minute), Endpoints: []status.EndpointView{{Address: "10.0.0.7:80"}}}},
	}, status.TargetView{Meaning: "redis.service.consul", FailureView: status.FailureView{Error: "redis.service.consul has no endpoints"}, Sources: []status.SourceView{{Source: "redis.service.consul"}}})
	return v
}

// TestStatusForPeople compares what is shown in three widths with the golden file.
func TestStatusForPeople(t *testing.T) {
	const golden = "testdata/status.txt"
	var b strings.Builder
	unready := admin.Readiness{NotReady: []admin.Unready{{What: "engine", Why: "the engine is away", Hint: "start it"}}}
	for _, s := range []Style{{}, {Width: 80}, {Width: 80, Color: true}} {
		fmt.Fprintf(&b, "=== width %d, colours: %t\n", s.Width, s.Color)
		WriteStatus(&b, full(t), unready, s)
	}
	fmt.Fprintln(&b, "=== ready")
	WriteStatus(&b, status.View{}, admin.Readiness{Ready: true}, Style{})
	fmt.Fprintln(&b, "=== connections")
	WriteConnections(&b, admin.Connections{Taken: full(t).Taken, Total: 3, Connections: full(t).Connections}, Style{})
	WriteConnections(&b, admin.Connections{}, Style{})
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

// TestLinesFitTheTerminal in every width that one may have.
func TestLinesFitTheTerminal(t *testing.T) {
	for width := 60; width < 200; width += 7 {
		g := containersGrid(new(full(t)), nil)
		var b strings.Builder
		g.write(&b, Style{Width: width})
		for line := range strings.Lines(b.String()) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > width {
				t.Errorf("in %d characters a line has %d: %s", width, n, line)
			}
		}
	}
}

// TestWhatContainersChoose neither acts on the terminal nor fills it.
func TestWhatContainersChoose(t *testing.T) {
	v := full(t)
	for i := range 10_000 {
		c := status.Container{Name: fmt.Sprintf("c\x1b[2J%d", i), Mistakes: 1}
		c.Problems = []status.Problem{{Origin: "label \u202e" + strings.Repeat("x", 5000), Error: "a\nb\u009b31m\xff"}}
		v.Containers = append(v.Containers, c)
	}
	v.Daemon.Error = "\x1b[2J" + strings.Repeat("y", 5000)
	var b strings.Builder
	WriteStatus(&b, v, admin.Readiness{NotReady: []admin.Unready{{What: "\x1b", Why: v.Daemon.Error, Hint: v.Daemon.Error}}}, Style{})
	text := b.String()
	for _, r := range text {
		if r != '\n' && !unicode.IsPrint(r) {
			t.Fatalf("%q is shown", r)
		}
	}
	if len(text) > 40_000 {
		t.Errorf("%d bytes are shown", len(text))
	}
	if !strings.Contains(text, "… and 9984 more") || !strings.Contains(text, "ambassadord status --all") {
		t.Errorf("it does not say how many were left out:\n%s", text)
	}
}

// TestAnEventIsALine that acts on no terminal, whatever it says.
func TestAnEventIsALine(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6_000_000, time.Local)
	for want, e := range map[string]status.Event{
		`2026-01-02 03:04:05.006 WARN  endpoint ejected target=db:5432 why="dial tcp: refused" failures=3 last={"a":1} on=true`: {
			Time: at, Level: "warn", Message: "endpoint ejected", Fields: json.RawMessage(`{"target":"db:5432","why":"dial tcp: refused","failures":3,"last":{"a":1},"on":true}`),
		},
		`2026-01-02 03:04:05.006 INFO  read empty="" quoted="a\"b" odd="\u202e\x1b[2J\n"`: {
			Time: at, Level: "info", Message: "read", Fields: json.RawMessage(`{"empty":"","quoted":"a\"b","odd":"\u202e\u001b[2J\n"}`),
		},
		`2026-01-02 03:04:05.006 ERROR bad`:  {Time: at, Level: "error", Message: "bad", Fields: json.RawMessage(`{"cut`)},
		`2026-01-02 03:04:05.006 INFO  none`: {Time: at, Level: "info", Message: "none"},
	} {
		var b strings.Builder
		WriteEvent(&b, e, Style{})
		if got := b.String(); got != want+"\n" {
			t.Errorf("shown as\n%swant\n%s", got, want)
		}
		WriteEvent(&b, e, Style{Color: true})
		if e.Level == "warn" && !strings.Contains(b.String(), "\x1b[33mWARN \x1b[0m \x1b[1mendpoint ejected\x1b[0m") {
			t.Errorf("in colours %q", b.String())
		}
	}
}

// TestWrongIsFirst: a mistake of the last container stands above all that is well.
func TestWrongIsFirst(t *testing.T) {
	var v status.View
	for i := range 100 {
		v.Containers = append(v.Containers, status.Container{Name: fmt.Sprintf("c%d", i), Bindings: []status.Binding{{Port: 80, Target: "a:1"}}})
	}
	v.Containers[99].Bindings[0].Problem = "is declared twice"
	var b strings.Builder
	WriteStatus(&b, v, admin.Readiness{Ready: true}, Style{})
	_, rows, _ := strings.Cut(b.String(), "STATE\n")
	if first, _, _ := strings.Cut(rows, "\n"); !strings.HasPrefix(first, "c99 ") || !strings.HasSuffix(first, "is declared twice") {
		t.Errorf("the first row is %q", first)
	}
}

// TestAMistakeIsOneRow that says what to write instead.
func TestAMistakeIsOneRow(t *testing.T) {
	const origin, mistake, fix = "label connect.6379", `unknown scheme "tcp"`, "write redis:6379 alone"
	v := status.View{Containers: []status.Container{{
		Name: "app", Mistakes: 2,
		Bindings: []status.Binding{{Port: 6379, Target: "tcp://redis:6379", Origin: origin, Problem: origin + ": " + mistake}},
		Problems: []status.Problem{{Origin: "label conect.7", Error: "is none", Hint: "did you mean connect.7?"}, {Origin: origin, Error: mistake, Hint: fix}},
	}}}
	var b strings.Builder
	WriteStatus(&b, v, admin.Readiness{Ready: true}, Style{})
	for _, want := range []string{mistake + "; hint: " + fix, "is none; hint: did you mean connect.7?"} {
		if strings.Count(b.String(), want) != 1 {
			t.Errorf("%q is not there once", want)
		}
	}
	if n := strings.Count(b.String(), mistake); n != 1 {
		t.Errorf("the mistake is in %d rows", n)
	}
	if t.Failed() {
		t.Log(b.String())
	}
}

// TestWordsStayWhole where a text has lines of its own, but for those that are longer than a line.
func TestWordsStayWhole(t *testing.T) {
	for text, want := range map[string]string{
		"set --consul-addr or not":       "    set\n    --consul-addr or\n    not\n",
		"0123456789abcdef 0":             "    0123456789abcdef\n    0\n",
		"0123456789abcdefg":              "    0123456789abcdef\n    g\n",
		"":                               "",
		"\u00e4 \u00e4 0123456789abcdef": "    \u00e4 \u00e4\n    0123456789abcdef\n",
	} {
		var b strings.Builder
		writeBelow(&b, text, Style{Width: 20})
		if diff := cmp.Diff(want, b.String()); diff != "" {
			t.Errorf("%q (-want +got)\n%s", text, diff)
		}
	}
}

func TestSpanAndSize(t *testing.T) {
	for d, want := range map[time.Duration]string{-time.Second: "0s", 59 * time.Second: "59s", 61 * time.Second: "1m1s", 3*time.Hour + 5*time.Second: "3h0m", 49 * time.Hour: "2d1h"} {
		if got := span(d); got != want {
			t.Errorf("span(%s) = %s; want %s", d, got, want)
		}
	}
	for n, want := range map[int64]string{0: "0", 999: "999", 1500: "1.5k", 15_000_000: "15M", 1 << 62: "4.6E"} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %s; want %s", n, got, want)
		}
	}
}

// TestNobodyAnswers: each way has a reason, and says what to do.
func TestNobodyAnswers(t *testing.T) {
	folder, err := os.MkdirTemp("/tmp", "operate-") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(folder)
	path := filepath.Join(folder, "a.sock")
	expect := func(want, fix string) {
		t.Helper()
		d := At(path)
		defer d.Close()
		_, _, err := d.Status(t.Context())
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(hint.Of(err), fix) {
			t.Errorf("%v (%s); want %s (%s)", err, hint.Of(err), want, fix)
		}
	}
	expect("no daemon serves "+path, "ambassadord run")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	expect(path+" is no socket", "--admin")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	none := At("")
	defer none.Close()
	if _, _, err := none.Status(t.Context()); err == nil || !strings.Contains(err.Error(), "--admin is empty") || hint.Of(err) == "" {
		t.Errorf("without a path: %v (%s)", err, hint.Of(err))
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	expect("was killed", "ambassadord run")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if l, err = net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"}); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	teapot := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }), ReadHeaderTimeout: time.Minute}
	defer teapot.Close()
	go func() { _ = teapot.Serve(l) }()
	expect("418", "--admin")
	d := At(path)
	defer d.Close()
	if err := d.unreachable(&net.OpError{Op: "dial", Err: os.ErrPermission}); !strings.Contains(err.Error(), "may not ask") || !strings.Contains(hint.Of(err), "--admin-group") {
		t.Errorf("%v (%s)", err, hint.Of(err))
	}
	if err := d.unreachable(context.DeadlineExceeded); !strings.Contains(err.Error(), "not answered in") {
		t.Error(err)
	}
}
