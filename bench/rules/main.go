// Command rules measures what it costs to keep the rules of many containers: how
// long a daemon takes to attach to all of them after a start, and what it uses per
// minute while nothing changes.
//
//	go run ./bench/rules -n 500 -daemon bin/ambassadord -image ambassadord-test/busybox
//
// It needs root, a Docker engine, strace, and an image whose command sleeps. The
// containers have no network but their loopback, because an engine starts these
// fastest; for the rules it makes no difference.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/ambassadord/ambassadord/bench/internal/procstat"
)

func main() {
	n := flag.Int("n", 500, "how many containers")
	daemon := flag.String("daemon", "bin/ambassadord", "the daemon's binary")
	image := flag.String("image", "ambassadord-test/busybox", "an image whose command sleeps")
	steady := flag.Duration("steady", time.Minute, "how long to watch the steady state")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := measure(ctx, *n, *daemon, *image, *steady, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "rules:", err)
		os.Exit(1)
	}
}

func measure(ctx context.Context, n int, binary, image string, steady time.Duration, out io.Writer) error {
	ids, err := startContainers(ctx, n, image)
	defer func() { removeContainers(context.WithoutCancel(ctx), ids) }()
	if err != nil {
		return err
	}
	began := time.Now()
	cmd := exec.CommandContext(ctx, binary, "run", "--log-format", "json")
	log, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	}()
	lines := bufio.NewScanner(log)
	attached := 0
	for attached < n && lines.Scan() {
		var line struct{ Msg string }
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "attached" {
			attached++
		}
	}
	if attached < n {
		return fmt.Errorf("only %d of %d containers were attached", attached, n)
	}
	converged := time.Since(began)
	go func() { _, _ = io.Copy(io.Discard, log) }()

	// The first look after the attaching still reads every table once.
	time.Sleep(15 * time.Second)
	before, err := procstat.CPUTime(cmd.Process.Pid)
	if err != nil {
		return err
	}
	time.Sleep(steady)
	after, err := procstat.CPUTime(cmd.Process.Pid)
	if err != nil {
		return err
	}
	execs, err := countExecs(ctx, cmd.Process.Pid, steady) // apart, because being traced costs time
	if err != nil {
		return err
	}
	minutes := steady.Minutes()
	fmt.Fprintf(out, "containers           %d\n", n)
	fmt.Fprintf(out, "all attached after   %s\n", converged.Round(10*time.Millisecond))
	fmt.Fprintf(out, "steady state, CPU    %.2f s a minute\n", (after-before).Seconds()/minutes)
	fmt.Fprintf(out, "steady state, execs  %.1f a minute\n", float64(execs)/minutes)
	return nil
}

// startContainers starts n containers that declare a port each, a few at a time.
func startContainers(ctx context.Context, n int, image string) ([]string, error) {
	ids := make([]string, n)
	errs := make([]error, n)
	slots := make(chan struct{}, 4)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			id, err := exec.CommandContext(ctx, "docker", "run", "-d", "--network", "none", "-l", "connect.6379=127.0.0.1:1", image).Output()
			ids[i], errs[i] = strings.TrimSpace(string(id)), err
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
		if id != "" {
			_ = exec.CommandContext(ctx, "docker", "rm", "-f", id).Run()
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
	time.Sleep(d)
	_ = strace.Process.Signal(syscall.SIGINT)
	_ = strace.Wait() // it reports the signal that it detaches at
	text, err := io.ReadAll(trace)
	return bytes.Count(text, []byte("execve(")), err
}
