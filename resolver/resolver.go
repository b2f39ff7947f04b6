package resolver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/shorten"
	"github.com/ambassadord/ambassadord/internal/suggest"
	"github.com/ambassadord/ambassadord/resolver/internal/burstlog"
	"github.com/ambassadord/ambassadord/resolver/internal/outage"
)

// Options tune a Resolver. The zero value of each field means its default.
type Options struct {
	// Timeout bounds how long Resolve waits for a first answer. Default 5 s.
	Timeout time.Duration
	// Grace is how much longer Resolve waits for the rest of a list once one
	// item has endpoints. Default 100 ms.
	Grace time.Duration
	// IdleAfter stops a watch that nobody asked for so long and that no
	// declaration keeps. Default 10 min.
	IdleAfter time.Duration
	// BackoffMin and BackoffMax bound the pause before a failed source is asked
	// again; it doubles from one to the other, with jitter. While no watch of a registry is
	// answered, it is 2 s at most for a hundred of them, and more for more. Defaults 250 ms,
	// 30 s.
	BackoffMin, BackoffMax time.Duration
	// NegativeFor is how long a failure is the answer before a new connection
	// makes the source be asked again at once. Default 1 s.
	NegativeFor time.Duration
	// MaxStale is how long a source may fail before its last answer no longer
	// counts. Default: for ever.
	MaxStale time.Duration
	// Debounce is the least time between two changes of which those who wait are
	// told. A first answer and a failure are told at once. Default 10 ms.
	Debounce time.Duration
	// Asking bounds the first questions that one scheme's source is asked at a
	// time. Default 64.
	Asking int
	// Shares bound what the targets of clients cost.
	Shares Shares
	// Log is told when a source fails and when it is well again. Default: nobody.
	Log *slog.Logger
}

func (o *Options) setDefaults() {
	setDefault(&o.Timeout, 5*time.Second)
	setDefault(&o.Grace, 100*time.Millisecond)
	setDefault(&o.IdleAfter, 10*time.Minute)
	setDefault(&o.BackoffMin, 250*time.Millisecond)
	setDefault(&o.BackoffMax, 30*time.Second)
	setDefault(&o.NegativeFor, time.Second)
	setDefault(&o.Debounce, 10*time.Millisecond)
	setDefault(&o.Asking, 64)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
}

func setDefault[T comparable](option *T, value T) {
	*option = cmp.Or(*option, value)
}

// Resolver owns the shared watches. Make one with New and run it with Run; its
// other methods may be called from any goroutine and wait for Run to start.
type Resolver struct {
	sources map[string]Source
	options Options

	running    chan struct{} // closed once Run has set ctx
	ctx        context.Context
	watches    sync.Map     // Query → *watch
	count      atomic.Int64 // of watches
	mu         sync.Mutex
	wg         sync.WaitGroup
	kept       atomic.Pointer[kept]
	shares     *shares
	log        *burstlog.Log
	registries outage.Registries[registryKey]
	turns      map[string]chan struct{} // by scheme: a place for each question that may be open
}

// New makes a Resolver over sources, by the scheme each of them answers.
func New(sources map[string]Source, options Options) *Resolver {
	options.setDefaults()
	r := &Resolver{sources: sources, options: options, log: burstlog.New(options.Log), running: make(chan struct{}), shares: newShares(options.Shares)}
	r.kept.Store(new(kept))
	r.turns = make(map[string]chan struct{}, len(sources))
	for scheme := range sources {
		r.turns[scheme] = make(chan struct{}, options.Asking)
	}
	return r
}

// Run lets watches run until ctx ends, then waits for all of them. It is called
// once.
func (r *Resolver) Run(ctx context.Context) error {
	r.ctx = ctx
	close(r.running)
	ticker := time.NewTicker(max(1, r.options.IdleAfter/idleLooks))
	defer ticker.Stop()
	for {
		select {
		case now := <-ticker.C:
			r.stopIdle(now)
		case <-ctx.Done():
			r.mu.Lock() // no watch starts after this: watch looks at ctx under mu
			defer r.mu.Unlock()
			r.wg.Wait()
			r.log.Close()
			return nil
		}
	}
}

// idleLooks is how often within Options.IdleAfter it is looked which watches are idle, so that they
// end soon after it.
const idleLooks = 10

