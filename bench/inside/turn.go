package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/ambassadord/ambassadord/bench/inside/job"
	"github.com/ambassadord/ambassadord/bench/internal/daemon"
	"github.com/ambassadord/ambassadord/bench/internal/engine"
)

// startTime bounds how long a daemon may take to serve a client.
const startTime = 30 * time.Second

// compete gives every contestant its turn in every round. One that fails is out; the
// others go on.
func (b bench) compete(ctx context.Context, a *arena, chosen []contestant, progress io.Writer) (*result, error) {
	r := newResult(ctx, b, chosen)
	for round := range b.rounds {
		for _, i := range rand.Perm(len(chosen)) {
			c := chosen[i]
			if r.Failures[c.name] != "" {
				continue
			}
			fmt.Fprintf(progress, "round %d of %d: %s\n", round+1, b.rounds, c.name)
			values, err := b.turn(ctx, a, c)
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			if err != nil {
				r.Failures[c.name] = err.Error()
				fmt.Fprintf(progress, "%s is out: %v\n", c.name, err)
				continue
			}
			for _, v := range values {
				v.Round = round
				r.Values = append(r.Values, v)
			}
		}
	}
	r.DockerProxies, _ = a.proxies() // before they are gone; only told
	return r, nil
}

// turn measures all workloads of one contestant, with a client container of its own.
func (b bench) turn(ctx context.Context, a *arena, c contestant) (values []value, err error) {
	cpu := func() (time.Duration, error) { return 0, nil }
	if c.docker {
		cpu = a.proxiesCPUTime
	}
	var d *daemon.Daemon
	if c.mode != "" {
		if d, err = daemon.Start(b.daemon, a.dir, "run", "--mode", c.mode); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, d.Stop()) }()
		cpu = d.CPUTime
	}
	starting, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	if d != nil {
		if _, err := d.Ready(starting); err != nil {
			return nil, err
		}
	}
	id, err := client(ctx, a, c)
	defer func() { err = errors.Join(err, engine.Remove(ctx, id)) }()
	if err != nil {
		return nil, err
	}
	if c.mode == redirect || c.mode == listen {
		if _, err := d.Attached(starting, 1); err != nil {
			return nil, err
		}
	}
	s, err := openSession(ctx, id)
	if err != nil {
		return nil, err
	}
	defer s.close()
	all := workloads()
	for _, i := range rand.Perm(len(all)) {
		w := all[i]
		v, err := run(s, w, w.jobFor(a, c, b.time), cpu)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", w.name, err)
		}
		v.Contestant = c.name
		values = append(values, v)
	}
	return values, nil
}

// client starts the container of a turn. It declares the backend whoever it is for: no
// daemon is there to read that but the contestant.
func client(ctx context.Context, a *arena, c contestant) (string, error) {
	network := a.name
	if c.outside {
		network = "none"
	}
	args := []string{"--network", network}
	for _, port := range job.Ports() {
		args = append(args, "--label", "connect."+strconv.Itoa(port)+"=docker://"+at(a.name, port))
	}
	id, err := engine.Run(ctx, append(args, image, "/load", "pause")...)
	if err == nil && c.outside {
		err = plugIn(ctx, id)
	}
	return id, err
}

// run measures one workload. cpu is what the processes between have used.
func run(s *session, w workload, j job.Job, cpu func() (time.Duration, error)) (value, error) {
	var before time.Duration
	r, err := s.do(j, func() (err error) {
		before, err = cpu()
		return err
	})
	if err != nil {
		return value{}, err
	}
	after, err := cpu()
	if err != nil {
		return value{}, err
	}
	return newValue(w, r, after-before)
}
