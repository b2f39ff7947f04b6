// The drivers command finds out what applications notice of what happens to their backends and
// to the daemon. Clients of thirteen drivers, each with ten pooled connections, are asked for
// twenty requests after each event, through ambassadord, without anything in between, and, for a
// backend that hangs, through HAProxy with on-marked-down shutdown-sessions. It prints a table,
// or writes docs/drivers.md. It needs root; make drivers installs what it takes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// idleFor is how long a client's connections are idle at least, with the event in that time.
const idleFor = 2 * time.Second

func main() {
	if len(os.Args) == 3 && os.Args[1] == "backend" { // ourselves, as an HTTP server
		fmt.Fprintln(os.Stderr, serveHTTP(os.Args[2]))
		os.Exit(1)
	}
	runtime.LockOSThread() // what this thread starts ends with it (prctl(2), PR_SET_PDEATHSIG)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "drivers:", err)
		os.Exit(1)
	}
}

// driverBench is what a run needs.
type driverBench struct {
	dir     string
	daemon  string // the program
	goDir   string // where goworker is
	workers string // where the other workers are
	verbose bool
}

func run(ctx context.Context) error {
	b := &driverBench{}
	only := flag.String("only", "", "these drivers alone, by name, separated by commas")
	update := flag.String("update", "", "write this page, docs/drivers.md, instead of printing its table")
	flag.StringVar(&b.daemon, "daemon", "bin/ambassadord", "the daemon")
	flag.StringVar(&b.goDir, "bin", "bin", "where goworker is")
	flag.StringVar(&b.workers, "workers", "bench/drivers", "where the workers in other languages are")
	flag.BoolVar(&b.verbose, "v", false, "say what each driver said")
	flag.Parse()
	if flag.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flag.Arg(0))
	}
	var err error
	if b.dir, err = os.MkdirTemp("", "drivers"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if err := os.Chmod(b.dir, 0o755); err != nil { //nolint:gosec // PostgreSQL has another user
		return err
	}
	var r driverReport
	var failed []error
	for _, d := range drivers {
		if *only != "" && !slices.Contains(strings.Split(*only, ","), d.name) {
			continue
		}
		if why := d.missing(b); why != "" {
			r.missing = append(r.missing, fmt.Sprintf("%s: %s", d.name, why))
			continue
		}
		row := row{driver: d.name, version: d.versionOf(ctx, b)}
		for _, e := range events {
			results, err := b.measure(ctx, d, e)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				failed = append(failed, fmt.Errorf("%s, %s: %w", d.name, e.name, err))
			}
			row.cells = append(row.cells, results)
		}
		r.rows = append(r.rows, row)
		fmt.Fprintln(os.Stderr, row.text())
	}
	text := r.table()
	if *update == "" {
		fmt.Print(text)
	} else if len(failed) == 0 {
		failed = append(failed, write(*update, text))
	}
	return errors.Join(failed...)
}

// measure makes an event happen, on each of its paths, with a fresh client, and says what that
// noticed.
func (b *driverBench) measure(ctx context.Context, d driver, e event) (cell, error) {
	c := cell{}
	for _, p := range e.paths {
		o, err := b.once(ctx, d, e, p)
		if err != nil {
			return c, fmt.Errorf("%s: %w", p, err)
		}
		if b.verbose && o.Error != "" {
			fmt.Fprintf(os.Stderr, "%s, %s, %s: %s\n", d.name, e.name, p, o.Error)
		}
		c[p] = o
	}
	return c, nil
}

// once is one client and one event on one path.
func (b *driverBench) once(ctx context.Context, d driver, e event, p proxyKind) (o requestCounts, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	w, err := b.newWorld(ctx, d, e, p)
	if err != nil {
		return o, err
	}
	defer w.stop()
	if warm, err := w.client.round("warm"); err != nil || warm.Failed > 0 {
		return o, fmt.Errorf("before it, %d requests failed: %s %w", warm.Failed, warm.Error, err)
	}
	if first, err := w.client.round("use"); err != nil || first.Failed > 0 {
		return o, fmt.Errorf("before it, %d requests failed: %s %w", first.Failed, first.Error, err)
	}
	began := time.Now()
	if err := e.happen(ctx, w); err != nil {
		return o, err
	}
	time.Sleep(idleFor - time.Since(began)) // many drivers look at connections that were idle for a while before they use them
	return w.client.round("use")
}
