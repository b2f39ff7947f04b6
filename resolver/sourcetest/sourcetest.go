// Package sourcetest checks that a resolver.Source keeps its contract, whatever
// stands behind it. A source's test describes one query and how to change its
// answer, and calls Run; Watch is for tests of what one source alone does.
package sourcetest

import (
	"context"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ambassadord/ambassadord/resolver"
)

// patience is how long a test waits for what must happen. Only a broken source
// uses it up.
const patience = 20 * time.Second

// prompt is how soon Watch must return once its context ends.
const prompt = 2 * time.Second

// Case is one query whose answer the test controls.
type Case struct {
	// New makes the source. What it needs to let go of, connections that are
	// kept open for one, letGo does; nil when there is nothing.
	New func(testing.TB) (source resolver.Source, letGo func())
	// Query is asked.
	Query resolver.Query
	// Want is the answer at first, in any order: each endpoint as its String.
	Want []string
	// Change makes WantChanged the answer; nil for a source without change.
	Change      func(testing.TB)
	WantChanged []string
	// Control is what the test can do to what the source asks. Its zero value is for
	// a source whose answer cannot change or fail.
	Control Control
	// Own are the goroutines of the test itself that Control starts: a server's.
	Own []goleak.Option
}

// Run runs the suite. It does not run in parallel with anything: goroutines that
// start meanwhile elsewhere would look like leaks.
func Run(t *testing.T, c Case) {
	t.Helper()
	goroutines, descriptors := goleak.IgnoreCurrent(), openDescriptors(t)
	source, letGo := c.New(t)

	t.Run("accepts its query", func(t *testing.T) {
		if err := source.Check(c.Query); err != nil {
			t.Errorf("Check(%s): %v", c.Query, err)
		}
	})
	t.Run("returns nil when its context has ended", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		done := make(chan error, 1)
		go func() { done <- source.Watch(ctx, c.Query, func(resolver.Answer) {}) }()
		awaitNil(t, done)
	})
	t.Run("answers and returns nil when cancelled", func(t *testing.T) {
		w := Watch(t, source, c.Query)
		w.Await(t, c.Want...)
		w.Stop(t)
	})
	t.Run("answers two watches at once", func(t *testing.T) {
		one, two := Watch(t, source, c.Query), Watch(t, source, c.Query)
		one.Await(t, c.Want...)
		two.Await(t, c.Want...)
		one.Stop(t)
		two.Stop(t)
	})
	t.Run("watches that come and go leave nothing", func(t *testing.T) { comeAndGo(t, source, c.Query) })
	if c.Change != nil {
		t.Run("publishes a change", func(t *testing.T) {
			w := Watch(t, source, c.Query)
			w.Await(t, c.Want...)
			c.Change(t)
			w.Await(t, c.WantChanged...)
			w.Stop(t)
		})
	}
	c.Control.run(t, source, c.Query)
	t.Run("leaves no goroutine and no descriptor", func(t *testing.T) {
		if letGo != nil {
			letGo()
		}
		goleak.VerifyNone(t, append(slices.Clip(c.Own), goroutines)...)
		awaitDescriptors(t, descriptors)
	})
}

// Watcher is a running Watch and what it published.
type Watcher struct {
	answers chan resolver.Answer
	done    chan error
	cancel  context.CancelFunc
}

// Watch starts source.Watch in a goroutine that the test's end waits for.
func Watch(t testing.TB, source resolver.Source, q resolver.Query) *Watcher {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w := &Watcher{answers: make(chan resolver.Answer, 1024), done: make(chan error, 1), cancel: cancel}
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		w.done <- source.Watch(ctx, q, func(a resolver.Answer) { w.answers <- a })
	}()
	t.Cleanup(func() {
		cancel()
		<-finished
	})
	return w
}

// Next returns the next published answer.
func (w *Watcher) Next(t testing.TB) resolver.Answer {
	t.Helper()
	select {
	case a := <-w.answers:
		return a
	case err := <-w.done:
		w.done <- err
		select { // published just before the return
		case a := <-w.answers:
			return a
		default:
		}
		t.Fatalf("Watch returned %v; an answer was expected", err)
	case <-time.After(patience):
		t.Fatalf("no answer within %v", patience)
	}
	return resolver.Answer{}
}

// Await reads answers until one has exactly these endpoints, in any order, and
// returns it.
func (w *Watcher) Await(t testing.TB, endpoints ...string) resolver.Answer {
	t.Helper()
	want := slices.Sorted(slices.Values(endpoints))
	deadline := time.Now().Add(patience)
	for {
		a := w.Next(t)
		got := Endpoints(a)
		if a.Err == nil && slices.Equal(got, want) {
			return a
		}
		if time.Now().After(deadline) {
			t.Fatalf("the answer is still %v (%s, %v), want %v", got, a.Note, a.Err, want)
		}
		t.Logf("answered %v (%s, %v); waiting for %v", got, a.Note, a.Err, want)
	}
}

// Answers are the answers that nobody has read yet.
func (w *Watcher) Answers() <-chan resolver.Answer { return w.answers }

// Done yields what Watch returned, once.
func (w *Watcher) Done() <-chan error { return w.done }

// Quiet fails the test if an answer is waiting unread.
func (w *Watcher) Quiet(t testing.TB) {
	t.Helper()
	select {
	case a := <-w.answers:
		t.Errorf("published once more: %v (%s)", Endpoints(a), a.Note)
	default:
	}
}

// Err waits until Watch returns and returns its error.
func (w *Watcher) Err(t testing.TB) error {
	t.Helper()
	select {
	case err := <-w.done:
		w.done <- err
		return err
	case <-time.After(patience):
		t.Fatalf("Watch still runs after %v; it should have failed", patience)
		return nil
	}
}

// Stop cancels the watch, which must then return nil promptly.
func (w *Watcher) Stop(t testing.TB) {
	t.Helper()
	w.cancel()
	awaitNil(t, w.done)
}

func awaitNil(t testing.TB, done chan error) {
	t.Helper()
	select {
	case err := <-done:
		done <- err
		if err != nil {
			t.Errorf("a cancelled Watch returned %v, want nil", err)
		}
	case <-time.After(prompt):
		t.Fatalf("a cancelled Watch still runs after %v", prompt)
	}
}

// Endpoints are the answer's endpoints as text, sorted.
func Endpoints(a resolver.Answer) []string {
	var texts []string
	for _, e := range a.Endpoints {
		texts = append(texts, e.String())
	}
	slices.Sort(texts)
	return texts
}

// LeftOut are those left out of the answer as "NAME (ADDRESS) WHY", in its order.
func LeftOut(a resolver.Answer) []string {
	var texts []string
	for _, l := range a.LeftOut {
		text := l.String()
		if l.Name != "" && l.Addr != "" {
			text = l.Name + " (" + l.Addr + ") " + l.Why
		}
		texts = append(texts, text)
	}
	return texts
}
