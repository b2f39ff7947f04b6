package doctor

import (
	"context"

	"github.com/ambassadord/ambassadord/internal/budget"
)

// fewConnections is when it is worth a warning.
const fewConnections = 1000

func checkDescriptors(_ context.Context, _ *environment) Result {
	limit, err := budget.Limit()
	if err != nil {
		return undone(err)
	}
	return judgeDescriptors(limit)
}

func judgeDescriptors(limit uint64) Result {
	connections := budget.Of(limit).Open
	if connections < fewConnections {
		return warn("raise it: LimitNOFILE= in a systemd unit, --ulimit nofile= for a container, ulimit -n in a shell",
			"at most %d, for %d connections at once", limit, connections)
	}
	return ok("%d, for %d connections at once", limit, connections)
}
