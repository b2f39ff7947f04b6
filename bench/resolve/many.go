package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/ambassadord/ambassadord/bench/internal/procstat"
)

// firstPort is where the daemon listens for the first of many services.
const firstPort = 21000

// apart is how far apart the measured changes are: more than a crowd of 2,000 watches
// (resolver/consul) rests after one.
const apart = 3 * time.Second

// manyOfEach measures the builds of the daemon, each with a Consul of its own: an agent goes on
// counting the connections of one that has ended for as long as its queries were to wait.
func (b resolveBench) manyOfEach(ctx context.Context, dir string, out io.Writer) error {
	for _, build := range []struct{ name, daemon string }{{"before", b.before}, {"now", b.daemon}} {
		if build.daemon == "" {
			continue
		}
		if b.before != "" {
			fmt.Fprintf(out, "%s: %s\n", build.name, build.daemon)
		}
		of := filepath.Join(dir, build.name)
		if err := os.Mkdir(of, 0o755); err != nil {
			return err
		}
		consul, err := startConsul(ctx, of)
		if err != nil {
			return err
		}
		err = b.many(ctx, build.daemon, consul, out)
		consul.stop()
		if err != nil {
			return err
		}
	}
	return nil
}

// many fills Consul with services and measures a daemon that watches them all.
func (b resolveBench) many(ctx context.Context, daemon string, consul *registry, out io.Writer) error {
	places, err := listen(ctx)
	if err != nil {
		return err
	}
	name := func(i int) string { return fmt.Sprintf("service%d", i) }
	began := time.Now()
	for i := range b.services {
		if err := consul.catalog(ctx, name(i), b.instances, places[0].port); err != nil {
			return err
		}
	}
	fmt.Fprintf(out, "%d services, %d endpoints, registered in %s\n", b.services, b.services*b.instances, time.Since(began).Round(time.Millisecond))

	var args []string
	at := func(i int) string { return fmt.Sprintf("127.0.0.1:%d", firstPort+i) }
	for i := range b.services {
		args = append(args, at(i)+"=consul-service://"+name(i))
	}
	began = time.Now()
	d, err := start(ctx, daemon, consul.address, args...)
	if err != nil {
		return err
	}
	defer d.stop()
	first, err := until(ctx, at(b.services-1), places[0].name)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "first answer         %s after the start\n", first.Sub(began).Round(time.Millisecond))
	if err := each(b.services, func(i int) error {
		_, err := until(ctx, at(i), places[0].name)
		return err
	}); err != nil {
		return err
	}
	fmt.Fprintf(out, "an answer of each    %s after the start\n", time.Since(began).Round(time.Millisecond))

	if err := rest(ctx, 10*time.Second); err != nil {
		return err
	}
	for what, pid := range map[string]int{"daemon": d.pid(), "consul": consul.pid()} {
		if err := b.report(ctx, what, pid, out); err != nil {
			return err
		}
	}
	var told, times []time.Duration
	for i := range 10 {
		service := b.services - 1 - i*b.services/20
		if err := rest(ctx, apart); err != nil {
			return err
		}
		to := places[1]
		began := time.Now()
		if err := consul.catalog(ctx, name(service), b.instances, to.port); err != nil {
			return err
		}
		told = append(told, time.Since(began))
		if _, err := until(ctx, at(service), to.name); err != nil {
			return err
		}
		times = append(times, time.Since(began))
	}
	slices.Sort(told)
	slices.Sort(times)
	fmt.Fprintf(out, "a change             reached a client within %s, the median of 10, and %s, the slowest; telling the registry took %s\n",
		times[len(times)/2].Round(time.Millisecond), times[len(times)-1].Round(time.Millisecond), told[len(told)/2].Round(time.Millisecond))
	return nil
}

func (b resolveBench) report(ctx context.Context, what string, pid int, out io.Writer) error {
	before, err := procstat.CPUTime(pid)
	if err != nil {
		return err
	}
	if err := rest(ctx, b.steady); err != nil {
		return err
	}
	after, err := procstat.CPUTime(pid)
	if err != nil {
		return err
	}
	rss, err := procstat.Status(pid, "VmRSS")
	if err != nil {
		return err
	}
	descriptors, err := procstat.Descriptors(pid)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s at rest       %.2f s of CPU a minute, %d MiB resident, %d descriptors\n",
		what, (after-before).Seconds()/b.steady.Minutes(), rss>>10, descriptors)
	return nil
}

// each calls do for 0 to n-1, a few at a time.
func each(n int, do func(int) error) error {
	var (
		wg    sync.WaitGroup
		once  sync.Once
		first error
		slots = make(chan struct{}, 16)
	)
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := do(i); err != nil {
				once.Do(func() { first = err })
			}
		})
	}
	wg.Wait()
	return first
}

func rest(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
