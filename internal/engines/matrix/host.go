package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/ambassadord/ambassadord/internal/engines"
)

const (
	// testTimeout bounds the tests of one job: Go shows what they were at.
	testTimeout = "20m"
	// jobTimeout bounds a job also when Go's own bound does not hold. hostSilence is how long
	// nothing may be heard of one that works, or starts: no test is silent for a third of that.
	jobTimeout  = 25 * time.Minute
	hostSilence = 10 * time.Minute
	// endPatience is how long a host may take to end.
	endPatience = time.Minute

	// The script's own lines begin so.
	versionLine = "engine-version:"
	doneLine    = "engine-done:"
)

// script is what runs on a host: it evaluates each line of its standard input, and says how
// that has ended.
const script = `docker version -f '` + versionLine + ` {{.Server.Version}}'
while read -r line; do
	(eval "$line") </dev/null
	echo "` + doneLine + ` $?"
done
`

// host is a host of its own beside an engine, which does one job after the other.
type host struct {
	column *column
	queue  *jobQueue
	// start is the command that runs script on it.
	start []string
	env   []string

	timeout, silence time.Duration
	bound, heard     *time.Timer // end it after timeout and silence, while it has something to do

	idle    chan struct{} // has an element when it waits for a job
	current atomic.Pointer[job]

	// The reader of its output has these alone.
	fails  int                         // how many failures the current job has told of
	output map[string]*strings.Builder // by package and test function, while it runs
}

func newHost(c *column, q *jobQueue) *host {
	return &host{column: c, queue: q, start: []string{"scripts/engine", c.engine.Name, "sh", "-c", script},
		timeout: jobTimeout, silence: hostSilence, idle: make(chan struct{}, 1), output: map[string]*strings.Builder{}}
}

// run does jobs until there are no more.
func (h *host) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	h.bound = time.AfterFunc(h.timeout, func() { cancel(fmt.Errorf("it was ended after %s", h.timeout)) })
	defer h.bound.Stop()
	h.heard = time.AfterFunc(h.silence, func() { cancel(fmt.Errorf("it was ended after %s of silence", h.silence)) })
	defer h.heard.Stop()
	err := h.command(ctx)
	if j := h.current.Load(); j != nil { // which it has not ended
		h.unfinished()
		h.column.fails("unfinished: "+j.name, "")
		h.queue.ended()
	}
	if ctx.Err() != nil {
		err = errors.Join(context.Cause(ctx), err)
	}
	return err
}

// command runs the host, and gives it jobs.
func (h *host) command(ctx context.Context) error {
	command := exec.CommandContext(ctx, h.start[0], h.start[1:]...)
	command.Env = append(os.Environ(), h.env...)
	command.Stderr = os.Stderr
	// It cleans up when this process is killed, too. The signal comes when the thread ends, and
	// that is this goroutine's alone.
	runtime.LockOSThread()
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	command.Cancel = func() error { return command.Process.Signal(syscall.SIGTERM) } // it cleans up
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
		h.queue.lost(h.column.engine.Name)
		return err
	}
	gone, fed := make(chan struct{}), make(chan struct{})
	go func() { defer close(fed); h.feed(ctx, stdin, gone) }()
	readErr := engines.ReadEvents(stream, h.event, h.other)
	close(gone)
	<-fed
	return errors.Join(readErr, command.Wait())
}

// feed gives it a job each time when it is idle, and ends its input when there is none.
func (h *host) feed(ctx context.Context, stdin io.WriteCloser, gone chan struct{}) {
	defer stdin.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-gone:
			cancel()
		case <-ctx.Done():
		}
	}()
	for {
		select {
		case <-gone:
			h.queue.lost(h.column.engine.Name)
			return
		case <-h.idle:
			j := h.queue.next(ctx, h.column.engine.Name)
			if j == nil {
				return
			}
			h.current.Store(j)
			h.bound.Reset(h.timeout)
			h.heard.Reset(h.silence)
			_, _ = io.WriteString(stdin, j.line()) // unless it has ended, which is seen
		}
	}
}

// line is what a shell evaluates to do the job.
func (j *job) line() string {
	words := make([]string, len(j.args))
	for i, a := range j.args {
		words[i] = quote(a)
	}
	return "cd " + quote(j.folder) + " && " + strings.Join(words, " ") + "\n"
}

// quote makes one word of text for the shell.
func quote(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// done takes what the current job has left.
func (h *host) done(status string) {
	h.unfinished()
	if status != "0" && h.fails == 0 {
		h.column.fails(fmt.Sprintf("%s: exit status %s", h.current.Load().name, status), "")
	}
	h.fails = 0
	h.current.Store(nil)
	h.queue.ended()
}

// unfinished tells of what has no result: a test that a timeout or a crash cut short tells why.
func (h *host) unfinished() {
	for name, text := range h.output {
		h.fail("unfinished "+strings.TrimPrefix(name, module+"/"), text.String())
	}
	clear(h.output)
}

func (h *host) fail(line, text string) {
	h.fails++
	h.column.fails(line, text)
}

// event takes what test2json, or go test -json, says.
func (h *host) event(e engines.Event) {
	h.heard.Reset(h.silence)
	function, _, sub := strings.Cut(e.Test, "/")
	key := e.Package
	if function != "" {
		key += "." + function
	}
	switch e.Action {
	case "run", "start":
		if !sub {
			h.output[key] = &strings.Builder{}
		}
	case "output":
		if text := h.output[key]; text != nil {
			text.WriteString(e.Output)
		}
	case "build-output":
		h.column.print("build: "+strings.TrimSuffix(e.Output, "\n"), "")
	case engines.Passed, engines.Failed, engines.Skipped:
		h.column.result(e)
		if !sub {
			h.finish(strings.TrimPrefix(key, module+"/"), key, e)
		}
	}
}

// finish tells of a test function, or a package's part, that has ended.
func (h *host) finish(name, key string, e engines.Event) {
	line := fmt.Sprintf("%s %s (%.1f s)", e.Action, name, e.Elapsed)
	text := ""
	if b := h.output[key]; b != nil {
		text = b.String()
		delete(h.output, key)
	}
	if e.Test == "" {
		h.column.part(e, text)
		if e.Action == engines.Failed && h.fails == 0 { // what has failed is none of its tests
			h.fail(line, text)
		}
		return
	}
	switch {
	case e.Action == engines.Failed:
		h.fail(line, text)
	case e.Action == engines.Skipped:
		h.column.print(line, text)
	case h.column.out.verbose:
		h.column.print(line, "")
	}
}

// other takes a line that is none of test2json's.
func (h *host) other(line string) {
	h.heard.Reset(h.silence)
	if version, ok := strings.CutPrefix(line, versionLine); ok {
		h.column.version(strings.TrimSpace(version))
		h.rest()
		return
	}
	if status, ok := strings.CutPrefix(line, doneLine); ok {
		h.done(strings.TrimSpace(status))
		h.rest()
		return
	}
	h.column.print(line, "")
}

// rest waits for a job, for as long as it takes.
func (h *host) rest() {
	h.bound.Stop()
	h.heard.Stop()
	h.idle <- struct{}{}
}
