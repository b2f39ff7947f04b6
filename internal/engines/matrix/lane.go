package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/ambassadord/ambassadord/internal/engines"
)

const (
	// testTimeout bounds the tests of one package on one engine: Go shows what they were at.
	testTimeout = "30m"
	// laneTimeout bounds all that runs on one engine, also when Go's own bound does not hold, and
	// once more what runs alone there. laneSilence is how long nothing may be heard of it: no test
	// is silent for a third of that.
	laneTimeout = 45 * time.Minute
	laneSilence = 10 * time.Minute
	// endPatience is how long an engine may take to end.
	endPatience = time.Minute

	// The script's own lines begin so.
	versionLine = "engine-version:"
	aloneLine   = "engine-alone:"
)

// engineLane is a run on one engine.
type engineLane struct {
	engine  engines.Engine
	machine bool // it is the machine's own
	first   bool // it has run before any other begins
	parts   []packageRun
	results *engines.EngineResults
	out     *printer

	timeout, silence time.Duration
	bound, heard     *time.Timer // end it after timeout and silence; neither goes on while it waits to be alone

	output map[string]*strings.Builder // by package and test function, while it runs
	failed []failure

	waits func()        // it waits to be alone, or has ended
	alone chan struct{} // closed when it is
	ended chan struct{} // closed when run has returned
}

// failure is a test, or a package, that has failed, and what it said.
type failure struct{ line, text string }

func newLane(e engines.Engine, out *printer) *engineLane {
	return &engineLane{engine: e, out: out, timeout: laneTimeout, silence: laneSilence, results: &engines.EngineResults{Tests: map[string]string{}},
		output: map[string]*strings.Builder{}, alone: make(chan struct{}), ended: make(chan struct{})}
}

// run runs the tests and demands that all of them have passed.
func (l *engineLane) run(ctx context.Context) error {
	began := time.Now()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	l.bound = time.AfterFunc(l.timeout, func() { cancel(fmt.Errorf("it was ended after %s", l.timeout)) })
	defer l.bound.Stop()
	l.heard = time.AfterFunc(l.silence, func() { cancel(fmt.Errorf("it was ended after %s of silence", l.silence)) })
	defer l.heard.Stop()
	args := []string{"sh", "-c", script(l.parts)}
	if !l.machine {
		args = append([]string{"scripts/engine", l.engine.Name}, args...)
	}
	err := l.command(ctx, args)
	// What did not end has no result: a test that a timeout or a crash cut short tells why.
	for name, text := range l.output {
		l.fails("unfinished "+strings.TrimPrefix(name, module+"/"), text.String())
	}
	if ctx.Err() != nil {
		err = errors.Join(context.Cause(ctx), err)
	}
	var names []string
	for _, f := range l.failed {
		names = append(names, f.line)
	}
	if len(names) > 0 {
		err = errors.Join(err, errors.New(strings.Join(names, "\n")))
	}
	err = errors.Join(err, l.check())
	if err != nil {
		return fmt.Errorf("engine %s, %s: %w", l.engine.Name, l.results.Version, err)
	}
	l.print(fmt.Sprintf("ok, %d tests of the table, of %s, in %s", len(l.results.Tests), l.results.Version, time.Since(began).Round(time.Second)), "")
	return nil
}

// command runs args, and tells it when it is alone.
func (l *engineLane) command(ctx context.Context, args []string) error {
	command := exec.CommandContext(ctx, args[0], args[1:]...)
	command.Env = append(os.Environ(), "CGO_ENABLED=1", "ENGINE_IMAGES="+images)
	command.Stderr = os.Stderr
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	command.Cancel = func() error { return command.Process.Signal(syscall.SIGTERM) } // it cleans up
	if l.machine {
		command.Cancel = func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGTERM) }
	}
	command.WaitDelay = endPatience
	stdin, err := command.StdinPipe()
	if err != nil {
		return err
	}
	stream, err := command.StdoutPipe()
	if err != nil {
		return err
	}
	if err := command.Start(); err != nil {
		return err
	}
	going := make(chan struct{})
	var telling sync.WaitGroup
	telling.Go(func() {
		select {
		case <-l.alone:
			l.bound.Reset(l.timeout)
			l.heard.Reset(l.silence)
			_, _ = io.WriteString(stdin, "\n") // unless it has ended
		case <-going:
		}
	})
	readErr := engines.ReadEvents(stream, l.event, l.other)
	close(going)
	telling.Wait()
	return errors.Join(readErr, command.Wait())
}

