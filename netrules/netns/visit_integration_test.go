//go:build integration

package netns_test

import (
	"testing"

	"github.com/ambassadord/ambassadord/internal/netlab"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// here is the namespace of the calling thread.
func here(t *testing.T) netns.ID {
	t.Helper()
	current, err := netns.Current()
	if err != nil {
		t.Error(err)
		return netns.ID{}
	}
	defer current.Close()
	return current.ID()
}

// TestVisit: what a visit is given enters the namespace from any goroutine, during the visit and
// after it, and the visitor's thread only once.
func TestVisit(t *testing.T) {
	lab := netlab.New(t)
	want, home := lab.NS().ID(), here(t)
	inside := func(when string, ns *netns.Namespace) {
		t.Helper()
		if err := ns.Do(func() error {
			if got := here(t); got != want {
				t.Errorf("%s: in %v, want %v", when, got, want)
			}
			return nil
		}); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
	var kept *netns.Namespace
	if err := lab.NS().Visit(func(in *netns.Namespace) error {
		kept = in
		if got := here(t); got != want {
			t.Errorf("a visit is in %v, want %v", got, want)
		}
		inside("on the visitor's thread", in)
		if err := in.Visit(func(again *netns.Namespace) error {
			if again != in {
				t.Error("a visit within a visit enters once more")
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
		elsewhere := make(chan struct{})
		go func() {
			defer close(elsewhere)
			if got := here(t); got != home {
				t.Errorf("another goroutine is in %v, want %v", got, home)
			}
			inside("in another goroutine", in)
		}()
		<-elsewhere
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	// Any number of goroutines, so that one of them has the thread of the visit.
	for range 100 {
		done := make(chan struct{})
		go func() { defer close(done); inside("after the visit", kept) }()
		<-done
	}
	if got := here(t); got != home {
		t.Errorf("after the visit in %v, want %v", got, home)
	}
	if err := (*netns.Namespace)(nil).Visit(func(in *netns.Namespace) error {
		if in != nil || here(t) != home {
			t.Errorf("a visit at home is in %v", here(t))
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}
