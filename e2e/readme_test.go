//go:build integration

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/dockertest"
)

// step is a command of the README and the lines that it prints there.
type step struct {
	command string
	prints  []string
}

// fence is a block of the README: console holds commands and what they print, log what the
// daemon writes.
var fence = regexp.MustCompile("(?s)\n```(console|log)\n(.*?)\n```\n")

// readme reads the commands behind the README's mark, and the daemon's lines in its log blocks.
func readme(t *testing.T) (steps []step, logged []string) {
	t.Helper()
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text2, ok := strings.Cut(string(text), "<!-- run by TestReadme of e2e")
	if !ok {
		t.Fatal("README.md has lost the mark before the commands that this test runs")
	}
	for _, block := range fence.FindAllStringSubmatch(text2, -1) {
		for line := range strings.Lines(block[2]) {
			line = strings.TrimSuffix(line, "\n")
			command, isCommand := strings.CutPrefix(line, "# ")
			switch {
			case block[1] == "log":
				logged = append(logged, line)
			case isCommand:
				steps = append(steps, step{command: command})
			case len(steps) > 0:
				steps[len(steps)-1].prints = append(steps[len(steps)-1].prints, line)
			}
		}
	}
	return steps, logged
}

// changing is what differs from run to run: container IDs, numbers and units of time.
var changing = regexp.MustCompile(`[0-9a-f]{64}|\b[0-9a-f]{12}\b|[0-9.]+(?:ms|µs|s)\b|[0-9]+`)

// pattern matches what ends as line does, whatever the IDs, addresses and durations in it.
func pattern(line string) *regexp.Regexp {
	var b strings.Builder
	end := 0
	for _, at := range changing.FindAllStringIndex(line, -1) {
		b.WriteString(regexp.QuoteMeta(line[end:at[0]]))
		switch found := line[at[0]:at[1]]; {
		case len(found) >= 12:
			b.WriteString("[0-9a-f]{12,64}")
		case strings.HasSuffix(found, "s"):
			b.WriteString("[0-9.]+(?:ms|µs|s)")
		default:
			b.WriteString("[0-9]+")
		}
		end = at[1]
	}
	return regexp.MustCompile(b.String() + regexp.QuoteMeta(line[end:]) + "$")
}

// TestReadme runs what the README has its reader type, in its order, and wants what it says is
// printed and logged.
func TestReadme(t *testing.T) {
	steps, logged := readme(t)
	if len(steps) < 4 || len(logged) < 2 {
		t.Fatalf("README.md has %d commands and %d log lines behind its mark", len(steps), len(logged))
	}
	web, app := dockertest.Name(t), dockertest.Name(t)
	own := func(text string) string { // of this test: its names, its image
		text = regexp.MustCompile(`(\b|%3D)web\b`).ReplaceAllString(text, "${1}"+web)
		text = regexp.MustCompile(`(--name |client=)app\b`).ReplaceAllString(text, "${1}"+app)
		text = strings.ReplaceAll(text, " busybox ", " "+dockertest.Image(t)+" ")
		return strings.ReplaceAll(text, "docker run ", "docker run -l ambassadord.test=1 ")
	}
	folder := t.TempDir()
	if err := os.Symlink(binary, filepath.Join(folder, "ambassadord")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = dockertest.Try(t, "rm", "-f", web, app) })
	d := launch(t, exec.Command(binary, "run"), nil)
	d.waitRaw("msg=ready modes=[redirect] listeners=0")
	for _, s := range steps {
		if strings.HasPrefix(s.command, "ambassadord run") {
			continue // the daemon is there; TestTakeovers has the other one
		}
		command := exec.CommandContext(t.Context(), "sh", "-c", own(s.command))
		command.Env = append(os.Environ(), "PATH="+folder+":"+os.Getenv("PATH"), "GORACE=atexit_sleep_ms=50")
		out, _ := command.CombinedOutput() // the last one is to fail
		printed := strings.Split(strings.TrimSpace(string(out)), "\n")
		for i, want := range s.prints {
			if i >= len(printed) || !pattern(own(want)).MatchString(printed[i]) {
				t.Errorf("%s\nprints\n%s\nand the README says\n%s", own(s.command), out, own(want))
				break
			}
		}
		if len(printed) > len(s.prints) {
			t.Errorf("%s\nprints more than the README says:\n%s", own(s.command), out)
		}
	}
	for _, want := range logged {
		d.waitRaw(own(want))
	}
}

// waitRaw waits for a line of a daemon that logs as text, which ends as want does but for what
// changes from run to run.
func (d *daemon) waitRaw(want string) {
	d.t.Helper()
	ending := pattern(want)
	deadline := time.After(20 * time.Second)
	for {
		d.mu.Lock()
		lines, changed := strings.Split(d.raw.String(), "\n"), d.changed
		d.mu.Unlock()
		if slices.ContainsFunc(lines, ending.MatchString) {
			return
		}
		select {
		case <-changed:
		case <-d.done:
			d.t.Fatalf("the daemon ended (%v) before it logged %s", d.err, want)
		case <-deadline:
			d.t.Fatalf("the daemon did not log %s", want)
		}
	}
}
