package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Watcher watches for new namespaces on an OS thread of its own, which may have real-time
// priority: from the mount of a namespace to the container's first instruction there are 8 ms,
// and on a host whose processors others want an ordinary thread waits longer than that until it
// is its turn.
type Watcher struct {
	// Folders are where namespaces are mounted: the first that exists.
	Folders []string
	// Appeared is called, on the thread, with the path of each container's network namespace
	// that is mounted: those that are there already, and each new one at once. fresh says
	// that it is new: nobody can have worked in it before. It may be told of one twice.
	Appeared func(path string, fresh bool)
	// Urgent, if it is set, has the thread ask for real-time priority, or to be nice -10. It is
	// told on the thread, as soon as that watches, which it has, and why it has not the former;
	// and later of ErrOverspent, once, if that has been taken away for a while.
	Urgent func(Priority, error)
	// Told, if it is set, is called on the thread whenever there is something to read at
	// Descriptor. If it returns false, Run returns nil.
	Descriptor int
	Told       func() bool
}

// ErrOverspent says that the thread has worked for too long to keep its priority.
var ErrOverspent = errors.New("more was to be prepared than real-time priority is given for")

// Run watches until ctx has ended, and then returns nil. A folder that does not exist yet, or
// is removed and made again, is waited for; the error is one of inotify itself, and carries a
// hint.
func (w *Watcher) Run(ctx context.Context) error { return w.run(ctx, lookForFolder) }

func (w *Watcher) run(ctx context.Context, look time.Duration) error {
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("watch for network namespaces: %w", os.NewSyscallError("eventfd", err))
	}
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(woken)
		_, _ = unix.Write(wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	})
	defer func() {
		if !stop() {
			<-woken
		}
		_ = unix.Close(wake)
	}()
	for {
		var err error
		onThread(func() { err = w.follow(ctx, wake, look) })
		if !errors.Is(err, errElsewhere) { // else another thread goes on
			return err
		}
	}
}

// follow is run, on the thread.
func (w *Watcher) follow(ctx context.Context, wake int, look time.Duration) error {
	t, err := newThread(wake, w.Descriptor, w.Told)
	if err != nil {
		return fmt.Errorf("watch for network namespaces: %w", err)
	}
	defer t.close()
	if w.Urgent != nil {
		t.urgent.begin()
		t.urgent.exceeded = sync.OnceFunc(func() { w.Urgent(Ordinary, ErrOverspent) })
		t.watching = func() { w.Urgent(t.urgent.best, t.urgent.err) }
	}
	appeared := func(path string, fresh bool) {
		w.Appeared(path, fresh)
		_ = t.urgent.pace() // many may have appeared; wait tries again, and says what fails
	}
	for ctx.Err() == nil {
		folder, err := firstFolder(w.Folders)
		if err == nil {
			err = folder.run(ctx, t, appeared)
			folder.close()
		}
		if err == nil || isGone(err) {
			err = nil
			if ctx.Err() == nil {
				err = t.awaitFolder(w.Folders, look)
			}
		}
		if errors.Is(err, errDone) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Watch is a Watcher's Run with nothing but these folders and this function.
func Watch(ctx context.Context, folders []string, appeared func(path string)) error {
	w := &Watcher{Folders: folders, Appeared: func(path string, _ bool) { appeared(path) }}
	return w.Run(ctx)
}
