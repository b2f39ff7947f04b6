// Package daemontest has what tests of daemons, and of what daemons say to each other, share: a folder
// for their sockets, and a log that is read while they run.
package daemontest

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/rundir"
)

// RunDir makes a folder of sockets, whose path is short enough for the name of one.
func RunDir(t testing.TB) *rundir.Dir {
	t.Helper()
	tmp, err := os.MkdirTemp("/tmp", "daemontest-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(tmp) })
	dir, err := rundir.Open(filepath.Join(tmp, "run"))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// Log is a log that may be read while it is written. The zero value is empty.
type Log struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Wait returns when the log has want.
func (l *Log) Wait(t testing.TB, want string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(l.String(), want); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no %q in 20 s; the log is\n%s", want, l)
		}
	}
}
