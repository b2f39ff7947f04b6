//go:build !race

// With the race detector a sync.Pool throws things away at random.

package accesslog

import (
	"io"
	"log/slog"
	"testing"
)

func TestAllocationsOfALine(t *testing.T) {
	for name, handler := range map[string]slog.Handler{
		"text": slog.NewTextHandler(io.Discard, nil), "json": slog.NewJSONHandler(io.Discard, nil), "off": slog.DiscardHandler,
	} {
		l := New(slog.New(handler), nil)
		if n := testing.AllocsPerRun(1000, func() { l.Done(ended) }); n != 0 {
			t.Errorf("%s: %v allocations for the line of a connection; want none", name, n)
		}
	}
}
