// Command matrix runs the tests that depend on the engine on every engine, and fails if one of
// them does.
//
//	go run ./internal/engines/matrix [-update] [-thorough] [-v] [-at-once N] [-engines NAME,…]
//	go run ./internal/engines/matrix -all [-update] [-thorough] [-v] [-at-once N]
//
// With -update it writes what came of them to docs/engines.json and docs/engines.md.
//
// With -all, which make test says, every test of the repository runs beside the distribution's
// engine; with -update it then writes how long each took to internal/engines/durations.json, too.
//
// Everything runs on hosts in namespaces of their own (scripts/engine), several for an engine that
// has much to do. They take what is to run from one queue, the longest first, -at-once of them at a
// time: by default two more than there are processors, for most tests wait rather than compute.
// The tests of [engines.Alone] come last, one at a time, when all others have ended.
//
// Tests that start many containers start fewer than they might; with -thorough they start as
// many as before a release.
//
// A host that hangs is ended after a bound. If one fails, the others run on,
// and what failed is told at the end once more. The hosts end with this command, however it ends; the
// folder of one that was killed is removed by the next run.
//
// It is to be run in the repository's root, by root, after scripts/setup and make image.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/ambassadord/ambassadord/internal/engines"
)

const (
	module      = "github.com/ambassadord/ambassadord"
	resultsFile = "docs/engines.json"
	pageFile    = "docs/engines.md"

	// image is the daemon's, which make image has made.
	image = "ambassadord:local"
	// images are what the tests need of the machine's engine: the network of an engine of
	// one's own leads nowhere.
	images = "ambassadord-base:local ambassadord-test/busybox " + image
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("matrix", flag.ContinueOnError)
	update := flags.Bool("update", false, "write "+resultsFile+" and "+pageFile)
	all := flags.Bool("all", false, "run every test beside the distribution's engine, and those of the table beside the engines that are built")
	atOnce := flags.Int("at-once", runtime.NumCPU()+2, "how many hosts are busy at a time")
	thorough := flags.Bool("thorough", false, "have e2e start as many containers as before a release")
	verbose := flags.Bool("v", false, "tell of tests that pass, too")
	only := flags.String("engines", "", "the engines to run on, by scripts/engine's names (default all)")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *atOnce < 1 {
		return errors.New("-at-once wants one at least")
	}
	chosen, err := choose(*only)
	if err != nil {
		return err
	}
	run := &matrix{engines: chosen, whole: *all, thorough: *thorough, atOnce: *atOnce, out: &printer{stdout: stdout, verbose: *verbose}}
	if err := run.run(ctx); err != nil {
		return err
	}
	if !*update {
		return nil
	}
	return run.save()
}

// choose returns the engines that names lists, or all.
func choose(names string) ([]engines.Engine, error) {
	if names == "" {
		return engines.Engines, nil
	}
	var chosen []engines.Engine
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(engines.Engines, func(e engines.Engine) bool { return e.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("no engine is called %q", name)
		}
		chosen = append(chosen, engines.Engines[i])
	}
	return chosen, nil
}

// matrix is one run.
type matrix struct {
	engines         []engines.Engine
	whole, thorough bool
	atOnce          int
	out             *printer
	columns         []*column
}

// save writes down what came of it, which is all well.
func (m *matrix) save() error {
	if len(m.engines) < len(engines.Engines) {
		return errors.New("-update wants all engines")
	}
	results, took := engines.Results{Engines: map[string]*engines.EngineResults{}}, engines.Durations{}
	for _, c := range m.columns {
		if !c.engine.Built && !strings.HasPrefix(c.results.Version, c.engine.Release) {
			return fmt.Errorf("%s stays as it is: this machine's engine is %q, and a column is for %s", pageFile, c.results.Version, c.engine.Release)
		}
		results.Engines[c.engine.Name] = c.results
		took[c.engine.Name] = c.took[c.engine.Name]
	}
	if err := results.Save(resultsFile); err != nil {
		return err
	}
	if err := os.WriteFile(pageFile, []byte(engines.Page(engines.Features, &results)), 0o644); err != nil {
		return err
	}
	if !m.whole {
		return nil
	}
	return took.Save(engines.DurationsFile)
}

