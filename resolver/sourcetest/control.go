package sourcetest

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/resolver"
)

// Control is what a test can do to what a source asks: the fake or real registry,
// the file. Each function returns once the registry has it; that the source has
// noticed is what the suite waits for.
type Control struct {
	// Set makes endpoints, addresses with Port, all that the query should find; none
	// is an answer too. It is for every source whose answer can change.
	Set func(t testing.TB, endpoints ...string)
	// Port is the one that Set's endpoints have.
	Port uint16
	// Break makes the source unable to tell, and Mend undoes that. They are for every
	// source that can fail.
	Break, Mend func(testing.TB)
	// Updates is how many changes in a row must not make the source grow; 10,000
	// unless the registry has a rate of its own.
	Updates int
	// Spare is how many goroutines and descriptors more than after its first update the
	// source may come to hold, in a pool of connections that fills while it is busy.
	Spare int
}

// growth is how much larger the heap may be after all the updates than it was
// after the first tenth of them. A source may skip nine of ten, and each that it sees
// must leave next to nothing.
const growth = 256 << 10

func (c Control) endpoint(i int) string {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 77, byte(i >> 8), byte(i)}), c.Port).String()
}

func (c Control) run(t *testing.T, source resolver.Source, q resolver.Query) {
	t.Helper()
	if c.Set == nil {
		return
	}
	one, two := c.endpoint(1), c.endpoint(2)
	t.Run("follows changes", func(t *testing.T) {
		c.Set(t, one)
		w := Watch(t, source, q)
		w.Await(t, one)
		c.Set(t, one, two)
		w.Await(t, one, two)
		c.Set(t, two)
		w.Await(t, two)
		w.Stop(t)
	})
	t.Run("nobody is an answer, at first and later", func(t *testing.T) {
		c.Set(t)
		w := Watch(t, source, q)
		w.Await(t)
		c.Set(t, one)
		w.Await(t, one)
		c.Set(t)
		w.Await(t)
		c.Set(t, two)
		w.Await(t, two)
		w.Stop(t)
	})
	if c.Break != nil {
		c.runFailure(t, source, q)
	}
	t.Run("does not grow with updates", func(t *testing.T) { c.update(t, source, q) })
}

func (c Control) runFailure(t *testing.T, source resolver.Source, q resolver.Query) {
	t.Helper()
	one, two := c.endpoint(1), c.endpoint(2)
	t.Run("a failure is an error, not an answer, and is over when its cause is", func(t *testing.T) {
		c.Set(t, one)
		w := Watch(t, source, q)
		w.Await(t, one)
		c.Break(t)
		goesOn := w.awaitFailure(t, one)
		c.Mend(t)
		c.Set(t, two)
		if goesOn {
			w.Await(t, two)
		} else {
			w = Rewatch(t, source, q, two)
		}
		w.Stop(t)
	})
	t.Run("fails from the start", func(t *testing.T) {
		c.Break(t)
		defer c.Mend(t)
		w := Watch(t, source, q)
		if w.awaitFailure(t, two) { // it may remember, as long as it says that it fails
			w.Stop(t)
		}
	})
	t.Run("returns nil when cancelled while it fails", func(t *testing.T) {
		c.Break(t)
		defer c.Mend(t)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		failed := make(chan struct{}, 1)
		go func() {
			done <- source.Watch(ctx, q, func(a resolver.Answer) {
				select {
				case failed <- struct{}{}:
				default:
				}
			})
		}()
		select {
		case <-failed:
			cancel()
			awaitNil(t, done)
		case err := <-done: // it had failed before it could be cancelled
			cancel()
			if err == nil {
				t.Error("Watch returned nil before its context had ended")
			}
		case <-time.After(patience):
			cancel()
			t.Fatalf("no failure within %v", patience)
		}
	})
	c.Set(t, one)
	Rewatch(t, source, q, one).Stop(t)
}

// retryPause is the Resolver's pause after a failure, made short.
const retryPause = 20 * time.Millisecond

// Rewatch watches, and after a failure again, as the Resolver would, until the answer
// is these endpoints: a source may take a moment to be connected again.
func Rewatch(t testing.TB, source resolver.Source, q resolver.Query, endpoints ...string) *Watcher {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		w := Watch(t, source, q)
		for failed := false; !failed; {
			select {
			case a := <-w.answers:
				if a.Err == nil && slices.Equal(Endpoints(a), endpoints) {
					return w
				}
			case err := <-w.done:
				w.done <- err
				t.Logf("not yet: %v", err)
				failed = true
			case <-time.After(time.Until(deadline)):
				failed = true
			}
		}
		<-time.After(retryPause)
	}
	t.Fatalf("the answer is not %v within %v", endpoints, patience)
	return nil
}

// awaitFailure waits until w fails, and reports whether it goes on. Until then it
// may say again who serves, and nothing else.
func (w *Watcher) awaitFailure(t testing.TB, serving ...string) (goesOn bool) {
	t.Helper()
	deadline := time.After(patience)
	check := func(err error) {
		t.Helper()
		if err == nil {
			t.Fatal("Watch returned nil before its context had ended")
		}
		if hint.Of(err) == "" {
			t.Errorf("the failure does not say what to do: %v", err)
		}
	}
	for {
		select {
		case a := <-w.answers:
			if a.Err != nil {
				check(a.Err)
				return true
			}
			if got := Endpoints(a); !slices.Equal(got, serving) {
				t.Fatalf("a failure is told as the answer %v (%s)", got, a.Note)
			}
		case err := <-w.done:
			w.done <- err
			check(err)
			return false
		case <-deadline:
			t.Fatalf("no failure within %v", patience)
		}
	}
}

