// Command resolve measures how soon a change in a registry reaches a client, and
// what it costs to watch many services.
//
//	go run ./bench/resolve -daemon bin/ambassadord
//	go run ./bench/resolve -daemon bin/ambassadord -services 2000 -instances 10
//
// It starts a Consul agent and an etcd of its own (consul and etcd in PATH) on
// loopback. The first form moves an endpoint back and forth and dials the daemon
// until it reaches the new place. The second fills Consul with services, lets one
// daemon watch them all, and then changes one.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"time"
)

func main() {
	var b bench
	flag.StringVar(&b.daemon, "daemon", "bin/ambassadord", "the daemon's binary")
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

type bench struct {
	daemon              string
	rounds              int
	services, instances int
	steady              time.Duration
}

func (b bench) run(ctx context.Context, out io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "bench-resolve")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	consul, err := startConsul(ctx, dir)
	if err != nil {
		return err
	}
	defer consul.stop()
	if b.services > 0 {
		return b.many(ctx, consul, out)
	}
	etcd, err := startEtcd(ctx, dir)
	if err != nil {
		return err
	}
	defer etcd.stop()
	places, err := listen(ctx, 2)
	if err != nil {
		return err
	}
	for _, source := range []struct {
		target string
		move   func(address string) error
	}{
		{"consul-service://moving", func(address string) error { return consul.register(ctx, "moving", address) }},
		{"consul://" + consul.address + "/moving", func(address string) error { return consul.put(ctx, "moving", address) }},
		{"etcd://" + etcd.address + "/moving", func(address string) error { return etcd.put(ctx, "moving", address) }},
	} {
		times, err := b.changes(ctx, consul, source.target, places, source.move)
		if err != nil {
			return fmt.Errorf("%s: %w", source.target, err)
		}
		slices.Sort(times)
		fmt.Fprintf(out, "%-40s median %s, 95%% within %s, of %d changes\n", source.target,
			times[len(times)/2].Round(100*time.Microsecond), times[len(times)*95/100].Round(100*time.Microsecond), len(times))
	}
	return nil
}

// between is the pause before each change: the daemon asks an agent whose answers
// never stand still only every 100 ms, and this is not to measure that.
const between = 200 * time.Millisecond

// changes moves target between places and returns how long it took each time from
// before the registry was told until a connection through the daemon got there.
func (b bench) changes(ctx context.Context, consul *registry, target string, places []*place, move func(string) error) ([]time.Duration, error) {
	if err := move(places[0].address); err != nil {
		return nil, err
	}
	listener := "127.0.0.1:31999"
	d, err := start(ctx, b.daemon, consul.address, listener+"="+target)
	if err != nil {
		return nil, err
	}
	defer d.stop()
	if _, err := until(ctx, listener, places[0].name); err != nil {
		return nil, err
	}
	var times []time.Duration
	for i := range b.rounds {
		if err := rest(ctx, between); err != nil {
			return nil, err
		}
		to := places[(i+1)%2]
		began := time.Now()
		if err := move(to.address); err != nil {
			return nil, err
		}
		if _, err := until(ctx, listener, to.name); err != nil {
			return nil, err
		}
		times = append(times, time.Since(began))
	}
	return times, nil
}
