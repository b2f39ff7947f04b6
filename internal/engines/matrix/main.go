// Command matrix runs the tests that depend on the engine on every engine, each in
// namespaces of its own and all side by side, and fails if one of them does.
//
//	go run ./internal/engines/matrix [-update] [-v] [-engines NAME,…]
//	go run ./internal/engines/matrix -elsewhere
//
// With -update it writes what came of them to docs/engines.json and docs/engines.md.
// With -elsewhere it runs nothing, and prints a regular expression for go test's flag
// -skip: the tests that need not run on the machine's own engine any more.
//
// It is to be run in the repository's root, by root, after scripts/setup and make image.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
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

	// images are what the tests need of the machine's engine: the network of an engine of
	// one's own leads nowhere.
	images = "ambassadord-base:local ambassadord-test/busybox"

	// testTimeout bounds the tests of one package on one engine.
	testTimeout = "40m"
	// endPatience is how long an engine may take to end.
	endPatience = time.Minute
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
	elsewhere := flags.Bool("elsewhere", false, "print which tests run on every engine, and run nothing")
	verbose := flags.Bool("v", false, "tell of tests that pass, too")
	only := flags.String("engines", "", "the engines to run on, by scripts/engine's names (default all)")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *elsewhere {
		_, err := fmt.Fprintln(stdout, engines.Elsewhere(engines.Features))
		return err
	}
	chosen, err := choose(*only)
	if err != nil {
		return err
	}
	results := &engines.Results{Engines: map[string]*engines.EngineResults{}}
	if err := runAll(ctx, chosen, *verbose, stdout, results); err != nil {
		return err
	}
	if !*update {
		return nil
	}
	if len(chosen) < len(engines.Engines) {
		return errors.New("-update wants all engines")
	}
	if err := results.Save(resultsFile); err != nil {
		return err
	}
	return os.WriteFile(pageFile, []byte(engines.Page(engines.Features, results)), 0o644)
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

// runAll builds the tests once and runs them on the engines, side by side.
func runAll(ctx context.Context, chosen []engines.Engine, verbose bool, stdout io.Writer, results *engines.Results) error {
	dir, err := os.MkdirTemp("", "matrix")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for pkg, folder := range engines.Packages {
		build := exec.CommandContext(ctx, "go", "test", "-c", "-race", "-tags", "integration", "-o", filepath.Join(dir, pkg+".test"), "./"+folder)
		build.Env = append(os.Environ(), "CGO_ENABLED=1") // for -race
		build.Stdout, build.Stderr = os.Stderr, os.Stderr
		if err := build.Run(); err != nil {
			return fmt.Errorf("build the tests of %s: %w", folder, err)
		}
	}
	lanes := make([]*lane, len(chosen))
	errs := make([]error, len(chosen))
	var printing sync.Mutex
	var running sync.WaitGroup
	for i, e := range chosen {
		lanes[i] = &lane{engine: e, binaries: dir, printing: &printing, stdout: stdout, verbose: verbose,
			results: &engines.EngineResults{Tests: map[string]string{}}, output: map[string]*strings.Builder{}}
		results.Engines[e.Name] = lanes[i].results
		running.Go(func() { errs[i] = lanes[i].run(ctx) })
	}
	running.Wait()
	return errors.Join(errs...)
}

// lane is a run on one engine.
type lane struct {
	engine   engines.Engine
	binaries string // the folder of the tests
	results  *engines.EngineResults
	output   map[string]*strings.Builder // by test, while it runs

	printing *sync.Mutex // one test's output at a time
	stdout   io.Writer
	verbose  bool
}

// run runs the tests and demands that all of them have passed.
func (l *lane) run(ctx context.Context) error {
	began := time.Now()
	command := exec.CommandContext(ctx, "scripts/engine", l.engine.Name, "sh", "-c", l.script())
	command.Env = append(os.Environ(), "ENGINE_IMAGES="+images)
	command.Stderr = os.Stderr
	command.Cancel = func() error { return command.Process.Signal(syscall.SIGTERM) } // it cleans up
	command.WaitDelay = endPatience
	stream, err := command.StdoutPipe()
	if err != nil {
		return err
	}
	if err := command.Start(); err != nil {
		return err
	}
	readErr := engines.ReadEvents(stream, l.event, l.other)
	err = errors.Join(readErr, command.Wait())
	// What did not end has no result: a test that a timeout or a crash cut short tells why.
	for name, text := range l.output {
		l.print("unfinished "+name, text.String())
	}
	all := engines.Results{Engines: map[string]*engines.EngineResults{l.engine.Name: l.results}}
	err = errors.Join(err, all.CheckOn(engines.Features, l.engine))
	if err != nil {
		return fmt.Errorf("engine %s, %s: %w", l.engine.Name, l.results.Version, err)
	}
	l.print(fmt.Sprintf("ok, %d tests of %s in %s", len(l.results.Tests), l.results.Version, time.Since(began).Round(time.Second)), "")
	return nil
}

