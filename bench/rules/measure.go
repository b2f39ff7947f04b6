package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/ambassadord/ambassadord/bench/internal/daemon"
	"github.com/ambassadord/ambassadord/bench/internal/engine"
)

// measure starts a daemon beside containers that run; watch says that its steady state is
// measured as well.
func (b *rulesBench) measure(ctx context.Context, dir string, c *measuredDaemon, watch bool) (err error) {
	d, err := daemon.Start(c.binary, dir, c.args...)
	if err != nil {
		return err
	}
	defer func() {
		began := time.Now()
		err = errors.Join(err, d.Stop())
		if err == nil {
			c.starts[len(c.starts)-1].stopped = time.Since(began)
		}
	}()
	s, err := b.start(ctx, d)
	if err != nil {
		return err
	}
	c.starts = append(c.starts, s)
	if !watch || b.steady <= 0 {
		return nil
	}
	if err := wait(ctx, b.settle); err != nil {
		return err
	}
	before, err := d.CPUTime()
	if err != nil {
		return err
	}
	if err := wait(ctx, b.steady); err != nil {
		return err
	}
	after, err := d.CPUTime()
	if err != nil {
		return err
	}
	c.steady = &steady{lasted: b.steady, cpu: after - before}
	c.steady.rss, err = d.RSS()
	return err
}

// start waits until a daemon that was just started has attached all containers.
func (b *rulesBench) start(ctx context.Context, d *daemon.Daemon) (s start, err error) {
	if s.ready, err = d.Ready(ctx); err != nil {
		return s, err
	}
	if s.attached, err = d.Attached(ctx, b.n); err != nil {
		return s, err
	}
	if s.cpu, err = d.CPUTime(); err != nil {
		return s, err
	}
	s.rss, err = d.RSS()
	return s, err
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

// declared leads to an address for documentation (RFC 5737): what it leads to nobody dials, and
// nothing has to be asked for it. At an address of this host it would be quarantined.
const declared = "connect.6379=192.0.2.1:6379"

// startContainers starts containers that declare a port each, a few at a time, until there are n
// with those that a run with -keep has left.
func startContainers(ctx context.Context, n int) ([]string, error) {
	kept, err := engine.Docker(ctx, "ps", "-q", "--no-trunc", "--filter", "label="+declared)
	if err != nil {
		return nil, err
	}
	ids := strings.Fields(kept)
	if len(ids) > n {
		return ids, fmt.Errorf("there are %d containers already", len(ids))
	}
	more := make([]string, n-len(ids))
	errs := make([]error, len(more))
	inTurn(len(more), func(i int) {
		more[i], errs[i] = engine.Run(ctx, "--network", "none", "--label", declared, image, "/load", "pause")
	})
	ids = append(ids, more...)
	if err := errors.Join(errs...); err != nil {
		return ids, fmt.Errorf("start containers: %w", err)
	}
	return ids, nil
}

func removeContainers(ctx context.Context, ids []string) {
	inTurn(len(ids), func(i int) {
		if err := engine.Remove(ctx, ids[i]); err != nil {
			fmt.Fprintln(os.Stderr, "rules: left behind:", err)
		}
	})
}

// inTurn calls do with each number below n, a few at a time.
func inTurn(n int, do func(i int)) {
	slots := make(chan struct{}, 4)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			do(i)
		})
	}
	wg.Wait()
}
