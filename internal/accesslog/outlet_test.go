package accesslog

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/events"
	"github.com/ambassadord/ambassadord/proxy"
)

// toFile is a configuration whose access log is a file, and that file.
func toFile(t *testing.T) (cfg config.Config, file string) {
	t.Helper()
	cfg = config.Default()
	cfg.AccessLog.To = filepath.Join(t.TempDir(), "access.log")
	return cfg, cfg.AccessLog.To
}

// at is a connection of a client that ends n ms after the others began: the log has a budget for each second.
func at(n int) proxy.Record {
	return proxy.Record{
		Route: proxy.Route{Client: proxy.Client{Name: "web-1", ID: "0123456789ab"}, Port: 6379, Target: "redis:6379"},
		Ended: time.Unix(1_700_000_000, 0).Add(time.Duration(n) * time.Millisecond), Up: int64(n),
	}
}

func linesOf(t *testing.T, files ...string) (lines []string) {
	t.Helper()
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			lines = append(lines, line)
		}
	}
	return lines
}

// TestRotationLosesNoLine renames the file again and again while connections end, and counts.
func TestRotationLosesNoLine(t *testing.T) {
	const loops, each, rotations = 4, 50, 20 // fewer than there is room for in memory
	cfg, file := toFile(t)
	l := New(slog.New(slog.DiscardHandler), nil)
	l.Change(cfg)
	var ended sync.WaitGroup
	files := []string{file}
	for i := range rotations {
		for loop := range loops {
			ended.Go(func() {
				for n := range each {
					r := at(i*each + n)
					r.Down = int64(loop)
					l.Done(r)
				}
			})
		}
		for { // nobody tells that a file has been written to
			if s, err := os.Stat(file); err == nil && s.Size() > 0 {
				break
			}
			time.Sleep(time.Millisecond)
		}
		renamed := file + "." + strconv.Itoa(i)
		if err := os.Rename(file, renamed); err != nil {
			t.Fatal(err)
		}
		files = append(files, renamed)
		l.Reopen(time.Minute)
		if i%5 == 4 { // to another file, and back, with lines on their way
			other := cfg
			other.AccessLog.To = file + ".other" + strconv.Itoa(i)
			l.Change(other)
			l.Reopen(time.Minute)
			l.Change(cfg)
			files = append(files, other.AccessLog.To)
		}
	}
	l.Reopen(time.Minute)
	ended.Wait()
	l.Close()
	seen := map[string]bool{}
	for _, line := range linesOf(t, files...) {
		m := regexp.MustCompile(`bytes_up=(\d+ bytes_down=\d) `).FindStringSubmatch(line)
		if m == nil || seen[m[1]] {
			t.Fatalf("there is a line twice, or half of one: %q", line)
		}
		seen[m[1]] = true
	}
	if want := loops * each * rotations; len(seen) != want {
		t.Errorf("%d lines of %d connections", len(seen), want)
	}
}

// TestSamplingKeepsFailures: one of ten of those that ended well, and says so; each that failed.
func TestSamplingKeepsFailures(t *testing.T) {
	for sample, want := range map[int][2]int{1: {3000, 3000}, 10: {200, 400}, 0: {0, 0}} { // far beyond chance
		cfg, file := toFile(t)
		cfg.AccessLog.Sample, cfg.AccessLog.Format = sample, "json"
		l := New(slog.New(slog.DiscardHandler), nil)
		l.Change(cfg)
		for n := range 3000 { // for which there is room in memory
			l.Done(at(n))
			if n%200 == 0 { // one client has a line of failures in 100 ms
				failure := at(n)
				failure.Err = proxy.Fail(proxy.DialFailed, errors.New("refused"))
				l.Done(failure)
			}
		}
		l.Reopen(time.Minute)
		l.Close()
		well, failed := 0, 0
		for _, line := range linesOf(t, file) {
			var fields struct {
				Reason string
				Sample int
			}
			if err := json.Unmarshal([]byte(line), &fields); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			switch {
			case fields.Reason != "" && fields.Sample == 0:
				failed++
			case fields.Reason == "" && fields.Sample == sample || sample == 1 && fields.Sample == 0:
				well++
			default:
				t.Fatalf("one of %d has the line %s", sample, line)
			}
		}
		if failed != 15 || well < want[0] || well > want[1] {
			t.Errorf("one of %d: %d lines of 3,000, want %d; %d of 15 failures", sample, well, want, failed)
		}
	}
}

