package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os/exec"
	"time"

	"github.com/ambassadord/ambassadord/bench/internal/load"
	"github.com/ambassadord/ambassadord/bench/internal/procstat"
	"github.com/ambassadord/ambassadord/bench/internal/report"
)

const (
	starts = 5           // of each contestant
	settle = time.Second // until a process has done what its start gave it to do
	// settleIn is until it has done what a connection gives it to do that lasts. A process
	// that it starts for that is there by then.
	settleIn = 4 * time.Second
	rest     = 2 * time.Second // how long the CPU of an idle process is watched
	// overrun is more connections than 20,000 descriptors are good for, at two each.
	overrun = 11_000
	// crowdTime is for how long a contestant may take for one crowd of connections: each of
	// thousands that select(2) looks at makes every exchange slower.
	crowdTime = 5 * time.Minute
)

// holder holds idle connections in a process of its own.
type holder struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *json.Decoder
	held int
}

func (b *bench) hold(ctx context.Context, to netip.AddrPort, n int) (*holder, error) {
	cmd := role(ctx, b.Self, roleHold)
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	h := &holder{cmd: cmd, in: in, out: json.NewDecoder(out)}
	if err := h.ask(load.Spec{To: to, Conns: n}); err != nil {
		h.stop()
		return nil, err
	}
	return h, nil
}

func (h *holder) ask(question any) error {
	if err := json.NewEncoder(h.in).Encode(question); err != nil {
		return err
	}
	var a loadAnswer
	if err := h.out.Decode(&a); err != nil {
		return err
	}
	if a.Error != "" {
		return fmt.Errorf("hold connections: %s", a.Error)
	}
	h.held = a.Held
	return nil
}

// count is on how many an exchange still succeeds.
func (h *holder) count() (int, error) {
	err := h.ask(struct{}{})
	return h.held, err
}

func (h *holder) stop() {
	_ = h.in.Close()
	timer := time.AfterFunc(5*time.Second, func() { _ = h.cmd.Process.Kill() })
	_ = h.cmd.Wait() // however it ended
	timer.Stop()
}

// idle measures fresh processes, one at a time: starts, then connections that do
// nothing, then too many of them.
func (b *bench) idle(ctx context.Context, took []participant) error {
	for _, p := range took {
		if p.forks {
			continue
		}
		if p.commands != nil {
			for range starts {
				if err := b.startOnce(ctx, p); err != nil {
					return err
				}
			}
		}
		for _, n := range []int{2000, report.Crowd} {
			inTime, cancel := context.WithTimeoutCause(ctx, crowdTime, fmt.Errorf("gave up after %s", crowdTime))
			i, err := b.crowd(inTime, p, n)
			late := context.Cause(inTime)
			cancel()
			if ctx.Err() != nil {
				return ctx.Err()
			}
			i.Contestant, i.Conns = p.name, n
			if err != nil {
				i.Error = cmp.Or(late, err).Error()
			}
			b.result.Idle = append(b.result.Idle, i)
		}
		fmt.Fprintf(b.progress, "peers: idle: %s\n", p.name)
	}
	return nil
}

func (b *bench) startOnce(ctx context.Context, p participant) error {
	r, err := b.start(ctx, p.contestant, p.backendSet, 0)
	if err != nil {
		return err
	}
	defer r.stop()
	if err := pause(ctx, settle); err != nil {
		return err
	}
	before, err := r.cpu()
	if err != nil {
		return err
	}
	began := time.Now()
	if err := pause(ctx, rest); err != nil {
		return err
	}
	after, err := r.cpu()
	if err != nil {
		return err
	}
	u, err := r.usage()
	if err != nil {
		return err
	}
	b.result.Starts = append(b.result.Starts, report.Start{
		Contestant: p.name, Ready: r.ready.Seconds(), RSS: float64(u.RSS),
		CPU: (after - before).Seconds() / time.Since(began).Seconds(),
	})
	return nil
}

// crowd holds n connections through a process that has had its first, and says what each
// costs.
func (b *bench) crowd(ctx context.Context, p participant, n int) (i report.Idle, err error) {
	r, err := b.start(ctx, p.contestant, p.backendSet, 0)
	if err != nil {
		return i, err
	}
	defer r.stop()
	first, err := b.hold(ctx, r.Listen.Echo, 1)
	if err != nil {
		return i, err
	}
	defer first.stop()
	if err := pause(ctx, settleIn); err != nil {
		return i, err
	}
	before, err := r.usage()
	if err != nil {
		return i, err
	}
	memory, _, err := procstat.SocketMemory()
	if err != nil {
		return i, err
	}
	held, err := b.hold(ctx, r.Listen.Echo, n)
	if err != nil {
		return i, err
	}
	defer func() { held.stop() }()
	opened := held.held
	if err := pause(ctx, settleIn); err != nil {
		return i, err
	}
	if !r.alive() {
		return i, fmt.Errorf("died after %d", opened)
	}
	after, err := r.usage()
	if err != nil {
		return i, err
	}
	grown, _, err := procstat.SocketMemory()
	if err != nil {
		return i, err
	}
	each := float64(max(opened, 1))
	i.Memory = float64(after.Unbacked-before.Unbacked) / each
	i.Sockets = float64(grown-memory) / each
	i.Descriptors = float64(after.Descriptors-before.Descriptors) / each
	i.Pipes = float64(after.Pipes-before.Pipes) / each
	if i.Held, err = held.count(); err != nil {
		return i, err
	}
	if n == report.Crowd && p.commands != nil {
		held.stop()
		i.Overrun, err = b.overrun(ctx, r)
	}
	return i, err
}

// overrun opens more connections than descriptors allow, lets them go, and sees
// whether the proxy serves again.
func (b *bench) overrun(ctx context.Context, r *running) (*report.Overrun, error) {
	held, err := b.hold(ctx, r.Listen.Echo, overrun)
	if err != nil {
		return nil, err
	}
	o := &report.Overrun{Asked: overrun, Held: held.held}
	o.Survived = r.alive()
	held.stop()
	for deadline := time.Now().Add(15 * time.Second); o.Survived && !o.Recovered && time.Now().Before(deadline); {
		o.Recovered = exchange(ctx, r.Listen.Echo) == nil
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return o, err
		}
	}
	return o, nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