// stopIdle stops the watches that nobody asked for lately and no declaration
// keeps.
func (r *Resolver) stopIdle(now time.Time) {
	kept := r.kept.Load()
	r.watches.Range(func(_, value any) bool {
		w := value.(*watch)
		if !kept.has(w.query) && now.Sub(w.usedAt()) >= r.options.IdleAfter {
			r.forget(w)
		}
		return true
	})
}

// Parse reads a target and asks the source of each of its queries whether it
// makes sense. It does no I/O. What means something else to each client is as the
// host means it; Target.For says who else asks.
func (r *Resolver) Parse(text string) (Target, error) {
	t, starts, err := parse(text)
	if err != nil {
		return Target{}, hint.Wrap(err, r.misspelt(text, err))
	}
	for i, c := range t.Choices {
		for j, q := range c.Queries {
			source, ok := r.sources[q.Scheme]
			if !ok {
				return Target{}, r.unknownScheme(text, starts[i], q)
			}
			if err := source.Check(q); err != nil {
				return Target{}, fmt.Errorf("target %q: %w", shorten.Text(text, maxShown), err)
			}
			if s, ok := source.(ByClient); ok && s.ByClient(q) {
				c.Queries[j].Client = ForHost
			}
		}
	}
	return t, nil
}

// misspelt is what to write in place of the choice in which err is, if that is a scheme of ours with
// a colon alone after it; "" otherwise.
func (r *Resolver) misspelt(text string, err error) string {
	mistake, ok := errors.AsType[*SyntaxError](err)
	if !ok {
		return ""
	}
	at := min(mistake.Column-1, len(text))
	choice := text[strings.LastIndexByte(text[:at], '|')+1:]
	choice, _, _ = strings.Cut(choice, "|")
	scheme, rest, _ := strings.Cut(strings.TrimSpace(choice), ":")
	scheme, rest = strings.ToLower(scheme), strings.TrimLeft(rest, "/")
	source := r.sources[scheme]
	if source == nil || scheme == SchemeStatic {
		return ""
	}
	right, err := Parse(scheme + "://" + rest)
	if err != nil || source.Check(right.Choices[0].Queries[0]) != nil {
		return ""
	}
	return shorten.Text("write "+scheme+"://"+rest, maxShown)
}

// foreignSchemes are those of other programs' addresses that people write before a host and port.
var foreignSchemes = []string{
	"amqp", "amqps", "http", "https", "mongodb", "mysql", "nats", "postgres", "postgresql", "redis", "rediss", "ssl", "tcp", "tcp4", "tcp6", "tls",
}

// datagramSchemes are of what is no TCP.
var datagramSchemes = []string{"coap", "coaps", "dtls", "quic", "udp", "udp4", "udp6"}

func (r *Resolver) unknownScheme(text string, offset int, q Query) error {
	var known []string
	for s := range maps.Keys(r.sources) {
		if s != SchemeStatic { // that is written without a scheme
			known = append(known, s)
		}
	}
	slices.Sort(known)
	fix := fmt.Sprintf("the schemes are %v", known)
	switch s := suggest.Closest(q.Scheme, known); {
	case slices.Contains(datagramSchemes, q.Scheme):
		fix = "only TCP is carried: let the client speak TCP, or reach the service without ambassadord"
	case slices.Contains(foreignSchemes, q.Scheme):
		fix = "a target has no scheme for what is said over the connection: write HOST:PORT"
		if q.Port != 0 && q.Host != "" {
			fix = shorten.Text("write "+q.HostPort()+" alone", maxShown)
		}
	case s != "":
		fix = fmt.Sprintf("did you mean %s://?", s)
	}
	return syntaxError(text, offset, fix, "unknown scheme %q", q.Scheme)
}

func (r *Resolver) started(ctx context.Context) error {
	select {
	case <-r.running:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// settle waits until it is decided which endpoints t has: every query of the
// choice to be used has answered or failed; once one of a list has endpoints, for
// Grace at most.
func (r *Resolver) settle(ctx context.Context, t Target) view {
	var grace, deadline time.Time
	for {
		now := time.Now()
		v := newView(t, now, &r.options, r.watch)
		final, until, changed := v.decide(now, &grace, r.options.Grace)
		if final {
			return v
		}
		if deadline.IsZero() {
			var cancel context.CancelFunc
			deadline = now.Add(r.options.Timeout)
			ctx, cancel = context.WithDeadline(ctx, deadline)
			defer cancel()
		}
		if !waitAny(ctx, changed, until) {
			v.giveUp(r.options.Timeout)
			return v
		}
	}
}
