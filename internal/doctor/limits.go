package doctor

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"
)

const (
	// perConnection is how many descriptors a connection holds at most: a socket
	// and a pipe, which has two ends, for each way.
	perConnection = 6

	// fewConnections is when it is worth a warning.
	fewConnections = 1000
)

func (h *host) descriptors(context.Context) Result {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return undone(fmt.Errorf("getrlimit: %w", err))
	}
	// The hard limit: the Go runtime raises the soft one to it.
	return judgeDescriptors(limit.Max)
}

func judgeDescriptors(limit uint64) Result {
	connections := limit / perConnection
	if connections < fewConnections {
		return warn("raise it: LimitNOFILE= in a systemd unit, --ulimit nofile= for a container, ulimit -n in a shell",
			"at most %d, for about %d connections at once", limit, connections)
	}
	return ok("%d, for about %d connections at once", limit, connections)
}
