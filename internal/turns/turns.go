// Package turns asks the kernel to let this process run soon after it wakes, on a host
// whose processors others want.
//
// A thread that asks for short turns (sched_setattr(2), sched_runtime of an ordinary thread,
// Linux 6.12) gets no more processor time than others, but gets it earlier: it may take a
// processor from one that has had a part of a longer turn. An older kernel takes no notice.
// It takes no privilege.
package turns

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// length is the least that the kernel gives.
const length = 100 * time.Microsecond

// Shorten asks for short turns for all threads of this process, and so for those that they
// start, and for processes.
func Shorten() error {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return fmt.Errorf("list own threads: %w", err)
	}
	for _, task := range tasks {
		thread, err := strconv.Atoi(task.Name())
		if err != nil {
			return fmt.Errorf("list own threads: %w", err)
		}
		if err := shorten(thread); err != nil && !errors.Is(err, unix.ESRCH) { // it has ended
			return fmt.Errorf("ask for short turns: %w", err)
		}
	}
	return nil
}

// shorten leaves alone what somebody has given another policy.
func shorten(thread int) error {
	attr, err := unix.SchedGetAttr(thread, 0)
	if err != nil || attr.Policy != unix.SCHED_NORMAL {
		return err
	}
	attr.Runtime = uint64(length)
	return unix.SchedSetAttr(thread, attr, 0)
}
