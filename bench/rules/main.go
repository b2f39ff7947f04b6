// Command rules measures a daemon that serves many containers while nothing happens: how
// long after its start it is ready and attached to all of them, and from then on its CPU
// and its memory.
//
//	go run ./bench/rules
//	go run ./bench/rules -n 500 -execs -daemon bin/ambassadord
//
// It needs root, a Docker engine, and for -execs strace. The containers have no network
// but their loopback, because an engine starts these fastest; for the rules it makes no
// difference.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/ambassadord/ambassadord/bench/internal/daemon"
	"github.com/ambassadord/ambassadord/bench/internal/engine"
)

// image holds a program that waits.
const image = "ambassadord-bench/load"

func main() {
	var b bench
	flag.IntVar(&b.n, "n", 200, "how many containers")
	flag.StringVar(&b.daemon, "daemon", "", "the daemon's binary; without one it is built")
	flag.StringVar(&b.mode, "mode", "redirect", "the daemon's: redirect or listen")
	flag.StringVar(&b.rules, "rules", "", "how the daemon sets its rules: iptables or nft; without it, as it chooses")
	flag.DurationVar(&b.settle, "settle", time.Minute, "how long to wait after the attaching; containers that are younger are inspected more often")
	flag.DurationVar(&b.steady, "steady", 10*time.Minute, "how long to watch the steady state")
	flag.BoolVar(&b.execs, "execs", false, "count the programs that the daemon starts, too, for as long again")
	flag.StringVar(&b.markdown, "markdown", "", "write the result as a section of Markdown to this file")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := b.run(ctx, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "rules:", err)
		os.Exit(1)
	}
}

type bench struct {
	n              int
	daemon, mode   string
	rules          string
	settle, steady time.Duration
	execs          bool
	markdown       string
}

func (b bench) run(ctx context.Context, out io.Writer) error {
	dir, err := os.MkdirTemp("", "bench-rules")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if b.daemon == "" {
		b.daemon = filepath.Join(dir, "ambassadord")
		if err := engine.Build(ctx, b.daemon, "cmd/ambassadord"); err != nil {
			return err
		}
	}
	program := filepath.Join(dir, "load")
	if err := engine.Build(ctx, program, "bench/inside/load"); err != nil {
		return err
	}
	if err := engine.Image(ctx, image, program); err != nil {
		return err
	}
	ids, err := startContainers(ctx, b.n)
	defer removeContainers(ctx, ids)
	if err != nil {
		return err
	}
	f, err := b.measure(ctx, dir)
	if err != nil {
		return err
	}
	f.print(out)
	if b.markdown == "" {
		return nil
	}
	var section bytes.Buffer
	f.printMarkdown(&section)
	return os.WriteFile(b.markdown, section.Bytes(), 0o644)
}

// measure starts the daemon beside containers that run.
func (b bench) measure(ctx context.Context, dir string) (f figures, err error) {
	args := []string{"run", "--mode", b.mode}
	if b.rules != "" { // which older daemons do not know
		args = append(args, "--rules", b.rules)
	}
	d, err := daemon.Start(b.daemon, dir, args...)
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, d.Stop()) }()
	f = figures{n: b.n, mode: b.mode, steady: b.steady, execs: -1}
	if f.ready, err = d.Ready(ctx); err != nil {
		return f, err
	}
	if f.attached, err = d.Attached(ctx, b.n); err != nil {
		return f, err
	}
	if f.starting, err = d.CPUTime(); err != nil {
		return f, err
	}
	if err := wait(ctx, b.settle); err != nil {
		return f, err
	}
	before, err := d.CPUTime()
	if err != nil {
		return f, err
	}
	if err := wait(ctx, b.steady); err != nil {
		return f, err
	}
	after, err := d.CPUTime()
	if err != nil {
		return f, err
	}
	f.cpu = after - before
	if f.rss, err = d.RSS(); err != nil {
		return f, err
	}
	if b.execs { // apart, because being traced costs time
		f.execs, err = countExecs(ctx, d.PID(), b.steady)
	}
	return f, err
}

// wait lets time pass: that nothing happens is what is measured.
func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// startContainers starts n containers that declare a port each, a few at a time.
func startContainers(ctx context.Context, n int) ([]string, error) {
	ids := make([]string, n)
	errs := make([]error, n)
	slots := make(chan struct{}, 4)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			ids[i], errs[i] = engine.Run(ctx, "--network", "none", "--label", "connect.6379=127.0.0.1:1", image, "/load", "pause")
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return ids, fmt.Errorf("start a container: %w", err)
		}
	}
	return ids, nil
}

func removeContainers(ctx context.Context, ids []string) {
	for _, id := range ids {
		if err := engine.Remove(ctx, id); err != nil {
			fmt.Fprintln(os.Stderr, "rules: left behind:", err)
		}
	}
}

// countExecs counts the programs that a process starts during d.
func countExecs(ctx context.Context, pid int, d time.Duration) (int, error) {
	trace, err := os.CreateTemp("", "execs")
	if err != nil {
		return 0, err
	}
	defer os.Remove(trace.Name())
	defer trace.Close()
	strace := exec.CommandContext(ctx, "strace", "-f", "-p", strconv.Itoa(pid), "-e", "trace=execve", "-o", trace.Name())
	if err := strace.Start(); err != nil {
		return 0, fmt.Errorf("strace: %w", err)
	}
	err = wait(ctx, d)
	_ = strace.Process.Signal(syscall.SIGINT)
	_ = strace.Wait() // it reports the signal that it detaches at
	if err != nil {
		return 0, err
	}
	text, err := io.ReadAll(trace)
	return bytes.Count(text, []byte("execve(")), err
}
