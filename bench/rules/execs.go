package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/ambassadord/ambassadord/bench/internal/daemon"
	"github.com/ambassadord/ambassadord/bench/internal/procstat"
)

// execs are the programs that a daemon has started, by name.
type execs struct {
	start, steady map[string]int
	lasted        time.Duration // the steady state, 0 if there was none
}

// What strace says of a program that was started, in one line or, when another thread's call came
// between, in two.
var (
	asked   = regexp.MustCompile(`^(\d+) +execve\("([^"]*)"`)
	resumed = regexp.MustCompile(`^(\d+) +<\.\.\. execve resumed>`)
)

// countExecs starts a daemon once more, under strace, and counts what it starts until all
// containers are attached, and then, when it has settled, in its steady state.
func (b *rulesBench) countExecs(ctx context.Context, dir string, c *measuredDaemon) (counted *execs, err error) {
	trace := filepath.Join(dir, "execs")
	defer os.Remove(trace)
	strace := append([]string{"-f", "-e", "trace=execve", "-o", trace, c.binary}, c.args...)
	program, err := exec.LookPath("strace")
	if err != nil {
		return nil, err
	}
	d, err := daemon.Start(program, dir, strace...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stopTraced(d)) }()
	if _, err := b.start(ctx, d); err != nil {
		return nil, err
	}
	counted = &execs{}
	if counted.start, err = programs(trace); err != nil || b.steady <= 0 {
		return counted, err
	}
	if err := wait(ctx, b.settle); err != nil {
		return nil, err
	}
	before, err := programs(trace)
	if err != nil {
		return nil, err
	}
	if err := wait(ctx, b.steady); err != nil {
		return nil, err
	}
	counted.lasted = b.steady
	if counted.steady, err = programs(trace); err != nil {
		return nil, err
	}
	for name, n := range before {
		if counted.steady[name] -= n; counted.steady[name] == 0 {
			delete(counted.steady, name)
		}
	}
	return counted, nil
}

// stopTraced ends the daemon that strace runs: strace, asked to end, would not wait for it.
func stopTraced(d *daemon.Daemon) error {
	pids, err := procstat.Tree(d.PID())
	if err != nil || len(pids) < 2 {
		return errors.Join(err, d.Stop())
	}
	return d.StopBy(pids[1])
}

// programs counts what strace has seen, without the daemon itself, which comes first.
func programs(trace string) (map[string]int, error) {
	text, err := os.ReadFile(trace)
	if err != nil {
		return nil, err
	}
	counts, pending := map[string]int{}, map[string]string{} // by thread, what was not answered yet
	first := true
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		var name string
		if m := asked.FindStringSubmatch(line); m != nil {
			name = m[2]
			if strings.HasSuffix(line, "<unfinished ...>") {
				pending[m[1]] = name
			}
		} else if m := resumed.FindStringSubmatch(line); m != nil {
			name = pending[m[1]]
		}
		switch {
		case name == "" || !strings.HasSuffix(line, "= 0"):
		case first:
			first = false
		default:
			counts[filepath.Base(name)]++
		}
	}
	return counts, nil
}

// count says how many, and which.
func count(programs map[string]int) string {
	sum := 0
	var each []string
	for name, n := range programs {
		sum += n
		each = append(each, fmt.Sprintf("%d %s", n, name))
	}
	if sum == 0 {
		return "0"
	}
	slices.Sort(each)
	return fmt.Sprintf("%d (%s)", sum, strings.Join(each, ", "))
}
