package procstat_test

import (
	"os"
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
