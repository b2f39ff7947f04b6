package sandbox

import (
	"time"

	"golang.org/x/sys/unix"
)

const (
	// priority is the least of the real-time ones (sched(7)): before every ordinary thread,
	// after all that others hold to be more urgent.
	priority = 1

	// A thread of real-time priority keeps others from its processor. So it has processor
	// time of that kind for as long as budget only, and earns it anew at a rate of one in
	// earning: preparing a namespace takes a millisecond. Beyond that it is an ordinary one.
	budget  = 100 * time.Millisecond
	earning = 20
)

// urgency is the priority of the thread that calls its methods.
type urgency struct {
	err      error           // why it has none
	ordinary *unix.SchedAttr // what the thread was before
	raised   bool
	left     time.Duration // of the budget
	seen     time.Time
	spent    time.Duration // processor time of the thread when it was last looked at
	exceeded func()        // called when the budget is spent, if it is not nil
}

// begin raises the priority, if that is allowed.
func (u *urgency) begin() {
	u.left, u.seen, u.spent = budget, time.Now(), threadTime()
	u.ordinary = attributes()
	u.err = setPriority(priority)
	u.raised = u.err == nil
}

func (u *urgency) end() {
	if u.raised {
		u.raised = u.lower() != nil
	}
}

// lower makes the thread what it was.
func (u *urgency) lower() error { return unix.SchedSetAttr(0, u.ordinary, 0) }

// pace takes the priority away when the budget is spent, and gives it back when half of it
// is there again.
func (u *urgency) pace() {
	if u.ordinary == nil || u.err != nil {
		return // it is an ordinary one
	}
	now, spent := time.Now(), threadTime()
	if u.raised {
		u.left -= spent - u.spent
	}
	u.left = min(u.left+now.Sub(u.seen)/earning, budget)
	u.seen, u.spent = now, spent
	switch {
	case u.raised && u.left <= 0:
		u.raised = u.lower() != nil
		if u.exceeded != nil {
			u.exceeded()
		}
	case !u.raised && u.left >= budget/2:
		u.raised = setPriority(priority) == nil
	}
}

// threadTime is the processor time that this thread has used.
func threadTime() time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t) != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

// setPriority gives this thread real-time priority. What it starts is an ordinary one.
func setPriority(to uint32) error {
	attr := unix.SchedAttr{Policy: unix.SCHED_RR, Priority: to, Flags: unix.SCHED_FLAG_RESET_ON_FORK}
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
		var u urgency
		u.begin()
		err = u.err
		u.end()
	})
	return err
}
