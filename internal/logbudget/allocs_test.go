//go:build !race

// With the race detector a sync.Pool throws things away at random.

package logbudget

import (
	"io"
	"log/slog"
	"testing"
	"time"
)

func TestAllocations(t *testing.T) {
	h := New(slog.NewTextHandler(io.Discard, nil))
	group := []slog.Attr{slog.String("client", "web-1"), slog.String("id", "0123456789ab"), slog.Int("port", 6379), slog.String("target", "redis.test:6379")}
	whole := []slog.Attr{{Value: slog.GroupValue(group...)}}
	if n := testing.AllocsPerRun(1000, func() {
		r := slog.NewRecord(time.Now(), slog.LevelInfo, Connection, 0)
		r.AddAttrs(whole...)
		_ = h.Handle(t.Context(), r)
	}); n != 0 {
		t.Errorf("%v allocations for the line of a connection; want none", n)
	}
}
