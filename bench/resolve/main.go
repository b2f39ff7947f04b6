// Command resolve measures how soon a change in a registry reaches a client, and
// what it costs to watch many services.
//
//	go run ./bench/resolve
//	go run ./bench/resolve -services 2000 -instances 10
//	go run ./bench/resolve -services 2000 -before bin/old
//
// It starts a Consul agent, an etcd and an NSD of its own (consul, etcd and nsd in
// PATH) on loopback, and containers on the machine's Docker engine. The first form
// moves an endpoint of each kind of source back and forth and dials the daemon until
// it reaches the new place; a static target has no registry to tell of a change. The
// second fills Consul with services, lets one daemon watch them all, and then changes
// one; the third does that for another build of the daemon first. It runs as root, for the daemon does.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/ambassadord/ambassadord/bench/internal/engine"
)

func main() {
	var b resolveBench
	flag.StringVar(&b.daemon, "daemon", "", "the daemon's binary; without one it is built")
	flag.StringVar(&b.before, "before", "", "another build of the daemon, which watches as many services first")
	flag.StringVar(&b.only, "only", "", "measure only the sources whose name contains this")
	flag.IntVar(&b.rounds, "rounds", 51, "how many changes of each source")
	flag.IntVar(&b.services, "services", 0, "how many services to watch; 0 measures changes of single targets")
	flag.IntVar(&b.instances, "instances", 10, "of each service")
	flag.DurationVar(&b.steady, "steady", 30*time.Second, "how long to watch the steady state")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := b.run(ctx, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "resolve:", err)
		os.Exit(1)
	}
}

type resolveBench struct {
	daemon, before      string
	only                string
	rounds              int
	services, instances int
	steady              time.Duration
}

func (b resolveBench) run(ctx context.Context, out io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "bench-resolve")
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
	if b.services > 0 {
		return b.manyOfEach(ctx, dir, out)
	}
	consul, err := startConsul(ctx, dir)
	if err != nil {
		return err
	}
	defer consul.stop()
	places, err := listenAlike(ctx)
	if err != nil {
		return err
	}
	all, stop, err := b.sources(ctx, dir, consul, places)
	if err != nil {
		return err
	}
	defer stop()
	some, err := chosen(all, b.only)
	if err != nil {
		return err
	}
	for _, s := range some {
		times, err := b.changes(ctx, consul, s, places)
		if err != nil {
			return fmt.Errorf("%s: %w", s.target, err)
		}
		fmt.Fprintf(out, "%-32s %s\n", s.name, times)
		if s.bound != "" {
			fmt.Fprintf(out, "%-32s bound: %s\n", "", s.bound)
		}
	}
	return nil
}
