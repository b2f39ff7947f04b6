package procstat_test

import (
	"io"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/bench/internal/procstat"
)

// burn uses processor time.
func burn(d time.Duration) {
	for began := time.Now(); time.Since(began) < d; {
		continue
	}
}

func TestBusyCountsWhatTheMachineDoes(t *testing.T) {
	before, err := procstat.Busy()
	if err != nil {
		t.Fatal(err)
	}
	own, err := procstat.CPUTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	burn(300 * time.Millisecond)
	ownAfter, err := procstat.CPUTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	after, err := procstat.Busy()
	if err != nil {
		t.Fatal(err)
	}
	// The kernel counts both by the tick, but not at the same one.
	if got, want := after-before, ownAfter-own-50*time.Millisecond; got < want {
		t.Errorf("the machine was busy for %s; this process alone for %s", got, want)
	}
}

func TestFamilyIsAllThatDescend(t *testing.T) {
	// A shell that waits for a shell that waits for us.
	cmd := exec.CommandContext(t.Context(), "sh", "-c", "sh -c 'echo; read x; exit 0'; exit 0")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 1)); err != nil { // both run
		t.Fatal(err)
	}
	family, err := procstat.Family(os.Getpid())
	if err != nil || !slices.Contains(family, cmd.Process.Pid) || len(family) < 3 {
		t.Errorf("Family() = %v, %v; want %d, %d and its child", family, err, os.Getpid(), cmd.Process.Pid)
	}
	if _, err := procstat.FamilyCPUTime(cmd.Process.Pid); err != nil {
		t.Error(err)
	}
	_ = in.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
