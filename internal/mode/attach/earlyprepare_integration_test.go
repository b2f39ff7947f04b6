//go:build integration

package attach

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/dockerd"
)

// The engine mounts a namespace a moment before lo is up in there.
func TestEarlyNamespaceBeforeLoopback(t *testing.T) {
	h := newEarlyLab(t)
	h.lab.Run(t, "", "ip", "address", "flush", "dev", "lo") // as new as that of a new namespace
	h.lab.Run(t, "", "ip", "link", "set", "lo", "down")
	h.follow(h.declaring(false))
	h.mount()
	h.eventually("it is worked on", func() bool { return h.unowned() != nil })
	e := h.unowned()
	select {
	case <-e.life.decided:
		t.Fatal("it is given up before lo is up")
	case <-time.After(20 * loopbackInterval): // time enough to try in vain
	}
	h.lab.Run(t, "", "ip", "link", "set", "lo", "up")
	h.prepared("7000")
	early, early6 := h.lab.Dial(t, "127.0.0.1:7000"), h.lab.Dial(t, "[::1]:7000")
	h.follow(h.declaring(true))
	h.wantAnswer(early, "backend")
	h.wantAnswer(early6, "backend")
}

// The mount is seen before the engine has told that there are containers that
// declare something.
func TestEarlyNamespaceBeforeItsDeclaration(t *testing.T) {
	h := newEarlyLab(t)
	h.follow()
	h.mount()
	h.eventually("it is kept in mind", func() bool {
		h.mode.early.mu.Lock()
		defer h.mode.early.mu.Unlock()
		return len(h.mode.early.idle) == 1
	})
	other := &dockerd.Container{ID: "other", Name: "other", NetworkMode: "default", Labels: map[string]string{"connect.7001": h.backend}}
	h.follow(other)
	h.prepared("7001")
	h.follow(other, h.declaring(false))
	h.prepared("7000")
	early := h.lab.Dial(t, "127.0.0.1:7000")
	h.follow(other, h.declaring(true))
	h.wantAnswer(early, "backend")
}

func TestWhatNobodyDeclaredForIsForgotten(t *testing.T) {
	h := newEarlyLab(t)
	h.follow()
	h.mount()
	idle := func() int {
		h.mode.early.mu.Lock()
		defer h.mode.early.mu.Unlock()
		return len(h.mode.early.idle)
	}
	h.eventually("it is kept in mind", func() bool { return idle() == 1 })
	h.follow(h.bystander())
	if n := idle(); n != 0 || h.unowned() != nil {
		t.Errorf("%d namespaces are kept in mind that are somebody's; worked on: %v", n, h.unowned())
	}
}

// A connection that the kernel has accepted is not reset because we have not come
// to it when nothing is redirected any more.
func TestEarlyNamespaceThatIsSlowToAccept(t *testing.T) {
	h := newEarlyLab(t)
	h.serve(h.lab, "127.0.0.1:7000", "myself")
	h.follow(h.declaring(false))
	e := h.appear()
	e.inFlight.mu.Lock() // nobody gets in
	early := h.lab.Dial(t, "127.0.0.1:7000")
	h.follow(h.declaring(false), h.bystander())
	h.eventually("nothing is redirected", func() bool { return !strings.Contains(h.rules(), "-j AMBASSADORD") })
	select {
	case <-e.life.unhooked:
		t.Error("its socket is closed while a connection is on its way in")
	case <-time.After(50 * time.Millisecond):
	}
	e.inFlight.mu.Unlock()
	h.wantAnswer(early, "myself")
}

// An engine that keeps its namespaces elsewhere tells where with its first
// container.
func TestEarlyNamespaceElsewhere(t *testing.T) {
	h := newEarlyLab(t)
	h.mode.early.folders = []string{t.TempDir()}
	h.follow(h.declaring(false))
	first := &dockerd.Container{ID: "first", Name: "first", NetworkMode: "default", Running: true, PID: os.Getpid(),
		SandboxKey: filepath.Join(filepath.Dir(h.key), "ffffffffffff")}
	h.follow(h.declaring(false), first)
	h.appear()
}
