// Command inside measures what a connection costs from inside real containers: to
// another container directly, through ambassadord in each of its modes that serve one,
// and through a port that Docker publishes.
//
//	go run ./bench/inside
//	go run ./bench/inside -rounds 120 -only '^(redirect|listen)$'
//
// It needs root and a Docker engine. It makes a network, a backend container on it, and
// for each contestant a client container, labelled ambassadord.test all, and removes
// them. All contestants are up at once, each mode with a daemon of its own that serves
// its client alone; only mode host, whose rules are on everybody's way, is up by itself.
// Within a round each has one turn under each workload, in an order drawn anew, and what
// is compared is compared within a round. Many short rounds tell more than few long ones,
// as a machine's speed changes more from second to second than within one.
//
// CPU is that of the whole machine, from /proc/stat, for interrupts and the kernel's
// share are what the ways differ in; so nothing else should run meanwhile.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"github.com/ambassadord/ambassadord/bench/internal/engine"
)

func main() {
	var b insideBench
	flag.StringVar(&b.daemon, "daemon", "", "the daemon's binary; without one it is built")
	flag.IntVar(&b.rounds, "rounds", 60, "how many rounds")
	flag.DurationVar(&b.time, "time", 100*time.Millisecond, "how long each load is measured in each round")
	flag.StringVar(&b.only, "only", "", "only the contestants whose name matches this regular expression; direct is always there")
	flag.StringVar(&b.congestion, "congestion", "", "the host's TCP congestion control meanwhile, which containers inherit; restored at the end")
	flag.StringVar(&b.json, "json", "", "write every single value to this file")
	flag.StringVar(&b.markdown, "markdown", "", "write the result as a section of Markdown to this file")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := b.run(ctx, os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "inside:", err)
		os.Exit(1)
	}
}

type insideBench struct {
	daemon, only   string
	rounds         int
	time           time.Duration
	congestion     string
	json, markdown string
}

func (b insideBench) run(ctx context.Context, out, progress io.Writer) error {
	chosen, err := choose(b.only)
	if err != nil {
		return err
	}
	if b.rounds < 1 || b.time < 10*time.Millisecond {
		return fmt.Errorf("-rounds %d -time %s: at least 1 and 10ms", b.rounds, b.time)
	}
	dir, err := os.MkdirTemp("", "bench-inside")
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
	restore, err := setCongestion(b.congestion)
	if err != nil {
		return err
	}
	defer restore()
	a, err := openArena(ctx, dir)
	defer a.close()
	if err != nil {
		return err
	}
	r, err := b.compete(ctx, a, chosen, progress)
	if err != nil {
		return err
	}
	r.print(out, asText)
	if b.markdown != "" {
		if err := writeFile(b.markdown, func(w io.Writer) error { r.print(w, asMarkdown); return nil }); err != nil {
			return err
		}
	}
	if b.json != "" {
		if err := writeFile(b.json, func(w io.Writer) error { return json.NewEncoder(w).Encode(r) }); err != nil {
			return err
		}
	}
	return r.failed()
}

func choose(only string) ([]insideContestant, error) {
	pattern, err := regexp.Compile(only)
	if err != nil {
		return nil, fmt.Errorf("-only: %w", err)
	}
	var chosen []insideContestant
	for _, c := range contestants() {
		if c.name == direct || pattern.MatchString(c.name) {
			chosen = append(chosen, c)
		}
	}
	return chosen, nil
}

func writeFile(name string, write func(io.Writer) error) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	if err := write(f); err != nil {
		_ = f.Close()
		return fmt.Errorf("write %s: %w", name, err)
	}
	return f.Close()
}
