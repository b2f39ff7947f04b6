// Command matrix runs the tests that depend on the engine on every engine, each in
// namespaces of its own and side by side, and fails if one of them does.
//
//	go run ./internal/engines/matrix [-update] [-v] [-engines NAME,…]
//	go run ./internal/engines/matrix -all [-update] [-v]
//
// With -update it writes what came of them to docs/engines.json and docs/engines.md.
//
// With -all, which make test says, the machine's own engine is one of them, and every test
// of the repository runs there. That comes first, with nothing beside it:
// from the machine the namespaces of the other engines can be seen, and rules be removed there.
//
// The tests of [engines.Alone] come last, when all others have ended, one engine after the other.
//
// An engine that hangs is ended after a bound. Whatever becomes of one, the others run on,
// and what failed is told at the end once more.
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
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/ambassadord/ambassadord/internal/engines"
)

const (
	module      = "github.com/ambassadord/ambassadord"
	resultsFile = "docs/engines.json"
	pageFile    = "docs/engines.md"

	// images are what the tests need of the machine's engine: the network of an engine of
	// one's own leads nowhere.
	images = "ambassadord-base:local ambassadord-test/busybox"
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
	all := flags.Bool("all", false, "run every test on the machine's engine, and those of the table on the engines that are built")
	verbose := flags.Bool("v", false, "tell of tests that pass, too")
	only := flags.String("engines", "", "the engines to run on, by scripts/engine's names (default all)")
	if err := flags.Parse(args); err != nil {
		return err
	}
	chosen, err := choose(*only)
	if err != nil {
		return err
	}
	results := &engines.Results{Engines: map[string]*engines.EngineResults{}}
	out := &printer{stdout: stdout, verbose: *verbose}
	if err := runAll(ctx, chosen, *all, out, results); err != nil {
		return err
	}
	if !*update {
		return nil
	}
	if len(chosen) < len(engines.Engines) {
		return errors.New("-update wants all engines")
	}
	for _, e := range chosen {
		if version := results.Engines[e.Name].Version; !e.Built && !strings.HasPrefix(version, e.Release) {
			return fmt.Errorf("%s stays as it is: the machine's engine is %q, and a column is for %s", pageFile, version, e.Release)
		}
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

// runAll builds the tests once and runs them on the engines. With whole, every test of the repository runs on the machine's engine, in the
// place of the engines that are not built.
func runAll(ctx context.Context, chosen []engines.Engine, whole bool, out *printer, results *engines.Results) error {
	dir, err := os.MkdirTemp("", "matrix")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := buildTests(ctx, dir); err != nil {
		return err
	}
	root, err := os.Getwd()
	if err != nil {
		return err
	}
	var lanes []*engineLane
	for _, e := range chosen {
		l := newLane(e, out)
		l.parts = tableParts(root, dir, e)
		if whole && !e.Built {
			l.machine, l.first = true, true
			if l.parts, err = wholeParts(ctx, root); err != nil {
				return err
			}
		}
		results.Engines[e.Name] = l.results
		lanes = append(lanes, l)
	}
	return runLanes(ctx, lanes)
}

// runLanes runs those lanes that come first, and then the others side by side until each has
// ended, or waits to be alone. Then those that wait run on one after the other.
func runLanes(ctx context.Context, lanes []*engineLane) error {
	errs := make([]error, len(lanes))
	var beside, ended sync.WaitGroup
	for i, l := range lanes {
		if l.first {
			close(l.alone)
			errs[i] = l.run(ctx)
			close(l.ended)
		}
	}
	for i, l := range lanes {
		if l.first {
			continue
		}
		beside.Add(1)
		l.waits = sync.OnceFunc(beside.Done)
		ended.Go(func() {
			errs[i] = l.run(ctx)
			l.waits() // which it may never have come to
			close(l.ended)
		})
	}
	beside.Wait()
	for _, l := range lanes {
		if !l.first {
			close(l.alone)
			<-l.ended
		}
	}
	ended.Wait()
	for _, l := range lanes {
		l.retell()
	}
	return errors.Join(errs...)
}

// buildTests builds the test binaries of the table's packages into dir.
func buildTests(ctx context.Context, dir string) error {
	for pkg, folder := range engines.Packages {
		build := exec.CommandContext(ctx, "go", "test", "-c", "-race", "-tags", "integration", "-o", filepath.Join(dir, pkg+".test"), "./"+folder)
		build.Env = append(os.Environ(), "CGO_ENABLED=1") // for -race
		build.Stdout, build.Stderr = os.Stderr, os.Stderr
		if err := build.Run(); err != nil {
			return fmt.Errorf("build the tests of %s: %w", folder, err)
		}
	}
	return nil
}

// packageRun is what a lane runs of one package, or several, with test2json's events on its
// standard output.
type packageRun struct {
	folder string
	args   []string
	alone  bool
}

// wholeParts are all tests of the repository in root.
func wholeParts(ctx context.Context, root string) ([]packageRun, error) {
	list := exec.CommandContext(ctx, "go", "list", "-tags", "integration", "./...")
	list.Dir, list.Stderr = root, os.Stderr
	out, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("list the packages: %w", err)
	}
	var together, apart []string
	for pkg := range strings.FieldsSeq(string(out)) {
		if slices.Contains(engines.Apart, strings.TrimPrefix(pkg, module+"/")) {
			apart = append(apart, pkg)
		} else {
			together = append(together, pkg)
		}
	}
	if len(apart) != len(engines.Apart) {
		return nil, fmt.Errorf("of the packages %v there are only %v", engines.Apart, apart)
	}
	test := func(atOnce string, packages []string) packageRun {
		// make check has had vet look at all of it.
		args := []string{"go", "test", "-json", "-vet=off", "-race", "-tags", "integration", "-count=1", "-timeout=" + testTimeout, "-p", atOnce}
		return packageRun{folder: root, args: append(args, packages...)}
	}
	return []packageRun{test("1", together), test("2", apart)}, nil
}

// tableParts are the tests of the table, of the repository in root, on an engine; their
// binaries are in dir.
func tableParts(root, dir string, e engines.Engine) []packageRun {
	var parts []packageRun
	for _, alone := range []bool{false, true} {
		for _, r := range engines.Runs(engines.Features, e.Name, func(test string) bool { return engines.IsAlone(test) == alone }) {
			args := []string{"go", "tool", "test2json", "-t", "-p", module + "/" + r.Folder, filepath.Join(dir, packageIn(r.Folder)+".test"),
				"-test.v=test2json", "-test.count=1", "-test.timeout=" + testTimeout, "-test.run=" + r.Run}
			if r.Skip != "" {
				args = append(args, "-test.skip="+r.Skip)
			}
			parts = append(parts, packageRun{folder: filepath.Join(root, r.Folder), args: args, alone: alone})
		}
	}
	return parts
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

// script is what a shell runs: all parts, and it fails if one does. Before those that run alone,
// which are the last, it says so, and waits for a line on its standard input.
func script(parts []packageRun) string {
	var b strings.Builder
	b.WriteString("docker version -f '" + versionLine + " {{.Server.Version}}'\nstatus=0\n")
	waited := false
	for _, p := range parts {
		if p.alone && !waited {
			b.WriteString("echo '" + aloneLine + "'\nread -r _ || exit 1\n")
			waited = true
		}
		words := make([]string, len(p.args))
		for i, a := range p.args {
			words[i] = quote(a)
		}
		// Only the shell reads the line.
		fmt.Fprintf(&b, "cd %s && %s </dev/null || status=1\n", quote(p.folder), strings.Join(words, " "))
	}
	return b.String() + "exit $status\n"
}

// quote makes one word of text for the shell.
func quote(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }
