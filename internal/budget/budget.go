// Package budget says how many connections a limit of open files is good for.
package budget

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/hint"
)

// Budget is a number of connections. Each takes two descriptors while it is carried,
// and one while it waits for its turn.
type Budget struct {
	// Open is how many may be carried at once.
	Open int
	// Queue is how many more may wait.
	Queue int
}

// Of divides so many descriptors. A twelfth is kept back: for the sockets in
// containers, the engine and the registries, and for bytes on their way.
func Of(descriptors uint64) Budget {
	n := int(min(descriptors, 1<<24))
	reserve := max(128, n/12)
	return Budget{Open: max(1, (n-reserve)/2), Queue: max(1, reserve/4)}
}

// Limit is how many files this process may have open at most (getrlimit(2),
// RLIMIT_NOFILE). Package os raises the limit in effect to that.
func Limit() (uint64, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("limit of open files: %w", err)
	}
	return limit.Max, nil
}

// Within is the budget with at most wanted connections; 0 is as many as there may be.
// The error says that there are not descriptors enough for that many.
func (b Budget) Within(wanted int) (Budget, error) {
	switch {
	case wanted == 0 || wanted == b.Open:
		return b, nil
	case wanted < b.Open:
		return Budget{Open: wanted, Queue: b.Queue}, nil
	}
	return b, hint.Errorf("raise the limit of open files (ulimit -n, LimitNOFILE=), or leave --max-connections out",
		"%d connections are more than the limit of open files is good for, which is %d", wanted, b.Open)
}