// check says which tests of the table have not passed. The machine's own engine may be none of
// the table's.
func (l *engineLane) check() error {
	if l.machine && !strings.HasPrefix(l.results.Version, l.engine.Release) {
		l.print(fmt.Sprintf("the machine's engine is %q: the column %s of %s is not looked at", l.results.Version, l.engine.Title, pageFile), "")
		return nil
	}
	all := engines.Results{Engines: map[string]*engines.EngineResults{l.engine.Name: l.results}}
	if err := all.CheckOn(engines.Features, l.engine); err != nil {
		return fmt.Errorf("%s says that it works:\n%w", pageFile, err)
	}
	return nil
}

// event takes what test2json, or go test -json, says.
func (l *engineLane) event(e engines.Event) {
	l.heard.Reset(l.silence)
	function, _, sub := strings.Cut(e.Test, "/")
	key := e.Package
	if function != "" {
		key += "." + function
	}
	switch e.Action {
	case "run", "start":
		if !sub {
			l.output[key] = &strings.Builder{}
		}
	case "output":
		if text := l.output[key]; text != nil {
			text.WriteString(e.Output)
		}
	case "build-output":
		l.print("build: "+strings.TrimSuffix(e.Output, "\n"), "")
	case engines.Passed, engines.Failed, engines.Skipped:
		if l.wanted(e.Name()) {
			l.results.Tests[e.Name()] = e.Action
		}
		if !sub {
			l.finish(strings.TrimPrefix(key, module+"/"), key, e)
		}
	}
}

// finish tells of a test function, or a package, that has ended.
func (l *engineLane) finish(name, key string, e engines.Event) {
	line := fmt.Sprintf("%s %s (%.1f s)", e.Action, name, e.Elapsed)
	text := ""
	if b := l.output[key]; b != nil {
		text = b.String()
		delete(l.output, key)
	}
	switch {
	case e.Action == engines.Failed:
		l.fails(line, text)
	case e.Action == engines.Skipped && e.Test != "":
		l.print(line, text)
	case e.Test == "" && e.Action != engines.Failed:
		l.out.print(summary(text), "")
	case l.out.verbose:
		l.print(line, "")
	}
}

// summary is Go's own of a package, which it says last.
func summary(text string) string {
	text = strings.TrimSuffix(text, "\n")
	return text[strings.LastIndex(text, "\n")+1:]
}

// wanted reports whether a row of the table wants to know of the test.
func (l *engineLane) wanted(name string) bool {
	_, found := slices.BinarySearch(engines.Wanted(engines.Features, l.engine.Name), name)
	return found
}

// other takes a line that is none of test2json's.
func (l *engineLane) other(line string) {
	if strings.HasPrefix(line, aloneLine) {
		l.bound.Stop()
		l.heard.Stop()
		l.waits()
		return
	}
	l.heard.Reset(l.silence)
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

// fails tells of a failure, now and at the end.
func (l *engineLane) fails(line, text string) {
	l.print(line, text)
	l.failed = append(l.failed, failure{line, text})
}

// retell tells the failures once more, without the logs of daemons: one that is early in half
// an hour of output is otherwise lost.
func (l *engineLane) retell() {
	for _, f := range l.failed {
		var kept []string
		for text := range strings.Lines(f.text) {
			if text = strings.TrimRight(text, "\n"); !strings.HasPrefix(strings.TrimSpace(text), `{"time"`) && len(kept) < maxRetold {
				kept = append(kept, fmt.Sprintf("%.400s", text))
			}
		}
		l.print("once more: "+f.line, strings.Join(kept, "\n"))
	}
}

// maxRetold bounds the lines of one failure that are told again.
const maxRetold = 60

func (l *engineLane) print(line, text string) {
	name := l.engine.Name
	if l.machine {
		name = "of the machine"
	}
	l.out.print("engine "+name+": "+line, text)
}

// printer prints for all lanes, what belongs together in one piece.
type printer struct {
	mu      sync.Mutex
	stdout  io.Writer
	verbose bool
}

func (p *printer) print(line, text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintln(p.stdout, line)
	if text = strings.TrimSuffix(text, "\n"); text != "" {
		fmt.Fprintln(p.stdout, text)
	}
}
