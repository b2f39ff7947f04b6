package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ambassadord/ambassadord/internal/dockerd"
)

// TestInquiriesAreBounded: an engine that hangs has only so many questions at a time, whatever
// containers are dialled for, and none once nobody waits for the answer.
func TestInquiriesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q inquiries
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
				if _, err := q.ask(ctx, fmt.Sprint(i%100), hangs); !errors.Is(err, context.Canceled) {
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
		// Who comes after that is answered.
		answers := func(context.Context, string) (*dockerd.Container, error) { return &dockerd.Container{}, nil }
		if c, err := q.ask(t.Context(), "1", answers); c == nil || err != nil {
			t.Errorf("after those: %v, %v", c, err)
		}
	})
}

// TestInquiryOutlivesWhoGivesUp: one of two gives up, and the other has the answer.
func TestInquiryOutlivesWhoGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q inquiries
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
			if _, err := q.ask(impatient, "c", slow); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the impatient one: %v", err)
			}
		})
		waiting.Go(func() {
			if c, err := q.ask(t.Context(), "c", slow); c == nil || err != nil {
				t.Errorf("the other: %v, %v; want the answer", c, err)
			}
		})
		waiting.Wait()
	})
}
