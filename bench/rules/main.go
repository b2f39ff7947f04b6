// Command rules measures a daemon beside many containers: how long after its start it is ready
// and attached to all of them and what that has cost, and from then on, while nothing happens,
// its CPU and its memory.
//
//	go run ./bench/rules
//	go run ./bench/rules -n 500 -execs -daemon bin/ambassadord
//	go run ./bench/rules -n 500 -peer 7b0a421 -rules iptables,nft -rounds 9 -steady 0 -execs
//
// With -peer an older daemon is measured in the same run, in turn with today's, beside the same
// containers. It is a binary, or a revision of the repository, which is built outside of it.
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
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/ambassadord/ambassadord/bench/internal/engine"
)

// image holds a program that waits.
const image = "ambassadord-bench/load"

func main() {
	var b rulesBench
	flag.IntVar(&b.n, "n", 200, "how many containers; 0 is allowed")
	flag.StringVar(&b.daemon, "daemon", "", "the daemon's binary; without one it is built")
	flag.StringVar(&b.peer, "peer", "", "an older daemon to compare with: a binary, or a revision")
	flag.StringVar(&b.mode, "mode", "redirect", "the daemon's: redirect or listen")
	flag.StringVar(&b.rules, "rules", "", "how the daemon sets its rules: iptables, nft, or both with a comma between; without it, as it chooses")
	flag.IntVar(&b.rounds, "rounds", 1, "how often each daemon is started, in turn")
	flag.DurationVar(&b.settle, "settle", time.Minute, "how long to wait after the attaching; containers that are younger are inspected more often")
	flag.DurationVar(&b.steady, "steady", 10*time.Minute, "how long to watch the steady state, in the last round; 0 does not")
	flag.BoolVar(&b.execs, "execs", false, "count the programs that the daemon starts, too, in a start and a steady state of their own")
	flag.BoolVar(&b.keep, "keep", false, "leave the containers for the next run")
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

type rulesBench struct {
	n, rounds      int
	daemon, peer   string
	mode, rules    string
	settle, steady time.Duration
	execs, keep    bool
	markdown       string
}

func (b *rulesBench) run(ctx context.Context, out io.Writer) error {
	dir, err := os.MkdirTemp("", "bench-rules")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	all, err := b.contestants(ctx, dir)
	if err != nil {
		return err
	}
	program := filepath.Join(dir, "load")
	if err := engine.Build(ctx, program, "bench/inside/load"); err != nil {
		return err
	}
	if err := engine.Image(ctx, image, program); err != nil {
		return err
	}
	ids, err := startContainers(ctx, b.n)
	if !b.keep {
		defer removeContainers(ctx, ids)
	}
	if err != nil {
		return err
	}
	r := rulesResult{n: b.n, mode: b.mode, all: all}
	for round := range b.rounds {
		for i := range all {
			c := all[(i+round)%len(all)] // for the engine is busy a while longer with what the one before left
			if err := b.measure(ctx, dir, c, round == b.rounds-1); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
		}
	}
	if b.execs { // apart, because being traced costs time
		for _, c := range all {
			if c.started, err = b.countExecs(ctx, dir, c); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
		}
	}
	r.print(out)
	if b.markdown == "" {
		return nil
	}
	var section bytes.Buffer
	r.printMarkdown(&section)
	return os.WriteFile(b.markdown, section.Bytes(), 0o644)
}

// contestants are the daemons to measure, the one that others are compared with first.
func (b *rulesBench) contestants(ctx context.Context, dir string) ([]*measuredDaemon, error) {
	if b.n < 0 || b.rounds < 1 {
		return nil, errors.New("-n needs to be 0 or more, and -rounds 1 or more")
	}
	var all []*measuredDaemon
	args := []string{"run", "--mode", b.mode}
	if b.peer != "" {
		binary, err := buildPeer(ctx, b.peer, dir)
		if err != nil {
			return nil, err
		}
		all = append(all, &measuredDaemon{name: b.peer, binary: binary, args: args}) // which may not know of --rules
	}
	if b.daemon == "" {
		b.daemon = filepath.Join(dir, "ambassadord")
		if err := engine.Build(ctx, b.daemon, "cmd/ambassadord"); err != nil {
			return nil, err
		}
	}
	for rules := range strings.SplitSeq(b.rules, ",") {
		c := &measuredDaemon{name: "today", binary: b.daemon, args: args}
		if rules != "" {
			c.name, c.args = "today, "+rules, append(args[:len(args):len(args)], "--rules", rules)
		}
		all = append(all, c)
	}
	return all, nil
}
