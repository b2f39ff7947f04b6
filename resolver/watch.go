package resolver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ambassadord/ambassadord/internal/backoff"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/watchable"
	"github.com/ambassadord/ambassadord/resolver/internal/burstlog"
	"github.com/ambassadord/ambassadord/resolver/internal/outage"
)

// watch is the one watch of a query and what it last learned.
type watch struct {
	query   Query
	options *Options
	log     *burstlog.Log
	created time.Time
	used    atomic.Int64  // when somebody last asked, in Unix nanoseconds
	asked   atomic.Int64  // when the source was last asked, likewise; 0 before
	retry   chan struct{} // asks for an attempt before its turn, or the backoff's end

	doubting doubting
	stop     context.CancelFunc
	// owners are the clients that declare it, or what led to it; none for the operator's.
	owners    atomic.Pointer[[]*account]
	allowance *Allowance        // set before it runs
	wanted    func(*watch) bool // likewise, as looksUp
	looksUp   bool              // a name in an answer

	// Under Resolver.mu: in whose answers it is, beside those who declare it.
	free    bool // the operator's
	lenders []*account

	state watchable.Value[*state] // tells that it is another, at once or soon after

	mu     sync.Mutex // held by writers of state, and for what follows
	woken  time.Time  // when those who wait were last woken
	flush  *time.Timer
	expiry *time.Timer
}

// state is what a watch knows; it is replaced, never changed.
type state struct {
	answer   *Answer   // the last one; nil until the first, and once it is too old
	answered time.Time // when the source gave it
	err      error     // the source's failure since then; nil while it is well
	failed   time.Time // when err came
	failing  time.Time // when the first failure since the source was well came
	standing bool      // the source tells when err is over; asking again is no use
}

func (s *state) serves() bool { return s.answer != nil && len(s.answer.Endpoints) > 0 }

// counts says whether the answer is to be used. A failing source's empty answer
// is not: somebody may serve by now.
func (s *state) counts() bool { return s.answer != nil && (s.err == nil || s.serves()) }

func newWatch(q Query, options *Options, log *burstlog.Log) *watch {
	now := time.Now()
	w := &watch{query: q, options: options, log: log, created: now, retry: make(chan struct{}, 1)}
	w.doubting.ask = make(chan Doubt)
	w.used.Store(now.UnixNano())
	w.state.Store(new(state))
	return w
}

func (w *watch) usedAt() time.Time { return time.Unix(0, w.used.Load()) }

// askedAt is when the source was last asked; zero before the first time.
func (w *watch) askedAt() time.Time {
	if n := w.asked.Load(); n != 0 {
		return time.Unix(0, n)
	}
	return time.Time{}
}

// publish takes what the source says.
func (w *watch) publish(a Answer) {
	if a.Err != nil {
		w.fail(a.Err, true)
		return
	}
	if more := len(a.LeftOut) - MaxLeftOut; more > 0 {
		a.LeftOut = slices.Clip(a.LeftOut[:MaxLeftOut])
		a.Note = join(a.Note, fmt.Sprintf("%d more are left out", more))
	}
	if err := w.allowance.publish(&a); err != nil {
		w.fail(err, true)
		return
	}
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	old := w.state.Load()
	if old.err != nil {
		w.say(slog.LevelInfo, "source is well again", "after", now.Sub(old.failing).Round(time.Millisecond).String())
	}
	if w.expiry != nil {
		w.expiry.Stop()
		w.expiry = nil
	}
	w.replace(state{answer: &a, answered: now})
}

// fail keeps the last answer beside the error.
func (w *watch) fail(err error, standing bool) {
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	old := w.state.Load()
	next := state{answer: old.answer, answered: old.answered, err: err, failed: now, failing: old.failing, standing: standing}
	if old.err == nil {
		next.failing = now
	}
	w.logFailure(old, &next)
	if old.answer != nil && w.expiry == nil && w.options.MaxStale > 0 {
		w.expiry = time.AfterFunc(w.options.MaxStale, w.expire)
	}
	w.replace(next)
}

// logFailure says it once, and again when the reason changes.
func (w *watch) logFailure(old, next *state) {
	level := slog.LevelWarn
	if old.err != nil && old.err.Error() == next.err.Error() {
		level = slog.LevelDebug
	}
	message, attrs := "source failed", []any{"error", next.err, hint.Attr(next.err)}
	if next.answer != nil {
		message = "source failed; the last answer stays"
		attrs = append(attrs, "endpoints", len(next.answer.Endpoints), "last_answer_age", next.failed.Sub(next.answered).Round(time.Millisecond).String())
	}
	w.say(level, message, attrs...)
}

// say logs a line about w, which names the first of its clients and how many more there are. What
// happens to a target that its last client has left is seen at level debug alone.
func (w *watch) say(level slog.Level, message string, attrs ...any) {
	owner := ""
	if owners := w.owners.Load(); owners != nil && len(*owners) > 0 {
		owner = (*owners)[0].owner
		if more := len(*owners) - 1; more > 0 {
			attrs = append([]any{"more_clients", more}, attrs...)
		}
		if w.wanted != nil && !w.wanted(w) {
			level = slog.LevelDebug
		}
	}
	w.log.Say(level, w.query.Scheme, w.query.String(), owner, message, attrs...)
}

