package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os/exec"
	"slices"
	"time"

	"github.com/ambassadord/ambassadord/bench/internal/load"
	"github.com/ambassadord/ambassadord/bench/internal/report"
)

// bench measures in the namespaces that it finds itself in.
type bench struct {
	options
	progress io.Writer
	ports    ports
	result   report.Result
}

// participant is a contestant with its ports, whether it runs or not.
type participant struct {
	contestant
	backendSet
}

func (b *bench) run(ctx context.Context) (report.Result, error) {
	took, err := b.participants(ctx)
	if err != nil {
		return b.result, err
	}
	stop, err := b.backends(ctx, took)
	if err != nil {
		return b.result, err
	}
	defer stop()
	for _, part := range b.Parts {
		switch part {
		case partTraffic:
			err = b.traffic(ctx, took, b.Place)
		case partUnprivileged:
			err = b.traffic(ctx, took, report.Unprivileged)
		case partIdle:
			err = b.idle(ctx, took)
		}
		if err != nil {
			return b.result, err
		}
	}
	return b.result, nil
}

// participants are the contestants asked for that are here; the others are noted.
func (b *bench) participants(ctx context.Context) (took []participant, err error) {
	for _, c := range contestants() {
		if !slices.Contains(b.Contestants, c.name) {
			continue
		}
		if why := c.missing(); why != "" {
			b.note("%s is left out: %s", c.name, why)
			continue
		}
		p := participant{contestant: c}
		if p.backendSet, err = b.ports.way(c.commands == nil); err != nil {
			return nil, err
		}
		took = append(took, p)
		b.result.Machine.Peers = append(b.result.Machine.Peers, report.Peer{Name: c.name, Version: c.versionOf(ctx), Setup: c.setup})
	}
	return took, nil
}

func (b *bench) note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	b.result.Notes = append(b.result.Notes, text)
	fmt.Fprintln(b.progress, "peers:", text)
}

// backends starts those of all participants: one process for the raw ones, and an
// nginx where there is one.
func (b *bench) backends(ctx context.Context, took []participant) (stop func(), err error) {
	var listeners []load.Listener
	for _, p := range took {
		listeners = append(listeners, load.Listener{At: p.Backend.Echo, Role: load.Echo},
			load.Listener{At: p.Backend.Sink, Role: load.Sink}, load.Listener{At: p.Backend.Source, Role: load.Source})
	}
	spec, err := json.Marshal(listeners)
	if err != nil {
		return nil, err
	}
	raw := role(ctx, b.Self, roleBackend)
	stdin, err := raw.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := raw.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := raw.Start(); err != nil {
		return nil, fmt.Errorf("start the backend: %w", err)
	}
	end := func() {
		_ = raw.Process.Kill()
		_ = raw.Wait() // killed
	}
	if _, err = stdin.Write(spec); err == nil {
		_ = stdin.Close()
		err = json.NewDecoder(stdout).Decode(&loadAnswer{})
	}
	if err != nil {
		end()
		return nil, fmt.Errorf("the backend is not ready: %w", err)
	}
	web, err := b.startWeb(ctx, took)
	if err != nil {
		end()
		return nil, err
	}
	return func() { web(); end() }, nil
}

// traffic runs all rounds, with everybody up at once.
func (b *bench) traffic(ctx context.Context, took []participant, place report.Place) error {
	measures := b.measures()
	if place == report.Unprivileged {
		measures = measures[:4] // bulk
	}
	measures = slices.DeleteFunc(measures, func(m measurement) bool { return !slices.Contains(b.Measures, m.name) })
	var up []*running
	stop := func() {
		for _, r := range up {
			r.stop()
		}
		up = nil
	}
	defer func() { stop() }()
	for round := range b.Rounds {
		if round == 0 || b.Before != "" {
			stop()
			var err error
			if up, err = b.startAll(ctx, took, place, round); err != nil {
				return err
			}
		}
		rand.Shuffle(len(measures), func(i, j int) { measures[i], measures[j] = measures[j], measures[i] })
		for _, m := range measures {
			rand.Shuffle(len(up), func(i, j int) { up[i], up[j] = up[j], up[i] })
			for _, r := range up {
				s, err := m.run(ctx, r)
				if ctx.Err() != nil {
					return ctx.Err()
				}
				if err != nil {
					s.Error = err.Error()
					fmt.Fprintf(b.progress, "peers: %s, %s: %v\n", m.name, r.name, err)
				}
				s.Place, s.Measure, s.Contestant, s.Round = place, m.name, r.name, round
				b.result.Samples = append(b.result.Samples, s)
			}
		}
		fmt.Fprintf(b.progress, "peers: %s: round %d of %d\n", place, round+1, b.Rounds)
	}
	return nil
}

