package handover

import (
	"errors"
	"log/slog"
	"testing"

	"github.com/ambassadord/ambassadord/internal/daemontest"
	"github.com/ambassadord/ambassadord/internal/hint"
)

func TestDraining(t *testing.T) {
	dir := daemontest.RunDir(t)
	if OthersDrain(dir) || OthersDrain(nil) {
		t.Error("somebody drains, although nobody has said so")
	}
	end, err := AnnounceDraining(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !OthersDrain(dir) {
		t.Error("nobody drains, although one has said so")
	}
	end()
	if !AwaitDrained(t.Context(), dir) {
		t.Error("AwaitDrained: somebody drains after the end")
	}
}

// TestHostLock: one has it, and its successor has it from it without a gap.
func TestHostLock(t *testing.T) {
	dir, log := daemontest.RunDir(t), slog.New(slog.DiscardHandler)
	g := startGiver(t)
	old, err := TakeHostLock(t.Context(), dir, nil, log)
	if err != nil {
		t.Fatal(err)
	}
	old.Register(&g.registry)
	if _, err := TakeHostLock(t.Context(), dir, nil, log); !errors.Is(err, ErrServed) || hint.Of(err) == "" {
		t.Errorf("a second TakeHostLock: %v; want ErrServed and a hint", err)
	}
	s := g.begin()
	next, err := TakeHostLock(t.Context(), dir, s.Set, log)
	if err != nil {
		t.Fatal(err)
	}
	s.GiveUp(errors.New("of the test"))
	<-g.result
	old.Leave()
	if _, err := TakeHostLock(t.Context(), dir, nil, log); !errors.Is(err, ErrServed) {
		t.Errorf("after the old daemon's end TakeHostLock: %v; want ErrServed", err)
	}
	next.Release()
	last, err := TakeHostLock(t.Context(), dir, nil, log)
	if err != nil {
		t.Fatalf("after the last one's end: %v", err)
	}
	last.Release()
}
