// Package doctor examines the host it runs on: whether the daemon would work
// here, in which modes, and what to do where it would not.
//
//	Checks (what there is to look at) → Run (all at once, each bounded) → Report
//
// Each check has two halves: one that looks, and one that judges what was seen,
// which is pure and tested with made-up observations. Features of the kernel are
// tested by using them, in a network namespace that is made
// for that and thrown away. The host's own rules, namespaces and containers are
// only read. A kernel module may get loaded, as whenever iptables is used.
//
// The package prints nothing: a Report is data.
package doctor

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/ambassadord/ambassadord/internal/hint"
)

// Status is how something is.
type Status string

// The statuses, best first.
const (
	// OK is as it should be.
	OK Status = "ok"
	// Warn is something the daemon works without, or that could not be looked at.
	Warn Status = "warn"
	// Fail is something that keeps the daemon, or a target of a whole kind, from
	// working.
	Fail Status = "fail"
)

// worse returns the worse of two statuses.
func worse(a, b Status) Status {
	if a == Fail || b == Fail {
		return Fail
	}
	if a == Warn || b == Warn {
		return Warn
	}
	return OK
}

// Result is what a check found.
type Result struct {
	Status Status `json:"status"`
	// Summary is one line: what was found.
	Summary string `json:"summary"`
	// Hint is what to do about it, "" if nothing.
	Hint string `json:"hint,omitempty"`
}

// Check looks at one thing.
type Check struct {
	// Name is a word, the same in every version.
	Name string
	// LooksAt is one line: what the check examines, for documentation.
	LooksAt string
	// Timeout bounds Run; 0 means 5 s.
	Timeout time.Duration
	// Run looks. It returns soon after its context ends, and its Result then says
	// what it got to see.
	Run func(context.Context) Result
}

// Finding is a check's name and result.
type Finding struct {
	Name string `json:"name"`
	Result
}

// Report is the findings of a Run.
type Report struct {
	// Status is the worst of the findings'.
	Status Status `json:"status"`
	// Findings are in the order of the checks.
	Findings []Finding `json:"checks"`
}

const (
	defaultTimeout = 5 * time.Second

	// grace is how long a check may take to notice that its time is over.
	grace = time.Second
)

// Run runs all checks at the same time and waits for them. One that is still not
// back a second after its time is over, stuck in the kernel, is left behind: its
// finding says so, and its goroutine ends whenever it returns.
func Run(ctx context.Context, checks []Check) Report {
	report := Report{Status: OK, Findings: make([]Finding, len(checks))}
	var running sync.WaitGroup
	for i, c := range checks {
		running.Go(func() { report.Findings[i] = Finding{Name: c.Name, Result: c.bounded(ctx)} })
	}
	running.Wait()
	for _, f := range report.Findings {
		report.Status = worse(report.Status, f.Status)
	}
	return report
}

func (c Check) bounded(ctx context.Context) Result {
	timeout := c.Timeout
	if timeout == 0 {
		timeout = defaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	done := make(chan Result, 1) // or a check that is left behind could never end
	go func() {
		r := c.Run(ctx)
		r.Summary = oneLine(r.Summary)
		done <- r
	}()
	select {
	case r := <-done:
		return r
	case <-ctx.Done():
	}
	late := time.NewTimer(grace)
	defer late.Stop()
	select {
	case r := <-done:
		return r
	case <-late.C:
		return Result{
			Status: Warn, Summary: fmt.Sprintf("not checked: no answer within %s", timeout),
			Hint: "something hangs; look at the kernel log: dmesg",
		}
	}
}

// oneLine keeps the first line of text and says how many are left out: joined
// errors have one for each.
func oneLine(text string) string {
	first, rest, more := strings.Cut(strings.TrimSpace(text), "\n")
	if !more {
		return first
	}
	return fmt.Sprintf("%s (and %d more like it)", first, strings.Count(rest, "\n")+1)
}

// ok and the others make results.
func ok(format string, args ...any) Result {
	return Result{Status: OK, Summary: fmt.Sprintf(format, args...)}
}

func warn(hint, format string, args ...any) Result {
	return Result{Status: Warn, Hint: hint, Summary: fmt.Sprintf(format, args...)}
}

func fail(hint, format string, args ...any) Result {
	return Result{Status: Fail, Hint: hint, Summary: fmt.Sprintf(format, args...)}
}

// broken is a failure for the reason of err, with err's hint.
func broken(err error) Result {
	return Result{Status: Fail, Summary: err.Error(), Hint: hint.Of(err)}
}

// undone says that err kept a check from looking.
func undone(err error) Result {
	fix := hint.Of(err)
	if fix == "" {
		fix = "run it as the daemon would be: as root, with its capabilities"
	}
	return Result{Status: Warn, Summary: "not checked: " + err.Error(), Hint: fix}
}
