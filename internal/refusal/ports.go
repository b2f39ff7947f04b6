package refusal

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"
)

const (
	// refusePace is the least time between two changes of what is refused in one namespace,
	// each a transaction of nftables: however often targets come and go.
	refusePace = 100 * time.Millisecond
	// refuseRetry and refuseRetryMost bound the time after which a change that failed is tried
	// again.
	refuseRetry, refuseRetryMost = time.Second, time.Minute
)

// portSet is a set of ports that are refused early: *refuse.Ports.
type portSet interface {
	Set(ports []uint16) error
	Close() error
}

// keptPorts keeps what the kernel refuses in one namespace as it is wanted. One goroutine of its own
// makes the changes; those that come meanwhile are made together.
type keptPorts struct {
	open   func() (portSet, error)
	log    *slog.Logger
	cancel context.CancelFunc
	done   chan struct{} // closed when nothing is refused any more

	mu     sync.Mutex
	wanted map[uint16]string // the ports that are to be refused, with their targets
	wake   chan struct{}
}

// keep has the ports that are wanted refused by set until end is called; open makes another set,
// empty, after a failure.
func keep(set portSet, open func() (portSet, error), log *slog.Logger) *keptPorts {
	ctx, cancel := context.WithCancel(context.Background())
	r := &keptPorts{open: open, log: log, cancel: cancel, done: make(chan struct{}), wanted: map[uint16]string{}, wake: make(chan struct{}, 1)}
	go r.run(ctx, set)
	return r
}

// want says whether a port is to be refused, because its target has no endpoint.
func (r *keptPorts) want(port uint16, target string, refused bool) {
	r.mu.Lock()
	if refused {
		r.wanted[port] = target
	} else {
		delete(r.wanted, port)
	}
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// end refuses nothing any more.
func (r *keptPorts) end() {
	r.cancel()
	<-r.done
}

func (r *keptPorts) run(ctx context.Context, set portSet) {
	defer close(r.done)
	defer func() {
		if set != nil {
			_ = set.Close() // the table goes with the socket, whatever it says
		}
	}()
	made, retry := map[uint16]string{}, refuseRetry
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-r.wake:
		case <-ctx.Done():
			return
		}
		select {
		case <-pause.C:
		case <-ctx.Done():
			return
		}
		r.mu.Lock()
		wanted := maps.Clone(r.wanted)
		r.mu.Unlock()
		var err error
		if set == nil && len(wanted) > 0 {
			set, err = r.open()
		}
		if err == nil && set != nil {
			err = set.Set(slices.Collect(maps.Keys(wanted)))
		}
		if err == nil {
			r.say(made, wanted)
			made, retry = wanted, refuseRetry
			pause.Reset(refusePace)
			continue
		}
		// The ports that are refused now are not known: none, until the table is made anew.
		if set != nil {
			_ = set.Close()
			set = nil
		}
		if retry == refuseRetry {
			r.log.Error("ports with refuse=early are refused late; trying again", "error", err, "retry_in", retry.String(),
				"hint", "if it goes on, leave the option out")
		}
		made = map[uint16]string{}
		pause.Reset(retry)
		retry = min(2*retry, refuseRetryMost)
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
}

// say tells the log what has changed.
func (r *keptPorts) say(before, now map[uint16]string) {
	for port, target := range now {
		if _, was := before[port]; !was {
			r.log.Info("the target has no endpoint; its port is refused early", "port", port, "target", target)
		}
	}
	for port, target := range before {
		if _, is := now[port]; !is {
			r.log.Info("the target has an endpoint; its port is not refused any more", "port", port, "target", target)
		}
	}
}