// expire forgets an answer whose source has been failing for MaxStale.
func (w *watch) expire() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.expiry == nil { // the source has become well just now
		return
	}
	w.expiry = nil
	next := *w.state.Load()
	w.say(slog.LevelWarn, "the last answer is too old and no longer counts",
		"failing_for", time.Since(next.failing).Round(time.Millisecond).String(), "max_stale", w.options.MaxStale.String(), "error", next.err)
	next.answer, next.answered = nil, time.Time{}
	w.replace(next)
}

// replace makes next the state, and wakes those who wait for the old one: at once,
// unless they have been woken within Debounce and had endpoints all the while.
// It is called with mu held.
func (w *watch) replace(next state) {
	now, old := time.Now(), w.state.Load()
	if pause := w.woken.Add(w.options.Debounce).Sub(now); pause > 0 && old.serves() && old.err == nil && next.err == nil {
		w.state.StoreQuietly(&next)
		if w.flush == nil {
			w.flush = time.AfterFunc(pause, w.wake)
		}
		return
	}
	if w.flush != nil {
		w.flush.Stop()
		w.flush = nil
	}
	w.woken = now
	w.state.Store(&next)
}

// wake wakes those who wait, at the end of a burst.
func (w *watch) wake() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.flush == nil { // they have been woken meanwhile
		return
	}
	w.flush = nil
	w.woken = time.Now()
	w.state.Update(anew)
}

// end stops the timers. Those who wait are woken: they look again, at a new watch.
func (w *watch) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, t := range []*time.Timer{w.flush, w.expiry} {
		if t != nil {
			t.Stop()
		}
	}
	w.flush, w.expiry = nil, nil
	w.state.Update(anew)
}

// anew is the same state as another: a Resolution that was made of s is no longer current.
func anew(s *state) *state {
	same := *s
	return &same
}

// askNow asks for an attempt before its turn.
func (w *watch) askNow() {
	select {
	case w.retry <- struct{}{}:
	default:
	}
}

// registryKey is what the queries to one registry have in common.
type registryKey struct {
	scheme, server, host string
	port                 uint16
}

// registryOf is where q asks. The host of a query with a path is a registry's, any other one is
// the name that is asked for.
func registryOf(q Query) registryKey {
	key := registryKey{scheme: q.Scheme, server: q.Server}
	if q.Path != "" {
		key.host, key.port = q.Host, q.Port
	}
	return key
}

// run asks source until ctx ends, with a growing pause after each failure. turns are those that
// the watches of one scheme share.
func (w *watch) run(ctx context.Context, source Source, registries *outage.Registries[registryKey], turns chan struct{}) {
	defer w.end()
	defer w.allowance.end()
	ctx = context.WithValue(ctx, allowanceKey{}, w.allowance)
	ctx = context.WithValue(ctx, doubtsKey{}, w.doubting.ask)
	at, leave := registries.Enter(registryOf(w.query))
	defer leave()
	failing := false
	answer := func(well bool) {
		if failing {
			failing = false
			at.Answer(well)
		}
	}
	defer answer(false)
	pauses := backoff.Backoff{Base: w.options.BackoffMin, Jitter: 0.5}
	urgent := false
	for {
		answered := w.admit(ctx, turns, urgent)
		select { // who wanted this attempt has it now
		case <-w.retry:
		default:
		}
		w.asked.Store(time.Now().UnixNano())
		err := watchOnce(ctx, source, w.query, func(a Answer) {
			answered()
			if a.Err == nil {
				pauses.Reset()
				answer(true)
			}
			w.publish(a)
		})
		answered()
		if ctx.Err() == nil {
			w.fail(err, false)
		}
		w.doubting.end()
		if ctx.Err() != nil {
			return
		}
		longest, recovered := at.Fail(failing, w.askedAt(), w.options.BackoffMax)
		failing = true
		pauses.Max = longest
		pause := time.NewTimer(pauses.Next())
		select {
		case <-recovered:
			pause.Stop()
			urgent = false
			pauses.Reset()
			pauses.Next() // it is asked at once, in place of the first pause
		case <-pause.C:
			urgent = false
		case <-w.retry:
			pause.Stop()
			urgent = true
		case <-ctx.Done():
			pause.Stop()
			return
		}
	}
}

// askingFor is how long a question that is not answered holds up others.
const askingFor = time.Second

// admit waits for w's turn to ask its source, and returns a function to be called
// once that has answered. Thousands of watches start at once with the daemon, or
// when a registry is back; the source is asked Options.Asking questions at a time.
// A question that a connection waits for is urgent and asked at once.
func (w *watch) admit(ctx context.Context, turns chan struct{}, urgent bool) (answered func()) {
	if urgent {
		return func() {}
	}
	select {
	case turns <- struct{}{}:
	case <-w.retry:
		return func() {}
	case <-ctx.Done():
		return func() {}
	}
	leave := sync.OnceFunc(func() { <-turns })
	slow := time.AfterFunc(askingFor, leave)
	return func() {
		slow.Stop()
		leave()
	}
}

// watchOnce turns a source's panic into its failure: a hostile registry's answer
// must not end the daemon.
func watchOnce(ctx context.Context, s Source, q Query, publish func(Answer)) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the %s source panicked: %v\n%s", q.Scheme, p, debug.Stack())
		}
	}()
	if err := s.Watch(ctx, q, publish); err != nil {
		return err
	}
	return errors.New("the source ended its watch without a reason")
}
