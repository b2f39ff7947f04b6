package ociruntime

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestRuntimesWhileTheEngineHangs: what is known is had at once meanwhile, and all others wait for
// one answer.
func TestRuntimesWhileTheEngineHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const hangs = 5 * time.Second
		asked := 0
		ask := func(ctx context.Context) (map[string]Runtime, error) {
			if asked++; asked > 1 {
				select {
				case <-time.After(hangs):
				case <-ctx.Done():
				}
			}
			return map[string]Runtime{"known": {Name: "known", Path: "runsc"}, "new": {Name: "new", Path: "runsc"}}, nil
		}
		r := Runtimes{Ask: ask}
		if got, err := r.meant(t.Context(), "known"); got.Path != "runsc" || err != nil {
			t.Fatalf("%+v, %v", got, err)
		}
		r.byName = map[string]Runtime{"known": r.byName["known"]}
		time.Sleep(2 * runtimesEvery)
		var waiting sync.WaitGroup
		for range 3 {
			waiting.Go(func() {
				if got, _ := r.meant(t.Context(), "new"); got.Path != "runsc" {
					t.Errorf("%+v; want what the engine says in the end", got)
				}
			})
		}
		time.Sleep(time.Second)
		began := time.Now()
		if got, _ := r.meant(t.Context(), "known"); got.Path != "runsc" || time.Since(began) > 0 {
			t.Errorf("%+v after %v; want what is known, at once", got, time.Since(began))
		}
		impatient, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if got, _ := r.meant(impatient, "new"); got.Name != "new" || got.Path != "" || time.Since(began) != time.Second {
			t.Errorf("%+v after %v; want the name alone, when it gives up", got, time.Since(began))
		}
		waiting.Wait()
		if asked != 2 {
			t.Errorf("the engine was asked %d times; want 2", asked)
		}
	})
}
