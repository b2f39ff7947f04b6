package agent

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/proxy"
)

// budget is how many connections the limit of open files is good for: each takes two
// descriptors, one while it waits for its turn.
type budget struct {
	open  int // at once
	queue int // that wait
}

// budgetOf divides so many descriptors. What is kept back is for the sockets in
// containers, the engine and the registries, and for bytes on their way.
func budgetOf(descriptors uint64) budget {
	n := int(min(descriptors, 1<<24))
	reserve := max(128, n/12)
	return budget{open: max(1, (n-reserve)/2), queue: max(1, reserve/4)}
}

// descriptorBudget is the budget of this process. Package os has raised its limit as
// far as it may.
func descriptorBudget() (budget, uint64, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return budget{}, 0, fmt.Errorf("limit of open files: %w", err)
	}
	return budgetOf(limit.Cur), limit.Cur, nil
}

// within is the budget with at most wanted connections; 0 is as many as there may be.
// The error says that the descriptors do not suffice for that many.
func (b budget) within(wanted int, descriptors uint64) (budget, error) {
	switch {
	case wanted == 0 || wanted == b.open:
		return b, nil
	case wanted < b.open:
		return budget{open: wanted, queue: b.queue}, nil
	}
	return b, hint.Errorf("raise the limit of open files (ulimit -n, LimitNOFILE=), or leave --max-connections out",
		"--max-connections %d is more than the limit of %d open files is good for, which is %d", wanted, descriptors, b.open)
}

// serverWithin makes the server, with as many connections as wanted and the limit of
// open files allow, 0 for as many as it allows, and so many new ones a second, 0 for
// any number.
func (a *agent) serverWithin(wanted, rate int) error {
	have, descriptors, err := descriptorBudget()
	if err != nil {
		return err
	}
	b, short := have.within(wanted, descriptors)
	if short != nil {
		a.log.Warn("fewer connections than were asked for", "max_connections", b.open, "error", short, "hint", hint.Of(short))
	}
	a.server = &proxy.Server{
		Limit: proxy.NewLimit("the daemon", "raise --max-connections or --accept-rate, and the limit of open files, or look who opens so many",
			proxy.Bounds{Open: b.open, Rate: rate, Queue: b.queue}),
		Accepted: b.open + b.queue,
		Done:     func(r proxy.Record) { logConnection(a.log, r) },
		Log:      a.log,
	}
	return nil
}
