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
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/resolver"
)

func TestPortsOfThoseWhoAreComing(t *testing.T) {
	owner := &dockerd.Container{ID: "owner", Name: "owner", Running: true, NetworkMode: "bridge", Labels: map[string]string{"connect.1": "a:1"}}
	containers := []*dockerd.Container{owner}
	for i := range 2 {
		labels := map[string]string{"connect.1": "b:1"}
		for port := range maxEarly {
			labels[fmt.Sprintf("connect.%d", 2+i*maxEarly+port)] = "b:1"
		}
		containers = append(containers, &dockerd.Container{ID: fmt.Sprint("joiner", i), Name: "j", NetworkMode: "container:owner", Labels: labels})
	}
	n := identity.Build(dockerd.NewSnapshot(containers...), nil, "", nil, resolver.Parse).Owned("owner")
	of := map[bool]int{}
	for _, p := range comingPorts(n) {
		if p.Number == 1 {
			t.Error("a port that somebody declares who runs is taken for one of those who are coming")
		}
		of[p.Number < 2+maxEarly]++
	}
	if of[true]+of[false] > maxEarly || of[true]-of[false] > 1 || of[false]-of[true] > 1 || of[true] < maxEarly/2-1 {
		t.Errorf("%d ports of one joiner and %d of the other; want %d, shared", of[true], of[false], maxEarly)
	}
}

// However many dial, the engine is asked once at a time, and nobody takes an answer to a
// question that was put before.
func TestInquiriesAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const took = 30 * time.Millisecond
		var q inquiries
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
				c, err := q.ask(t.Context(), "c", inspect)
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
			if _, err := q.ask(t.Context(), fmt.Sprint(i), inspect); err != nil {
				t.Error(err)
			}
		}
		if len(q.all) > mostInquiries {
			t.Errorf("%d are remembered, want at most %d", len(q.all), mostInquiries)
		}
		// Who gives up waits no longer, and does not end the question for others.
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := q.ask(ctx, "c", inspect); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}
