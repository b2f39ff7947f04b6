//go:build integration

package e2e

import (
	"os/exec"
	"runtime"
	"strings"
	"testing"
)

// TestVersionNamesTheCommit builds as a user does.
func TestVersionNamesTheCommit(t *testing.T) {
	commit, err := exec.Command("git", "rev-parse", "HEAD").Output()
	if err != nil {
		t.Fatalf("git rev-parse HEAD: %v; the tests run from a clone", err)
	}
	lock, err := lockBin()
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if out, err := exec.Command("make", "-C", "..", "build").CombinedOutput(); err != nil {
		t.Fatalf("make build: %v\n%s", err, out)
	}
	out, err := exec.Command("../bin/ambassadord", "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{strings.TrimSpace(string(commit)), runtime.Version(), runtime.GOARCH} {
		if !strings.Contains(string(out), want) {
			t.Errorf("--version prints %q; want %s in it", out, want)
		}
	}
}
