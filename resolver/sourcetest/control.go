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
	// unless the registry has a pace of its own.
	Updates int
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
		if !goesOn { // as the Resolver would, after a pause
			w = Watch(t, source, q)
		}
		w.Await(t, two)
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
	news := make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- source.Watch(ctx, q, func(a resolver.Answer) {
			latest.Store(&a)
			select {
			case news <- struct{}{}:
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
			case <-news:
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
		switch i {
		case 1:
			first = measure(t)
		case updates / 10:
			base = measure(t)
		}
	}
	now := measure(t)
	t.Logf("after 1 update: %s; after %d: %s; after %d: %s", first, updates/10, base, updates, now)
	if now.heap > base.heap+growth || now.goroutines > first.goroutines+2 || now.descriptors > first.descriptors+2 {
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
