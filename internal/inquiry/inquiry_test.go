package inquiry

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/ambassadord/ambassadord/internal/dockerd"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestInquiriesAreBounded: an engine that hangs has only so many questions at a time, whatever
// containers are dialled for, and none once nobody waits for the answer.
func TestInquiriesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q Group
		var asking, most atomic.Int64
		hangs := func(ctx context.Context, _ string) (*dockerd.Container, error) {
			most.Store(max(most.Load(), asking.Add(1)))
			defer asking.Add(-1)
			<-ctx.Done()
			return nil, ctx.Err()
		}
		ctx, cancel := context.WithCancel(t.Context())
		var waiting sync.WaitGroup
		for i := range 300 {
			waiting.Go(func() {
				if _, err := q.Ask(ctx, fmt.Sprint(i%100), hangs); !errors.Is(err, context.Canceled) {
					t.Errorf("%v; want that it was given up", err)
				}
			})
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if most.Load() != mostQuestions {
			t.Errorf("the engine had %d questions at a time; want %d", most.Load(), mostQuestions)
		}
		began := time.Now()
		cancel()
		waiting.Wait()
		synctest.Wait()
		if took := time.Since(began); took > 0 || asking.Load() != 0 {
			t.Errorf("given up after %v, with %d questions left; want at once, and none", took, asking.Load())
		}
		// A call after that is answered.
		answers := func(context.Context, string) (*dockerd.Container, error) { return &dockerd.Container{}, nil }
		if c, err := q.Ask(t.Context(), "1", answers); c == nil || err != nil {
			t.Errorf("after those: %v, %v", c, err)
		}
	})
}

// TestInquiryOutlivesWhoGivesUp: one of two gives up, and the other has the answer.
func TestInquiryOutlivesWhoGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q Group
		slow := func(ctx context.Context, _ string) (*dockerd.Container, error) {
			select {
			case <-time.After(time.Second):
				return &dockerd.Container{}, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		impatient, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		var waiting sync.WaitGroup
		waiting.Go(func() {
			if _, err := q.Ask(impatient, "c", slow); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the impatient one: %v", err)
			}
		})
		waiting.Go(func() {
			if c, err := q.Ask(t.Context(), "c", slow); c == nil || err != nil {
				t.Errorf("the other: %v, %v; want the answer", c, err)
			}
		})
		waiting.Wait()
	})
}

// TestInquiriesAreShared: however many calls come, the engine is asked once at a time, and no call
// takes an answer to a question that was put before it began.
func TestInquiriesAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const took = 30 * time.Millisecond
		var q Group
		var asked, asking atomic.Int64
		inspect := func(context.Context, string) (*dockerd.Container, error) {
			if asking.Add(1) > 1 {
				t.Error("two questions at a time")
			}
			defer asking.Add(-1)
			at := time.Now()
			asked.Add(1)
			time.Sleep(took)
			return &dockerd.Container{StartedAt: at}, nil
		}
		began := time.Now()
		var waiting sync.WaitGroup
		for i := range 1000 {
			waiting.Go(func() {
				time.Sleep(time.Duration(i) * time.Millisecond / 10)
				came := time.Now()
				c, err := q.Ask(t.Context(), "c", inspect)
				if err != nil || c.StartedAt.Before(came) {
					t.Errorf("asked at %v, the answer is of %v, %v", came, c.StartedAt, err)
				}
			})
		}
		waiting.Wait()
		if n, most := asked.Load(), int64(time.Since(began)/(took+inquiryPace))+2; n > most {
			t.Errorf("asked %d times in %v, want at most %d", n, time.Since(began), most)
		}
		for i := range 2 * mostInquiries {
			if _, err := q.Ask(t.Context(), fmt.Sprint(i), inspect); err != nil {
				t.Error(err)
			}
		}
		if len(q.all) > mostInquiries {
			t.Errorf("%d are remembered, want at most %d", len(q.all), mostInquiries)
		}
		// A call that gives up waits no longer, and does not end the question for others.
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := q.Ask(ctx, "c", inspect); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		time.Sleep(took) // if the engine had the question before it was given up, until it has answered
	})
}
