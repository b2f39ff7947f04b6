//go:build integration

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/netlab"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/filter/filtertest"
)

// olderVersion is the last that knew of no way to set rules but iptables.
const olderVersion = "7b0a421"

// buildOlder builds the daemon of an older version, if the history is here that has it.
func buildOlder(t *testing.T) string {
	t.Helper()
	git := func(args ...string) (string, error) {
		// Root tests a checkout that may be another user's.
		out, err := exec.CommandContext(t.Context(), "git", append([]string{"-c", "safe.directory=*", "-C", ".."}, args...)...).CombinedOutput()
		if err != nil {
			err = fmt.Errorf("git %s: %w: %s", strings.Join(args, " "), err, out)
		}
		return strings.TrimSpace(string(out)), err
	}
	if _, err := git("cat-file", "-e", olderVersion+"^{commit}"); err != nil {
		if whole, _ := git("rev-parse", "--is-shallow-repository"); whole == "false" {
			t.Fatal(err)
		}
		t.Skipf("a checkout without its history: %v", err)
	}
	tree, archive := t.TempDir(), filepath.Join(t.TempDir(), "tree.tar")
	if _, err := git("archive", "--output", archive, olderVersion); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "tar", "-xf", archive, "-C", tree).CombinedOutput(); err != nil {
		t.Fatalf("unpack %s: %v: %s", olderVersion, err, out)
	}
	path := filepath.Join(t.TempDir(), "ambassadord-older")
	// As make build does: with -trimpath the folder, which is another each time, is not part of
	// what Go's cache knows a package by.
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", path, "./cmd/ambassadord")
	build.Dir, build.Env = tree, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v: %s", olderVersion, err, out)
	}
	return path
}

// TestRulesOfAnOlderVersionAreChangedOver: a daemon that sets its rules by netlink takes over
// from one of before there was that. What it carries goes on, and its rules go.
func TestRulesOfAnOlderVersionAreChangedOver(t *testing.T) {
	older := buildOlder(t)
	backend := serveIn(t, hostNamespace(t), "127.0.0.1:0", echo)
	c := declaring(t, map[int]string{6379: backend})
	old := launch(t, exec.Command(older, "run", "--mode", "redirect", "--log-format", "json"), nil)
	old.attached(c.name)
	live := dialIn(t, c.ns, "127.0.0.1:6379")
	if err := pingPong(live); err != nil {
		t.Fatal(err)
	}
	next := startPlain(t, "run", "--mode", "redirect", "--rules", "nft", "--takeover")
	next.attached(c.name)
	alone := func() error {
		text := wholeRuleSet(t, c.ns)
		if saved := netlab.Save(t, c.ns, netrules.IPv4); strings.Contains(saved, "AMBASSADORD") || strings.Contains(text, "table inet ambassadord {") ||
			strings.Count(filtertest.Own(t, c.ns, netrules.IPv4), "-j AMBASSADORD") != 1 {
			return fmt.Errorf("there is:\n%s", text)
		}
		return connects(c)
	}
	poll(t, 10*time.Second, "rules by netlink alone", alone)
	if err := pingPong(live); err != nil {
		t.Errorf("a connection that the older version carries: %v", err)
	}
	live.Close()
	old.ended(20 * time.Second)
	if err := alone(); err != nil {
		t.Errorf("after the older version has ended: %v", err)
	}
	next.stop()
	if text := wholeRuleSet(t, c.ns); strings.Contains(strings.ToLower(text), "ambassadord") {
		t.Errorf("left behind:\n%s", text)
	}
}
