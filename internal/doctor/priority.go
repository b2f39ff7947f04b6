package doctor

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/mode"
	"github.com/ambassadord/ambassadord/internal/privilege"
	"github.com/ambassadord/ambassadord/internal/sandbox"
)

// checkPriority tries whether new network namespaces can be prepared at real-time priority.
func checkPriority(_ context.Context, h *environment) Result {
	if !mode.Any(h.modes, func(m mode.Row) bool { return m.Early }) {
		return ok("nothing is prepared but in mode redirect")
	}
	have, err := privilege.Effective()
	if err != nil {
		return undone(err)
	}
	return judgePriority(sandbox.MayBeUrgent(), have)
}

func judgePriority(failed error, have privilege.Set) Result {
	const late = "on a busy host a container that dials at once may be too early: no real-time priority for what prepares its network namespace (%v)"
	switch {
	case failed == nil:
		return ok("new network namespaces are prepared at real-time priority")
	case errors.Is(failed, unix.EPERM) && have.Has("SYS_NICE"):
		return warn("its control group gives no real-time time (RT_GROUP_SCHED): set cpu.rt_runtime_us of it, or run the daemon outside of one", late, failed)
	case have.Has("SYS_NICE"):
		return warn("have its seccomp profile allow sched_setattr(2)", late, failed)
	}
	return warn(privilege.Hint([]string{"SYS_NICE"}), late, failed)
}