// update changes the answer over and over, and compares what that has cost.
func (c Control) update(t *testing.T, source resolver.Source, q resolver.Query) {
	t.Helper()
	updates := c.Updates
	if updates == 0 {
		updates = 10_000
	}
	var latest atomic.Pointer[resolver.Answer]
	changed := make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- source.Watch(ctx, q, func(a resolver.Answer) {
			latest.Store(&a)
			select {
			case changed <- struct{}{}:
			default:
			}
		})
	}()
	await := func(want string) {
		t.Helper()
		deadline := time.After(patience)
		for {
			if a := latest.Load(); a != nil && a.Err == nil && slices.Equal(Endpoints(*a), []string{want}) {
				return
			}
			select {
			case <-changed:
			case err := <-done:
				done <- err
				t.Fatalf("Watch returned %v after an update", err)
			case <-deadline:
				t.Fatalf("the answer is not %s within %v", want, patience)
			}
		}
	}
	defer func() {
		cancel()
		awaitNil(t, done)
	}()

	var first, base usage
	for i := 1; i <= updates; i++ {
		c.Set(t, c.endpoint(i))
		if i == 1 || i%10 == 0 || i == updates {
			await(c.endpoint(i))
		}
		if i == 1 {
			first = measure(t)
		}
		if i == max(1, updates/10) {
			base = measure(t)
		}
	}
	others := first.plus(c.Spare)
	now := settled(t, base, others) // for the source is still busy
	t.Logf("after 1 update: %s; after %d: %s; after %d: %s", first, updates/10, base, updates, now)
	if now.exceeds(base, others) {
		t.Error("that grows")
	}
}

// comings is how many watches that come and go must leave nothing: they do as
// containers do, for as long as the daemon runs.
const comings = 500

// comeAndGo starts watches one after the other, and ends each when it has answered.
func comeAndGo(t *testing.T, source resolver.Source, q resolver.Query) {
	t.Helper()
	one := func() {
		t.Helper()
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		done, answered := make(chan error, 1), make(chan struct{}, 1)
		go func() {
			done <- source.Watch(ctx, q, func(resolver.Answer) {
				select {
				case answered <- struct{}{}:
				default:
				}
			})
		}()
		select {
		case <-answered:
		case err := <-done:
			t.Fatalf("Watch returned %v; an answer was expected", err)
		case <-time.After(patience):
			t.Fatalf("no answer within %v", patience)
		}
		cancel()
		awaitNil(t, done)
	}
	for range comings / 10 {
		one()
	}
	base := measure(t)
	for range comings - comings/10 {
		one()
	}
	// The other ends of connections, which the test's own server may hold, go later; and
	// a pool of them may be fuller by chance. What each watch leaves is ten times that.
	pooled := base.plus(comings / 10)
	now := settled(t, base, pooled)
	t.Logf("after %d watches: %s; after %d: %s", comings/10, base, comings, now)
	if now.exceeds(base, pooled) {
		t.Error("that grows")
	}
}

// usage is what a process holds.
type usage struct {
	heap                    uint64
	goroutines, descriptors int
}

func (u usage) String() string {
	return fmt.Sprintf("%d KiB of heap, %d goroutines, %d descriptors", u.heap>>10, u.goroutines, u.descriptors)
}

// plus is u with so many goroutines and descriptors more.
func (u usage) plus(n int) usage {
	u.goroutines += n
	u.descriptors += n
	return u
}

// exceeds says whether u is a heap that has grown since heap was measured, or more of
// the rest than there was in others.
func (u usage) exceeds(heap, others usage) bool {
	return u.heap > heap.heap+growth || u.goroutines > others.goroutines+2 || u.descriptors > others.descriptors+2
}

// settled is what the process holds once that exceeds neither heap nor others, or after
// prompt: what a question takes comes and goes, what grows stays.
func settled(t testing.TB, heap, others usage) usage {
	t.Helper()
	now := measure(t)
	for deadline := time.Now().Add(prompt); now.exceeds(heap, others) && time.Now().Before(deadline); now = measure(t) {
		<-time.After(retryPause)
	}
	return now
}

func measure(t testing.TB) usage {
	t.Helper()
	// Descriptors first: a collection closes files that were lost sight of.
	u := usage{descriptors: countDescriptors(t), goroutines: runtime.NumGoroutine()}
	for range 2 { // what the first finds in a pool, the second frees
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	u.heap = m.HeapAlloc
	return u
}

// openDescriptors counts them when the runtime has those that it keeps for itself.
func openDescriptors(t testing.TB) int {
	t.Helper()
	r, w, err := os.Pipe() // makes the poller's
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	w.Close()
	return countDescriptors(t)
}

func countDescriptors(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// awaitDescriptors waits until no more than want are open: the other end of a
// connection, which the test's own server holds, goes a moment later.
func awaitDescriptors(t testing.TB, want int) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); countDescriptors(t) > want; <-tick.C {
		if time.Now().After(deadline) {
			t.Errorf("%d descriptors are open, %d were at first", countDescriptors(t), want)
			return
		}
	}
}
