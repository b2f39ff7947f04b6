package daemon

import (
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/ambassadord/ambassadord/internal/admin"
	"github.com/ambassadord/ambassadord/internal/balance"
	"github.com/ambassadord/ambassadord/internal/endpoints"
)

// While another daemon takes over, which has read what was decided, nothing is decided that it would not know of.
func TestNothingIsDecidedInATakeover(t *testing.T) {
	d := &daemon{parts: &parts{endpoints: &endpoints.Book{Pools: balance.New(balance.Config{}), Log: slog.New(slog.NewTextHandler(io.Discard, nil))}}, giver: newGiver()}
	order := admin.EndpointOrder{Endpoint: "10.0.0.1:6379", Action: "drain", Unknown: true}
	for _, step := range []struct {
		event giverEvent
		taken bool
	}{{asked, false}, {breaksOff, true}, {asked, false}, {accepts, false}, {leaves, false}, {hasAll, false}} {
		d.giver.on(step.event)
		_, err := decide(d, order)
		if (err == nil) != step.taken || err != nil && !strings.Contains(err.Error(), "taking over") {
			t.Errorf("when the handover is %s: %v; want it taken: %v", d.giver.now(), err, step.taken)
		}
	}
}