// startAll starts the contestants, those before the one that fails included. Two builds of the
// daemon are started for each round anew, in any order, and take turns with their ports: of the same
// bytes, one process costs up to 4% more than another for as long as they run.
func (b *bench) startAll(ctx context.Context, took []participant, place report.Place, round int) (up []*running, err error) {
	took = slices.Clone(took)
	if b.Before != "" {
		ours := slices.IndexFunc(took, func(p participant) bool { return p.name == report.Ours })
		before := slices.IndexFunc(took, func(p participant) bool { return p.name == report.Before })
		if ours >= 0 && round%2 == 1 {
			took[ours].backendSet, took[before].backendSet = took[before].backendSet, took[ours].backendSet
		}
		rand.Shuffle(len(took), func(i, j int) { took[i], took[j] = took[j], took[i] })
	}
	for i, p := range took {
		var uid uint32
		if place == report.Unprivileged {
			// Users of their own: what pipes of one user take is counted together.
			uid = uint32(60_001 + i)
		}
		r, err := b.start(ctx, p.contestant, p.backendSet, uid)
		if err != nil {
			return up, err
		}
		up = append(up, r)
		if place == report.Unprivileged {
			held, err := b.hold(ctx, r.Listen.Echo, 100)
			if err != nil {
				return up, fmt.Errorf("100 idle connections through %s: %w", r.name, err)
			}
			r.held = held.stop
		}
	}
	return up, nil
}

// measurement is one of those that every contestant goes through in every round.
type measurement struct {
	name string
	run  func(context.Context, *running) (report.Sample, error)
}

func (b *bench) measures() (all []measurement) {
	add := func(name string, s load.Spec, to func(ends) netip.AddrPort) {
		all = append(all, measurement{name, func(ctx context.Context, r *running) (report.Sample, error) {
			spec := s
			spec.To, spec.Proxy = to(r.Listen), r.pids()
			return b.load(ctx, spec)
		}})
	}
	echo := func(e ends) netip.AddrPort { return e.Echo }
	for _, streams := range []int{1, 8} {
		add(report.Bulk("up", streams), load.Spec{Kind: load.Up, Conns: streams}, func(e ends) netip.AddrPort { return e.Sink })
		add(report.Bulk("down", streams), load.Spec{Kind: load.Down, Conns: streams}, func(e ends) netip.AddrPort { return e.Source })
	}
	for _, conns := range []int{1, 64} {
		add(report.Ask(64, conns), load.Spec{Kind: load.Ask, Conns: conns, Size: 64}, echo)
		add(report.Ask(4096, conns), load.Spec{Kind: load.Ask, Conns: conns, Size: 4096}, echo)
		add(report.Churn(conns), load.Spec{Kind: load.Churn, Conns: conns, Size: 64}, echo)
	}
	return append(all, b.web()...)
}

// load makes one load in a process of its own.
func (b *bench) load(ctx context.Context, s load.Spec) (report.Sample, error) {
	s.Duration, s.WarmUp = b.Duration, b.Duration/5
	ctx, cancel := context.WithTimeout(ctx, s.Duration+s.WarmUp+20*time.Second)
	defer cancel()
	spec, err := json.Marshal(s)
	if err != nil {
		return report.Sample{}, err
	}
	cmd := role(ctx, b.Self, roleLoad)
	cmd.Cancel = func() error { return cmd.Process.Kill() } // it may hang in a raw system call
	var a loadAnswer
	if err := exchangeJSON(cmd, spec, &a); err != nil {
		return report.Sample{}, fmt.Errorf("the load: %w", err)
	}
	if a.Error != "" {
		return report.Sample{}, fmt.Errorf("%s", a.Error)
	}
	return sample(a.Result), nil
}

func sample(r load.Result) report.Sample {
	units := float64(r.Ops)
	if r.Bytes > 0 {
		units = float64(r.Bytes) / 1e9
	}
	s := report.Sample{
		Rate: units / r.Window.Seconds(), Failed: r.Failed,
		P50: r.P50.Seconds(), P99: r.P99.Seconds(), P999: r.P999.Seconds(),
	}
	if units > 0 {
		s.CPU = r.CPU.Seconds() / units
	}
	return s
}

// output is what a short command prints.
func output(ctx context.Context, name string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %.500s", name, err, out)
	}
	return string(out), nil
}