// run builds the tests and the daemon once, and runs them on the engines.
func (m *matrix) run(ctx context.Context) error {
	dir, release, err := folder(os.TempDir())
	if err != nil {
		return err
	}
	defer release()
	if err := buildAll(ctx, dir); err != nil {
		return err
	}
	root, err := os.Getwd()
	if err != nil {
		return err
	}
	durations, err := engines.LoadDurations()
	if err != nil {
		return err
	}
	p := &plan{root: root, dir: dir, durations: durations, thorough: m.thorough}
	jobs := map[string][]*job{}
	for _, e := range m.engines {
		c := newColumn(e, m.out)
		m.columns = append(m.columns, c)
		if c.whole = m.whole && !e.Built; c.whole {
			jobs[e.Name], err = p.whole(ctx, c)
		} else {
			jobs[e.Name] = p.table(c)
		}
		if err != nil {
			return err
		}
	}
	env := []string{"CGO_ENABLED=1", "ENGINE_IMAGES=" + images, "E2E_DAEMON=" + filepath.Join(dir, "ambassadord"), "E2E_IMAGE=" + image}
	q, counts := newQueue(m.atOnce), hostCounts(jobs, m.atOnce)
	var hosts []*host
	for _, c := range m.columns {
		q.add(c.engine.Name, counts[c.engine.Name], jobs[c.engine.Name])
		for range counts[c.engine.Name] {
			h := newHost(c, q)
			h.env = env
			hosts = append(hosts, h)
		}
	}
	return runHosts(ctx, hosts, m.columns, q)
}

// runHosts runs hosts side by side, until each has ended, and tells how the columns have.
func runHosts(ctx context.Context, hosts []*host, columns []*column, q *jobQueue) error {
	errs := make([]error, len(hosts))
	var running sync.WaitGroup
	for i, h := range hosts {
		running.Go(func() { errs[i] = h.run(ctx) })
	}
	running.Wait()
	var ended []error
	for _, c := range columns {
		var of error
		for i, h := range hosts {
			if h.column == c {
				of = errors.Join(of, errs[i])
			}
		}
		ended = append(ended, c.end(ctx, of, q.undone(c.engine.Name)))
	}
	for _, c := range columns {
		c.retell()
	}
	return errors.Join(ended...)
}

// hostCounts shares out as many hosts as are busy at a time to the engines, by what each has
// to do: one at least, and no more than it has jobs.
func hostCounts(jobs map[string][]*job, atOnce int) map[string]int {
	lasts := func(jobs []*job) (sum time.Duration) {
		for _, j := range jobs {
			if !j.alone {
				sum += j.expected
			}
		}
		return sum
	}
	var all time.Duration
	for _, of := range jobs {
		all += lasts(of)
	}
	counts := map[string]int{}
	for engine, of := range jobs {
		share := 1
		if all > 0 {
			share = int(math.Ceil(float64(atOnce) * float64(lasts(of)) / float64(all)))
		}
		counts[engine] = max(1, min(share, len(of)))
	}
	return counts
}

// buildAll builds the test binaries of the table's packages, and the daemon, into dir: all at
// once, since most of it is linking, which takes one processor each.
func buildAll(ctx context.Context, dir string) error {
	var (
		building sync.WaitGroup
		mu       sync.Mutex
		errs     []error
	)
	run := func(args ...string) {
		building.Go(func() {
			command := exec.CommandContext(ctx, "go", args...)
			command.Env = append(os.Environ(), "CGO_ENABLED=1") // for -race
			command.Stdout, command.Stderr = os.Stderr, os.Stderr
			if err := command.Run(); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, fmt.Errorf("go %s: %w", strings.Join(args, " "), err))
			}
		})
	}
	for pkg, folder := range engines.Packages {
		run("test", "-c", "-race", "-tags", "integration", "-o", filepath.Join(dir, pkg+".test"), "./"+folder)
	}
	run("build", "-race", "-o", filepath.Join(dir, "ambassadord"), "./cmd/ambassadord")
	building.Wait()
	return errors.Join(errs...)
}
