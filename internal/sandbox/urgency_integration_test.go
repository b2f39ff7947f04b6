//go:build integration

package sandbox

import (
	"errors"
	"os"
	"strconv"
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
		_ = u.pace()
		expect("with half of it spent", unix.SCHED_RR, 0)
		for worked := threadTime(); threadTime()-worked < budget; {
		}
		_ = u.pace()
		expect("beyond its budget", unix.SCHED_NORMAL, 1)
		_ = u.pace()
		expect("a moment later", unix.SCHED_NORMAL, 1)
		u.seen = u.seen.Add(-earning * budget) // as after a while
		_ = u.pace()
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

// dropNice takes CAP_SYS_NICE from this thread.
func dropNice() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return err
	}
	for _, set := range []*uint32{&sets[0].Effective, &sets[0].Permitted} {
		*set &^= 1 << unix.CAP_SYS_NICE
	}
	return unix.Capset(&header, &sets[0])
}

// policy is this thread's.
func policy(t *testing.T) uint32 {
	t.Helper()
	attr, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		t.Error(err)
		return 0
	}
	return attr.Policy
}

// The priority is given up without CAP_SYS_NICE as well, which is how it is with RLIMIT_RTPRIO.
func TestUrgencyIsBoundedWithoutTheCapability(t *testing.T) {
	onThread(func() {
		spent := 0
		u := urgency{exceeded: func() { spent++ }}
		if u.begin(); u.best != RealTime {
			t.Error(u.err)
			return
		}
		if err := dropNice(); err != nil {
			t.Error(err)
			return
		}
		u.left = 0
		err := u.pace()
		if got := policy(t); err != nil || got != unix.SCHED_NORMAL || spent != 1 {
			t.Errorf("beyond its budget its policy is %d (%v), told %d times", got, err, spent)
		}
	})
}

// A thread that cannot give its priority up has to end, and nobody is told that it has.
func TestUrgencyThatCannotBeBounded(t *testing.T) {
	onThread(func() {
		u := urgency{exceeded: func() { t.Error("it says that the priority was taken away") }}
		if u.begin(); u.best != RealTime {
			t.Error(u.err)
			return
		}
		if err := dropNice(); err != nil {
			t.Error(err)
			return
		}
		u.left, u.ordinary = 0, &unix.SchedAttr{Policy: unix.SCHED_NORMAL, Nice: -20} // which it may not have
		if err := u.pace(); !errors.Is(err, errUnbounded) {
			t.Errorf("it goes on: %v", err)
		}
	})
}

func TestNoUrgency(t *testing.T) {
	onThread(func() {
		if err := dropNice(); err != nil {
			t.Error(err)
			return
		}
		var u urgency
		if u.begin(); u.best != Ordinary || !errors.Is(u.err, unix.EPERM) {
			t.Errorf("it has priority %d, %v", u.best, u.err)
		}
		if err := u.pace(); err != nil {
			t.Error(err)
		}
	})
}

// A control group of version 1 may give no real-time time. Then the thread is nice.
func TestNiceInPlaceOfRealTime(t *testing.T) {
	group := "/sys/fs/cgroup/cpu/ambassadord-" + strconv.Itoa(os.Getpid())
	if _, err := os.Stat("/sys/fs/cgroup/cpu/cpu.rt_runtime_us"); err != nil {
		t.Skip("the kernel groups no real-time threads: ", err)
	}
	if err := os.Mkdir(group, 0o700); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := os.Remove(group); err != nil {
			t.Error(err)
		}
	}()
	move := func(to string) error {
		return os.WriteFile(to+"/tasks", []byte(strconv.Itoa(unix.Gettid())), 0)
	}
	var failed error
	onThread(func() {
		if failed = move(group); failed != nil {
			return
		}
		var u urgency
		ordinary := attributes().Nice
		u.begin()
		attr, err := unix.SchedGetAttr(0, 0)
		if err != nil || u.best != Nice || u.err == nil || attr.Nice != niceness || attr.Flags&unix.SCHED_FLAG_RESET_ON_FORK == 0 {
			t.Errorf("it has priority %d, %+v (%v, %v)", u.best, attr, u.err, err)
		}
		u.left = 0
		if err := u.pace(); err != nil {
			t.Error(err)
		}
		if attr, err := unix.SchedGetAttr(0, 0); err != nil || attr.Nice != ordinary {
			t.Errorf("beyond its budget it has %+v (%v)", attr, err)
		}
		failed = move("/sys/fs/cgroup/cpu")
	})
	if failed != nil {
		t.Fatal(failed)
	}
}
