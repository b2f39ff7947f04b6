//go:build integration

package sandbox

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A thread that has too much to do is an ordinary one until it has earned its priority anew.
func TestUrgencyIsBounded(t *testing.T) {
	var failure error
	onThread(func() {
		var spent int
		u := urgency{exceeded: func() { spent++ }}
		u.begin()
		defer u.end()
		if u.err != nil {
			failure = u.err
			return
		}
		policy := func() uint32 {
			attr, err := unix.SchedGetAttr(0, 0)
			if err != nil {
				failure = err
				return 0
			}
			return attr.Policy
		}
		expect := func(when string, want uint32, times int) {
			if got := policy(); failure == nil && (got != want || spent != times) {
				t.Errorf("%s its policy is %d, told %d times; want %d, %d", when, got, spent, want, times)
			}
		}
		expect("at first", unix.SCHED_RR, 0)
		for worked := threadTime(); threadTime()-worked < budget/2; {
		}
		u.pace()
		expect("with half of it spent", unix.SCHED_RR, 0)
		for worked := threadTime(); threadTime()-worked < budget; {
		}
		u.pace()
		expect("beyond its budget", unix.SCHED_NORMAL, 1)
		u.pace()
		expect("a moment later", unix.SCHED_NORMAL, 1)
		u.seen = u.seen.Add(-earning * budget) // as after a while
		u.pace()
		expect("when it has earned it again", unix.SCHED_RR, 1)
	})
	if failure != nil {
		t.Fatal(failure)
	}
}

// What appears once the folder was listed is new; what was there before may be somebody's.
func TestFresh(t *testing.T) {
	dir := t.TempDir()
	w, err := open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	mount(t, dir+"/aaaaaaaaaaaa")
	if err := w.list(); err != nil {
		t.Fatal(err)
	}
	mount(t, dir+"/bbbbbbbbbbbb")
	var buffer [4 << 10]byte
	if there, err := w.read(buffer[:]); !there || err != nil {
		t.Fatal(there, err)
	}
	found := map[string]bool{}
	w.look(func(path string, fresh bool) { found[path] = fresh })
	if len(found) != 2 || found[dir+"/bbbbbbbbbbbb"] != true || found[dir+"/aaaaaaaaaaaa"] {
		t.Errorf("found %v", found)
	}
}

// The mount is told of: the file is not looked for again and again.
func TestMountIsToldOf(t *testing.T) {
	dir := t.TempDir()
	path := dir + "/aaaaaaaaaaaa"
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(wake) }()
	onThread(func() {
		th, err := newThread(wake, -1, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer th.close()
		if _, err := th.wait(-1, true, time.Now()); err != nil {
			t.Error(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Error(err)
			return
		}
		if err := unix.Mount("/proc/self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = unix.Unmount(path, unix.MNT_DETACH) }()
		why, err := th.wait(-1, true, time.Now().Add(20*time.Second))
		if err != nil || !why.mounts {
			t.Errorf("told %+v, %v; want that something was mounted", why, err)
		}
	})
}