// script is what the shell beside the engine runs: all packages, and it fails if one does.
func (l *lane) script() string {
	var b strings.Builder
	root, err := os.Getwd()
	if err != nil {
		root = "."
	}
	b.WriteString("docker version -f '" + versionLine + " {{.Server.Version}}'\nstatus=0\n")
	for _, r := range engines.Runs(engines.Features, l.engine.Name) {
		arguments := []string{"go", "tool", "test2json", "-t", "-p", module + "/" + r.Folder, l.binary(r.Folder),
			"-test.v=test2json", "-test.count=1", "-test.timeout=" + testTimeout, "-test.run=" + r.Run}
		if r.Skip != "" {
			arguments = append(arguments, "-test.skip="+r.Skip)
		}
		for i, a := range arguments {
			arguments[i] = quote(a)
		}
		fmt.Fprintf(&b, "cd %s && %s || status=1\n", quote(filepath.Join(root, r.Folder)), strings.Join(arguments, " "))
	}
	return b.String() + "exit $status\n"
}

// binary is the test binary of the package in folder.
func (l *lane) binary(folder string) string {
	for pkg, f := range engines.Packages {
		if f == folder {
			return filepath.Join(l.binaries, pkg+".test")
		}
	}
	return ""
}

// quote makes one word of text for the shell.
func quote(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// event takes what test2json says of a test.
func (l *lane) event(e engines.Event) {
	if e.Test == "" {
		return // of the package: its tests say it all
	}
	name := e.Name()
	root, _, _ := strings.Cut(name, "/")
	switch e.Action {
	case "run":
		if name == root {
			l.output[root] = &strings.Builder{}
		}
	case "output":
		if text := l.output[root]; text != nil {
			text.WriteString(e.Output)
		}
	case engines.Passed, engines.Failed, engines.Skipped:
		if l.wanted(name) {
			l.results.Tests[name] = e.Action
		}
		if name != root {
			return
		}
		l.ended(name, e)
	}
}

// ended tells of a test function that has ended.
func (l *lane) ended(name string, e engines.Event) {
	line := fmt.Sprintf("%s %s (%.1f s)", e.Action, name, e.Elapsed)
	switch text := l.output[name]; {
	case text != nil && e.Action != engines.Passed:
		l.print(line, text.String())
	case l.verbose:
		l.print(line, "")
	}
	delete(l.output, name)
}

// wanted reports whether a row of the table wants to know of the test.
func (l *lane) wanted(name string) bool {
	_, found := slices.BinarySearch(engines.Wanted(engines.Features, l.engine.Name), name)
	return found
}

// versionLine begins the line that says what the engine is.
const versionLine = "engine-version:"

// other takes a line that is none of test2json's.
func (l *lane) other(line string) {
	version, ok := strings.CutPrefix(line, versionLine)
	if !ok {
		l.print(line, "")
		return
	}
	l.results.Version = strings.TrimSpace(version)
	// One that is built from its module does not know its version.
	if l.engine.Built {
		pinned, err := engines.Pinned(".")
		if err != nil {
			l.print(err.Error(), "")
		}
		l.results.Version = pinned
	}
}

// indented is what is put before each line of a test's output.
var indented = regexp.MustCompile(`(?m)^`)

func (l *lane) print(line, text string) {
	l.printing.Lock()
	defer l.printing.Unlock()
	fmt.Fprintf(l.stdout, "engine %s: %s\n", l.engine.Name, line)
	if text = strings.TrimSuffix(text, "\n"); text != "" {
		fmt.Fprintln(l.stdout, indented.ReplaceAllString(text, "    "))
	}
}
