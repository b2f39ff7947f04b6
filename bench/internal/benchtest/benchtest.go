// Package benchtest runs a bench as its users do, for the bench's own test.
package benchtest

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// Run builds the command in the test's folder, runs it with args, and reads what it wrote
// with -json into result.
func Run(t *testing.T, result any, args ...string) {
	t.Helper()
	folder := t.TempDir()
	program, path := filepath.Join(folder, "bench"), filepath.Join(folder, "result.json")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	cmd := exec.CommandContext(t.Context(), program, append(args, "-json", path)...)
	// Asked to end, it takes along what it has started.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 30 * time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, result); err != nil {
		t.Fatal(err)
	}
}