// TestNothingWaitsForTheFile has a pipe that takes nothing until all connections have ended: none waits for it, and
// what had no room is told of in the daemon's log.
func TestNothingWaitsForTheFile(t *testing.T) {
	const connections = 20000
	cfg, file := toFile(t)
	if err := unix.Mkfifo(file, 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(file, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	var own bytes.Buffer
	l := New(slog.New(slog.NewTextHandler(&own, nil)), nil)
	l.Change(cfg)
	l.Reopen(time.Minute)
	for n := range connections { // 3 MB, and there is room for one
		l.Done(at(n))
	}
	read := make(chan int)
	go func() {
		lines, scanner := 0, bufio.NewScanner(reader)
		for scanner.Scan() && scanner.Text() != "the end" {
			lines++
		}
		read <- lines
	}()
	l.Close()
	end, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer end.Close()
	if _, err := end.WriteString("the end\n"); err != nil {
		t.Fatal(err)
	}
	lines := <-read
	told := regexp.MustCompile(`lines of the access log were dropped.* lines=(\d+)`).FindAllStringSubmatch(own.String(), -1)
	dropped := 0
	for _, m := range told {
		n, _ := strconv.Atoi(m[1])
		dropped += n
	}
	if len(told) == 0 || len(told) > 2 || dropped == 0 || lines+dropped != connections {
		t.Errorf("%d lines were read, and %d are said to have been dropped, of %d; the log says\n%s", lines, dropped, connections, &own)
	}
}

// TestWhereLinesGo: a change holds for the next connection; neither other lines nor the level of the daemon's log are
// the file's.
func TestWhereLinesGo(t *testing.T) {
	var own bytes.Buffer
	l := New(slog.New(slog.NewTextHandler(&own, &slog.HandlerOptions{Level: slog.LevelWarn})), nil)
	cfg, file := toFile(t)
	off := config.Default()
	off.AccessLog.To = config.AccessOff
	failure := at(0)
	failure.Err = errors.New("it did not go well")
	l.Done(failure) // in the daemon's own log
	cfg.LogLevel = slog.LevelError
	l.Change(cfg)
	l.Done(at(1))
	l.Done(failure)
	cfg.LogFormat = "json"
	l.Change(cfg)
	l.Done(at(2))
	l.Change(off)
	l.Done(at(3))
	l.Done(failure)
	l.Change(config.Default())
	l.Done(failure)
	l.Close()
	if n := strings.Count(own.String(), "msg=connection"); n != 2 {
		t.Errorf("%d lines in the daemon's log, want those of two failures:\n%s", n, &own)
	}
	var text, inJSON int
	for _, line := range linesOf(t, file) {
		if json.Valid([]byte(line)) {
			inJSON++
		} else if strings.Contains(line, "msg=connection") {
			text++
		}
	}
	if text != 2 || inJSON != 1 {
		t.Errorf("%d lines as text and %d as JSON in the file, want 2 and 1", text, inJSON)
	}
}

// TestHostileNamesStayOneLine: what containers and registries choose is quoted and cut in a file, too.
func TestHostileNamesStayOneLine(t *testing.T) {
	hostile := "a\nmsg=connection client=admin\x1b[2J\u009b\u202e\"" + strings.Repeat("x", 70000)
	for _, format := range []string{"text", "json"} {
		cfg, file := toFile(t)
		cfg.AccessLog.Format = format
		l := New(slog.New(slog.DiscardHandler), nil)
		l.Change(cfg)
		r := at(0)
		r.Route.Client = proxy.Client{Name: hostile, ID: hostile, Service: hostile}
		r.Route.Target, r.Endpoint = hostile, proxy.Endpoint{Addr: netip.MustParseAddrPort("10.0.0.1:1"), Name: hostile}
		l.Done(r)
		r.Err = proxy.Fail(proxy.DialFailed, fmt.Errorf("dial %s", hostile))
		l.Done(r)
		l.Close()
		lines := linesOf(t, file)
		for _, line := range lines {
			if bad := strings.IndexFunc(strings.TrimSuffix(line, "\n"), func(c rune) bool { return c < ' ' || c >= 0x7f && c < 0xa0 || c == 0x202e }); bad >= 0 || len(line) > 10<<10 {
				t.Errorf("%s: %d bytes, and the character %q: %.300q", format, len(line), line[max(bad, 0)], line)
			}
		}
		if len(lines) != 2 {
			t.Errorf("%s: %d lines of two connections", format, len(lines))
		}
	}
}

// TestFailuresAreEvents: wherever lines go, who watches the daemon is told of connections that failed, and of no others.
func TestFailuresAreEvents(t *testing.T) {
	toFile, _ := toFile(t)
	off := toFile
	off.AccessLog.To = config.AccessOff
	for _, cfg := range []config.Config{toFile, off} {
		kept := new(events.Log)
		l := New(slog.New(slog.DiscardHandler), kept)
		l.Change(cfg)
		failure := at(0)
		failure.Err = errors.New("it did not go well")
		l.Done(at(1))
		l.Done(failure)
		l.Close()
		if some, _ := kept.After(0); len(some) != 1 || some[0].Level != "warn" {
			t.Errorf("%s: the events are %v", cfg.AccessLog.To, some)
		}
	}
}
