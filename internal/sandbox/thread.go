package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/inotify"
)

// thread is the OS thread of a Watcher. It waits in ppoll(2) itself: were it the runtime's
// poller that waits, another thread would have to be given a processor first, to wake this.
type thread struct {
	wake   int // an eventfd(2), readable when it is to end
	mounts int // /proc/self/mountinfo, which polls as changed after every mount; -1 without
	// As a Watcher's.
	descriptor int
	told       func() bool
	watching   func() // called when it first waits, if it is not nil

	home   unix.Stat_t
	urgent urgency
	polled []unix.PollFd
	buffer [16 << 10]byte
}

// wakeup is why wait has returned.
type wakeup struct {
	events bool // there are events at the descriptor
	mounts bool // something was mounted, or unmounted
}

// errDone: told has returned false.
var errDone = errors.New("it is to end")

// errElsewhere: the thread could not return to the network namespace of the process.
var errElsewhere = errors.New("the thread did not come back from another network namespace")

// onThread calls run on an OS thread that nothing else runs on, and which ends with it.
// It is never the process's first one: /proc/self is the view of that.
func onThread(run func()) {
	done := make(chan struct{})
	var try func()
	try = func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its goroutine
		if unix.Gettid() == unix.Getpid() {
			another := make(chan struct{})
			go func() { defer close(another); try() }() // while this keeps the first thread to itself
			<-another
			runtime.UnlockOSThread() // Go cannot end that thread
			return
		}
		defer close(done)
		run()
	}
	go try()
	<-done
}

func newThread(wake, descriptor int, told func() bool) (*thread, error) {
	t := &thread{wake: wake, mounts: -1, descriptor: descriptor, told: told}
	if err := unix.Stat("/proc/thread-self/ns/net", &t.home); err != nil {
		return nil, os.NewSyscallError("stat", err)
	}
	if fd, err := unix.Open("/proc/thread-self/mountinfo", unix.O_RDONLY|unix.O_CLOEXEC, 0); err == nil {
		t.mounts = fd
	}
	return t, nil
}

func (t *thread) close() {
	if t.mounts >= 0 {
		_ = unix.Close(t.mounts)
	}
	t.urgent.end()
}

// wait returns when there is something to read at events, when something is mounted and mounts is
// true, or at next unless that is zero; and when the thread is to end.
func (t *thread) wait(events int, mounts bool, next time.Time) (wakeup, error) {
	if err := t.stray(); err != nil {
		return wakeup{}, err
	}
	if t.watching != nil {
		t.watching()
		t.watching = nil
	}
	t.polled = append(t.polled[:0],
		unix.PollFd{Fd: int32(events), Events: unix.POLLIN},
		unix.PollFd{Fd: -1, Events: unix.POLLPRI}, // poll(2) passes over what is negative
		unix.PollFd{Fd: -1, Events: unix.POLLIN},
		unix.PollFd{Fd: int32(t.wake), Events: unix.POLLIN})
	if mounts {
		t.polled[1].Fd = int32(t.mounts)
	}
	if t.told != nil {
		t.polled[2].Fd = int32(t.descriptor)
	}
	for {
		if err := t.urgent.pace(); err != nil {
			return wakeup{}, err
		}
		until, raise := next, t.urgent.raiseAt()
		if !raise.IsZero() && (until.IsZero() || raise.Before(until)) {
			until = raise // or the next namespace would find an ordinary thread
		}
		var timeout *unix.Timespec
		if !until.IsZero() {
			left := unix.NsecToTimespec(int64(max(time.Until(until), 0)))
			timeout = &left
		}
		n, err := unix.Ppoll(t.polled, timeout, nil)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return wakeup{}, os.NewSyscallError("ppoll", err)
		}
		if n != 0 || err != nil || until.Equal(next) {
			break
		}
	}
	if t.polled[2].Revents != 0 && !t.told() { // first of all: it may be about what has appeared
		return wakeup{}, errDone
	}
	return wakeup{events: t.polled[0].Revents != 0, mounts: t.polled[1].Revents != 0}, nil
}

// stray is errElsewhere if the thread is not where it was.
func (t *thread) stray() error {
	var here unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &here); err != nil {
		return os.NewSyscallError("stat", err)
	}
	if here.Ino != t.home.Ino || here.Dev != t.home.Dev {
		return errElsewhere
	}
	return nil
}

// awaitFolder returns when one of folders may have been made, or after lookForFolder. inotify
// tells of it at once, on the nearest folder above that is there.
func (t *thread) awaitFolder(folders []string, look time.Duration) error {
	fd, err := inotify.Open()
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	for _, folder := range folders {
		_, at, name, err := inotify.AddAbove(fd, folder)
		if err == nil && isFolder(filepath.Join(at, name)) {
			return nil // it has been made meanwhile
		}
	}
	_, err = t.wait(fd, false, time.Now().Add(look))
	return err
}
