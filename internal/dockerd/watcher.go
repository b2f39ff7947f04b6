package dockerd

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/ambassadord/ambassadord/internal/backoff"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/watchable"
)

const (
	defaultResyncInterval = 30 * time.Second

	// From lost to tried again it is minBackoff at first and maxBackoff at most, of which up
	// to retryJitter is left to chance. That bounds how late an engine that can be asked again is
	// asked, if nothing tells that it can.
	minBackoff  = 250 * time.Millisecond
	maxBackoff  = 2 * time.Second
	retryJitter = 0.2
	// settled is how long a connection has to last for the backoff to start anew: an engine
	// that accepts and hangs up must not be listed in a tight loop.
	settled = 10 * time.Second
)

// Config says which engine to watch. Its zero value is the local engine.
type Config struct {
	// Endpoint is unix://PATH or tcp://HOST:PORT. By default it is DOCKER_HOST,
	// else unix:///var/run/docker.sock. DOCKER_TLS_VERIFY and DOCKER_CERT_PATH
	// are honoured for TCP.
	Endpoint string
	// Log receives one record when the engine is lost and one when it is back,
	// and one when a single container cannot be inspected. Nil discards them.
	Log *slog.Logger
	// ResyncInterval is the time between two full lists, 30 s by default. It
	// bounds how long a lost event can go unnoticed, if what it told of shows in
	// the list; else twenty times that does.
	ResyncInterval time.Duration
}

// Watcher keeps the snapshot of one engine. All its methods may be called from
// any goroutine; Run must be running for anything to change.
type Watcher struct {
	engine *engine
	log    *slog.Logger
	resync time.Duration

	minBackoff, minRetry time.Duration // fields so that tests need not wait

	running      atomic.Bool
	latest       watchable.Value[known]
	savedConfigs atomic.Pointer[string] // the folder with what the engine has saved of containers, nil while not known
	late         atomic.Bool            // the engine's stream tells of what has happened some time later
	catchUp      chan struct{}          // to ask for it at once
	images       images

	engineID string // of the engine that was connected to last, "" while not known; Run's alone
}

// known is what a Watcher knows of its engine.
type known struct {
	snapshot *Snapshot // nil before the first
	failure  error     // nil while connected
}

// New checks cfg and makes a Watcher; it connects to nothing yet. The error
// carries a hint.
func New(cfg Config) (*Watcher, error) {
	e, err := newEngine(cfg.Endpoint)
	if err != nil {
		return nil, err
	}
	return &Watcher{
		engine: e,
		log:    cmp.Or(cfg.Log, slog.New(slog.DiscardHandler)),
		resync: cmp.Or(max(0, cfg.ResyncInterval), defaultResyncInterval),

		catchUp: make(chan struct{}, 1),

		minBackoff: minBackoff,
		minRetry:   minRetry,
	}, nil
}

// Endpoint is the engine's address, as configured or found in the environment.
func (w *Watcher) Endpoint() string { return w.engine.endpoint }

// Snapshot is the latest snapshot, or nil before the first. It takes no lock.
func (w *Watcher) Snapshot() *Snapshot { return w.latest.Load().snapshot }

// Err is the last failure to reach the engine, with a hint, or nil when it is
// connected or was never tried.
func (w *Watcher) Err() error { return w.latest.Load().failure }

// Away says why nothing that is known is current: the engine is away, or has not confirmed
// any of it since it came back. It is nil otherwise, and before the first snapshot if the
// engine is there.
func (w *Watcher) Away() error {
	if err := w.Err(); err != nil {
		return err
	}
	if s := w.Snapshot(); s != nil && s.Unconfirmed() > 0 && s.Unconfirmed() == len(s.containers) {
		return errors.New("the engine is back, and has yet to say what runs")
	}
	return nil
}

// Wait blocks until there is a snapshot other than after, which may be nil, and
// returns it. It skips those that were replaced meanwhile. The error is ctx's.
func (w *Watcher) Wait(ctx context.Context, after *Snapshot) (*Snapshot, error) {
	for {
		now, changed := w.latest.Watch()
		if now.snapshot != nil && now.snapshot != after {
			return now.snapshot, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Changed is closed at the next change of what Snapshot or Err return. A caller that
// waits for one asks for the channel before it looks.
func (w *Watcher) Changed() <-chan struct{} {
	_, changed := w.latest.Watch()
	return changed
}

func (w *Watcher) publish(s *Snapshot) {
	w.latest.Update(func(k known) known { return known{s, k.failure} })
}

// setFailure makes err what Err returns; nil is for a connected engine.
func (w *Watcher) setFailure(err error) {
	w.latest.Update(func(k known) known { return known{k.snapshot, err} })
}

// Run follows the engine until ctx ends, then returns nil once every goroutine
// it started has ended. An engine that is away, hangs or restarts is an outage,
// not an error: Run keeps trying, 250 ms to 2 s apart. The only error is
// a second Run at the same time.
func (w *Watcher) Run(ctx context.Context) error {
	if !w.running.CompareAndSwap(false, true) {
		return errors.New("docker watcher: already running")
	}
	defer w.running.Store(false)
	defer w.engine.transport.CloseIdleConnections()

	out := outage{log: w.log, endpoint: w.engine.endpoint}
	pauses := backoff.Backoff{Base: w.minBackoff * 5 / 4, Max: maxBackoff, Jitter: retryJitter}
	for {
		f := newFollower(w, out.end)
		began := time.Now()
		err := f.run(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if s := w.Snapshot(); s != nil && s.Unconfirmed() < len(s.containers) {
			w.publish(s.withUnconfirmed(s.ids())) // before Err says so, and with what it may still hold
		}
		w.setFailure(err)
		out.begin(err)
		if f.connected && time.Since(began) > settled {
			pauses.Reset()
		}
		w.engine.await(ctx, pauses.Next())
		if ctx.Err() != nil {
			return nil
		}
	}
}

// outage makes one log record of a loss and one of a recovery.
type outage struct {
	log      *slog.Logger
	endpoint string
	since    time.Time // zero while connected
	reached  bool      // it has been connected
}

func (o *outage) begin(err error) {
	if o.since.IsZero() {
		o.since = time.Now()
		what := "docker engine lost; its last known containers stay"
		if !o.reached {
			what = "docker engine not reached yet; no container is known"
		}
		o.log.Warn(what, "endpoint", o.endpoint, "error", err, hint.Attr(err))
	}
}

func (o *outage) end() {
	what := "docker engine is back"
	if !o.reached {
		what = "docker engine is reached"
	}
	o.reached = true
	if !o.since.IsZero() {
		o.log.Info(what, "endpoint", o.endpoint, "after", time.Since(o.since).Round(time.Millisecond))
		o.since = time.Time{}
	}
}
