package resolver

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// relocating is a source whose endpoint is another one each time it looks, which it does
// when its answer is doubted.
func relocating(looks *atomic.Int32, endpoints ...Endpoint) *fakeSource {
	return &fakeSource{watch: func(ctx context.Context, _ Query, publish func(Answer)) error {
		var doubt Doubt
		for {
			publish(Answer{Endpoints: endpoints[min(int(looks.Add(1)), len(endpoints))-1:][:1]})
			doubt.Over()
			select {
			case doubt = <-Doubts(ctx):
				time.Sleep(10 * time.Millisecond) // it takes a question
			case <-ctx.Done():
				return nil
			}
		}
	}}
}

func TestDoubtedAnswer(t *testing.T) {
	var looks atomic.Int32
	source := relocating(&looks, endpoint("10.0.0.1:80"), endpoint("10.0.0.2:80"))
	inBubble(t, source, func(ctx context.Context, r *Resolver) {
		known, err := r.Resolve(ctx, fake("a"), nil)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // until the source listens
		began := time.Now()
		if !r.Doubt(ctx, fake("a"), known) {
			t.Error("the source looked again, and its new answer is not told")
		}
		if took := time.Since(began); took >= doubtFor {
			t.Errorf("it took %v", took)
		}
		got, err := resolved(ctx, r, fake("a"))
		if err != nil || len(got) != 1 || got[0].String() != "10.0.0.2:80" {
			t.Errorf("%v, %v", got, err)
		}
	})
}

// However many connections are refused, a source is asked once a second.
func TestDoubtIsBounded(t *testing.T) {
	var looks atomic.Int32
	source := relocating(&looks, endpoint("10.0.0.1:80"))
	inBubble(t, source, func(ctx context.Context, r *Resolver) {
		known, err := r.Resolve(ctx, fake("a"), nil)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			if r.Doubt(ctx, fake("a"), known) {
				t.Error("the same answer is said to be another")
			}
		}
		if n := looks.Load(); n > 11 {
			t.Errorf("the source was asked %d times in 10 s", n)
		}
	})
}

// A source that does not listen is not waited for, and one that fails instead of answering ends
// the wait.
func TestDoubtWithoutAnAnswer(t *testing.T) {
	source := &fakeSource{watch: func(ctx context.Context, q Query, publish func(Answer)) error {
		if q.Host == "deaf" {
			return hold(ctx, publish, endpoint("10.0.0.1:80"))
		}
		publish(Answer{Endpoints: []Endpoint{endpoint("10.0.0.1:80")}})
		select {
		case <-Doubts(ctx):
		case <-ctx.Done():
			return nil
		}
		return errors.New("registry is down")
	}}
	inBubble(t, source, func(ctx context.Context, r *Resolver) {
		for _, host := range []string{"deaf", "failing"} {
			known, err := r.Resolve(ctx, fake(host), nil)
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			began := time.Now()
			if r.Doubt(ctx, fake(host), known) {
				t.Errorf("%s: another answer", host)
			}
			if took := time.Since(began); took != 0 {
				t.Errorf("%s: it took %v", host, took)
			}
		}
	})
}

// However many connections are refused, a source that fails and whose last answer stays is asked
// before its turn once a second.
func TestDoubtOfAFailingSourceIsBounded(t *testing.T) {
	source := onceAnswered()
	inBubble(t, source, func(ctx context.Context, r *Resolver) {
		known, err := r.Resolve(ctx, fake("a"), nil)
		if err != nil {
			t.Fatal(err)
		}
		const seconds = 60
		for end := time.Now().Add(seconds * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
			r.Doubt(ctx, fake("a"), known)
		}
		if n := source.calls(fakeQuery("a")); n > seconds+10 {
			t.Errorf("the source was asked %d times in %d s", n, seconds)
		}
	})
}
