package limit

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ambassadord/ambassadord/internal/hint"
)

var errLeft = errors.New("the client left")

func deadline(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestLimitIsFirstComeFirstServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New("container web", "raise it", Bounds{Open: 2, Queue: 10})
		for range 2 {
			if err := l.alone.Enter(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		var mu sync.Mutex
		var came []int
		var wg sync.WaitGroup
		for i := range 5 {
			wg.Go(func() {
				if err := l.alone.Enter(t.Context()); err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				came = append(came, i)
			})
			synctest.Wait() // in line
		}
		if l.alone.TryEnter() {
			t.Error("one got in past those who wait")
		}
		for i := range 5 {
			l.alone.Leave()
			synctest.Wait()
			if len(came) != i+1 || came[i] != i || l.Open() != 2 {
				t.Fatalf("after %d left, %v have come and %d are open; want one more, in order, and 2", i+1, came, l.Open())
			}
		}
		wg.Wait()
	})
}

func TestLimitTurnsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New("container web by port 6379", "raise connect.6379.client-limit", Bounds{Open: 1, Queue: 1})
		if err := l.alone.Enter(t.Context()); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		late := make(chan error)
		go func() { late <- l.alone.Enter(deadline(t, 3*time.Second)) }()
		synctest.Wait()
		err := l.alone.Enter(deadline(t, 3*time.Second)) // the queue is full
		if !isOver(err) || !strings.Contains(err.Error(), "container web by port 6379 is limited to 1 connection at once") ||
			!strings.Contains(err.Error(), "queue of 1") || hint.Of(err) != "raise connect.6379.client-limit" || time.Since(begin) != 0 {
			t.Errorf("past the queue: %v, hint %q after %s", err, hint.Of(err), time.Since(begin))
		}
		if err := <-late; !isOver(err) || time.Since(begin) != 3*time.Second {
			t.Errorf("in the queue: %v after %s; want that there is no place after 3s", err, time.Since(begin))
		}
		l.alone.Leave()
		if !l.alone.TryEnter() {
			t.Error("the place of one who gave up is lost")
		}
	})
}

func TestLimitPassesOnWhyTheWaitEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, b := range map[string]Bounds{"of places": {Open: 1, Queue: 1}, "of a rate": {Rate: 1, Queue: 1}} {
			l := New("web", "", b)
			if err := l.alone.Enter(t.Context()); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancelCause(t.Context())
			left := make(chan error)
			go func() { left <- l.alone.Enter(ctx) }()
			synctest.Wait()
			cancel(errLeft)
			if err := <-left; !errors.Is(err, errLeft) {
				t.Errorf("%s: %v; want that the client left", name, err)
			}
			go func() { left <- l.alone.Enter(deadline(t, 2*time.Second)) }() // its place in the queue is free again
			synctest.Wait()
			l.alone.Leave()
			if err := <-left; err != nil {
				t.Errorf("%s: the next: %v", name, err)
			}
		}
	})
}

func TestLimitOfARate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New("web", "", Bounds{Rate: 10, Queue: 100})
		begin := time.Now()
		var wg sync.WaitGroup
		for range 40 {
			wg.Go(func() {
				if err := l.alone.Enter(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if took := time.Since(begin); took != 3*time.Second {
			t.Errorf("40 took %s; want 10 at once and 10 each second", took)
		}
		if err := l.alone.Enter(deadline(t, 50*time.Millisecond)); !isOver(err) || !strings.Contains(err.Error(), "10 new connections a second") {
			t.Errorf("with too little time: %v; want to be turned away at once", err)
		}
	})
}

func TestLimitThatIsRaisedOrTakenAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New("web", "", Bounds{Open: 1, Queue: 10})
		if err := l.alone.Enter(t.Context()); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if err := l.alone.Enter(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		l.Set(Bounds{Open: 2, Queue: 10})
		synctest.Wait()
		if l.Open() != 2 {
			t.Errorf("raised to 2: %d are open", l.Open())
		}
		l.Set(Bounds{})
		wg.Wait()
		if l.Open() != 4 {
			t.Errorf("without bounds: %d are open; want all", l.Open())
		}
	})
}

// isOver reports whether a limit has turned a connection away.
func isOver(err error) bool {
	var over *Over
	return errors.As(err, &over)
}
