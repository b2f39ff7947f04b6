package sandbox

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// rtPriority is the least of the real-time ones (sched(7)): before every ordinary thread,
	// after all that others hold to be more urgent.
	rtPriority = 1
	// niceness is what a thread has where real-time priority is not to be had.
	niceness = -10

	// A preferred thread keeps others from its processor. So it has processor time of that
	// kind for as long as budget only, and earns it anew at a rate of one in earning: preparing
	// a namespace takes a millisecond. Beyond that it is an ordinary one.
	budget  = 100 * time.Millisecond
	earning = 20
)

// Priority is how the kernel prefers a thread to others.
type Priority int

// The priorities, the best last.
const (
	Ordinary Priority = iota
	Nice              // nice -10: a greater share than others, and sooner
	RealTime          // SCHED_RR
)

// errUnbounded: the thread cannot give its priority up, so nothing bounds what it uses.
var errUnbounded = errors.New("the thread that watches cannot give its priority up")

// urgency is the priority of the thread that calls its methods.
type urgency struct {
	err      error           // why it is not RealTime
	best     Priority        // what the thread may have
	ordinary *unix.SchedAttr // what the thread is without it
	raised   bool
	left     time.Duration // of the budget
	seen     time.Time
	spent    time.Duration // processor time of the thread when it was last looked at
	exceeded func()        // called when the budget is spent, if it is not nil
}

// begin raises the priority as far as that is allowed.
func (u *urgency) begin() {
	u.left, u.seen, u.spent = budget, time.Now(), threadTime()
	u.ordinary = attributes()
	for _, p := range []Priority{RealTime, Nice} {
		err := setPriority(p)
		if err == nil {
			u.best, u.raised = p, true
			return
		}
		if u.err == nil {
			u.err = err
		}
	}
}

func (u *urgency) end() {
	if u.raised {
		u.raised = u.lower() != nil
	}
}

// lower makes the thread an ordinary one. It keeps SCHED_FLAG_RESET_ON_FORK, which only
// CAP_SYS_NICE may take away: without that flag the kernel would refuse all of it.
func (u *urgency) lower() error {
	attr := *u.ordinary
	attr.Flags |= unix.SCHED_FLAG_RESET_ON_FORK
	return unix.SchedSetAttr(0, &attr, 0)
}

// pace takes the priority away when the budget is spent, and gives it back when half of it
// is there again. An error says that the budget cannot be enforced: the thread has to end.
func (u *urgency) pace() error {
	if u.best == Ordinary {
		return nil
	}
	now, spent := time.Now(), threadTime()
	if u.raised {
		u.left -= spent - u.spent
	}
	u.left = min(u.left+now.Sub(u.seen)/earning, budget)
	u.seen, u.spent = now, spent
	switch {
	case u.raised && u.left <= 0:
		if err := u.lower(); err != nil {
			return fmt.Errorf("%w: %w", errUnbounded, err)
		}
		u.raised = false
		if u.exceeded != nil {
			u.exceeded()
		}
	case !u.raised && u.left >= budget/2:
		u.raised = setPriority(u.best) == nil
	}
	return nil
}

// raiseAt is when pace will give the priority back; zero while the thread has it, or cannot
// have it.
func (u *urgency) raiseAt() time.Time {
	if u.raised || u.best == Ordinary || u.left >= budget/2 { // in the end it may be refused
		return time.Time{}
	}
	return u.seen.Add((budget/2 - u.left) * earning)
}

// threadTime is the processor time that this thread has used.
func threadTime() time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t) != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

// setPriority gives this thread p. A thread that it starts is an ordinary one.
func setPriority(p Priority) error {
	attr := unix.SchedAttr{Policy: unix.SCHED_RR, Priority: rtPriority, Flags: unix.SCHED_FLAG_RESET_ON_FORK}
	if p == Nice {
		attr.Policy, attr.Priority, attr.Nice = unix.SCHED_NORMAL, 0, niceness
	}
	return unix.SchedSetAttr(0, &attr, 0)
}

// attributes are those of this thread.
func attributes() *unix.SchedAttr {
	attr, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		return &unix.SchedAttr{Policy: unix.SCHED_NORMAL}
	}
	return attr
}

// MayBeUrgent says why a thread of this process cannot have real-time priority; nil if it can.
func MayBeUrgent() (err error) {
	onThread(func() {
		err = setPriority(RealTime) // which ends with the thread
	})
	return err
}
