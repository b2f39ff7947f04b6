package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ambassadord/ambassadord/internal/engines"
)

// plan makes jobs of the tests of the repository in root, whose binaries are in dir.
type plan struct {
	root, dir string
	durations engines.Durations
	thorough  bool // e2e starts as many containers as before a release
}

// batch is how long the tests last that run in one process, unless it is a single one that
// lasts longer: a process takes a moment to begin, and what is short fills gaps.
const batch = 20 * time.Second

// table are the jobs of the table's tests on an engine.
func (p *plan) table(c *column) []*job {
	var jobs []*job
	for _, r := range engines.Runs(engines.Features, c.engine.Name) {
		jobs = append(jobs, p.functions(c, r)...)
	}
	return jobs
}

// functions are the jobs of a package's test functions.
func (p *plan) functions(c *column, r engines.Run) []*job {
	var jobs []*job
	folder, pkg := filepath.Join(p.root, r.Folder), packageIn(r.Folder)
	add := func(tests []string, alone bool, expected time.Duration) {
		args := []string{"go", "tool", "test2json", "-t", "-p", module + "/" + r.Folder, filepath.Join(p.dir, pkg+".test"),
			"-test.v=test2json", "-test.count=1", "-test.timeout=" + testTimeout, "-test.run=" + engines.Either(tests)}
		if r.Skip != "" {
			args = append(args, "-test.skip="+r.Skip)
		}
		if p.thorough && pkg == "e2e" {
			args = append(args, "-thorough")
		}
		jobs = append(jobs, &job{name: pkg + ": " + strings.Join(tests, ", "), folder: folder, args: args, alone: alone, expected: expected})
		c.expect(module + "/" + r.Folder)
	}
	last := func(test string) time.Duration { return p.durations.Of(c.engine.Name, pkg+"."+test) }
	for _, tests := range batches(r.Tests, last, func(test string) bool { return engines.IsAlone(pkg + "." + test) }) {
		var expected time.Duration
		for _, test := range tests {
			expected += last(test)
		}
		add(tests, engines.IsAlone(pkg+"."+tests[0]), expected)
	}
	return jobs
}

// batches shares names out, those that are apart one by one, in their order otherwise: each
// batch is filled by the longest that fit.
func batches(names []string, lasts func(string) time.Duration, apart func(string) bool) [][]string {
	type open struct {
		names []string
		left  time.Duration
	}
	var all []*open
	longest := slices.Clone(names)
	slices.SortStableFunc(longest, func(a, b string) int { return int(lasts(b) - lasts(a)) })
	for _, name := range longest {
		if apart(name) {
			all = append(all, &open{names: []string{name}})
			continue
		}
		i := slices.IndexFunc(all, func(o *open) bool { return o.left >= lasts(name) })
		if i < 0 {
			i = len(all)
			all = append(all, &open{left: batch})
		}
		all[i].names = append(all[i].names, name)
		all[i].left -= lasts(name)
	}
	var out [][]string
	for _, o := range all {
		slices.SortFunc(o.names, func(a, b string) int { return slices.Index(names, a) - slices.Index(names, b) })
		out = append(out, o.names)
	}
	return out
}

// whole are the jobs of all tests: those of e2e in several processes, and of other packages
// each in one.
func (p *plan) whole(ctx context.Context, c *column) ([]*job, error) {
	list := exec.CommandContext(ctx, "go", "list", "-tags", "integration", "./...")
	list.Dir, list.Stderr = p.root, os.Stderr
	out, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("list the packages: %w", err)
	}
	var folders []string
	for pkg := range strings.FieldsSeq(string(out)) {
		if folder := strings.TrimPrefix(pkg, module+"/"); folder != engines.Packages["e2e"] {
			folders = append(folders, folder)
		}
	}
	tests, err := p.listTests(ctx)
	if err != nil {
		return nil, err
	}
	jobs := p.functions(c, engines.Run{Folder: engines.Packages["e2e"], Tests: tests})
	last := func(folder string) time.Duration { return p.durations.Of(c.engine.Name, folder) }
	for _, together := range batches(folders, last, func(string) bool { return false }) {
		// make check has had vet look at all of it. Packages of a job run one after the other,
		// since some share the host's firewall.
		j := &job{name: strings.Join(together, ", "), folder: p.root, args: []string{"go", "test", "-json", "-vet=off", "-race",
			"-tags", "integration", "-count=1", "-timeout=" + testTimeout, "-p", "1"}}
		for _, folder := range together {
			j.args = append(j.args, "./"+folder)
			j.expected += last(folder)
		}
		jobs = append(jobs, j)
	}
	return jobs, nil
}

// listTests are the test functions of e2e, in their order.
func (p *plan) listTests(ctx context.Context) ([]string, error) {
	list := exec.CommandContext(ctx, filepath.Join(p.dir, "e2e.test"), "-test.list", "^Test")
	list.Dir, list.Stderr = filepath.Join(p.root, engines.Packages["e2e"]), os.Stderr
	list.Env = append(os.Environ(), "TMPDIR="+p.dir, "E2E_DAEMON="+filepath.Join(p.dir, "ambassadord"))
	out, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("list the tests of e2e: %w", err)
	}
	return slices.DeleteFunc(strings.Fields(string(out)), func(line string) bool { return !strings.HasPrefix(line, "Test") }), nil
}

// packageIn is the name of the package in folder.
func packageIn(folder string) string {
	for pkg, f := range engines.Packages {
		if f == folder {
			return pkg
		}
	}
	return ""
}
