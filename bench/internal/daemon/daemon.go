// Package daemon starts the ambassadord that is measured, and waits for what its log
// says. The log is a file, as it would be for a daemon in use: nobody but the kernel
// works on it meanwhile.
package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/ambassadord/ambassadord/bench/internal/procstat"
)

// Daemon is one that runs.
type Daemon struct {
	cmd   *exec.Cmd
	log   string
	ended chan struct{} // closed when the process has
	err   error         // its Wait's, valid after ended
	began time.Time
}

// Start runs binary with args and writes its log into dir.
func Start(binary, dir string, args ...string) (*Daemon, error) {
	log, err := os.CreateTemp(dir, "ambassadord-*.log")
	if err != nil {
		return nil, err
	}
	defer log.Close()
	path, err := filepath.Abs(binary)
	if err != nil {
		return nil, err
	}
	d := &Daemon{cmd: exec.Command(path, args...), log: log.Name(), ended: make(chan struct{}), began: time.Now()} //nolint:noctx // Stop ends it, with the time that takes
	d.cmd.Stderr = log
	if err := d.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the daemon: %w", err)
	}
	go d.wait()
	return d, nil
}

func (d *Daemon) wait() {
	d.err = d.cmd.Wait()
	close(d.ended)
}

// Logged waits until n lines of the log contain text, and returns how long after the
// start that was.
func (d *Daemon) Logged(ctx context.Context, text string, n int) (time.Duration, error) {
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	for {
		content, err := os.ReadFile(d.log)
		if err != nil {
			return 0, err
		}
		have := bytes.Count(content, []byte(text))
		if have >= n {
			return time.Since(d.began), nil
		}
		select {
		case <-ticker.C:
		case <-d.ended:
			return 0, fmt.Errorf("the daemon has ended (%w); its log:\n%s", errors.Join(errors.New("too early"), d.err), content)
		case <-ctx.Done():
			return 0, fmt.Errorf("the daemon logged %q %d of %d times: %w", text, have, n, ctx.Err())
		}
	}
}

// Ready waits until the daemon serves, and returns how long after the start that was.
func (d *Daemon) Ready(ctx context.Context) (time.Duration, error) {
	return d.Logged(ctx, " msg=ready ", 1)
}

// Attached waits until the daemon serves n containers of modes redirect or listen, and
// returns how long after the start that was.
func (d *Daemon) Attached(ctx context.Context, n int) (time.Duration, error) {
	return d.Logged(ctx, " msg=attached ", n)
}

// PID is the process's.
func (d *Daemon) PID() int { return d.cmd.Process.Pid }

// CPUTime is what the daemon and the processes it started have used.
func (d *Daemon) CPUTime() (time.Duration, error) { return procstat.TreeCPU(d.PID()) }

// Stop ends the daemon, which removes its rules, and waits for that.
func (d *Daemon) Stop() error { return d.StopBy(d.PID()) }

// StopBy is Stop for a daemon that a program which was started in its place runs: pid is the
// daemon's, and the program ends with it.
func (d *Daemon) StopBy(pid int) error {
	_ = syscall.Kill(pid, syscall.SIGTERM)
	select {
	case <-d.ended:
	case <-time.After(time.Minute):
		_ = d.cmd.Process.Kill()
		<-d.ended
		return errors.New("the daemon did not stop within a minute; ambassadord rules remove cleans up")
	}
	if d.err != nil {
		return fmt.Errorf("the daemon: %w", d.err)
	}
	return nil
}

// RSS is the resident memory of the daemon and the processes it started, in KiB.
func (d *Daemon) RSS() (int, error) {
	u, err := procstat.TreeUsage(d.PID())
	return int(u.RSS >> 10), err
}
