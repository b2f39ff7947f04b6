package cleanup

import (
	"bytes"
	"log/slog"
	"net"
	"strings"
	"testing"

	"github.com/ambassadord/ambassadord/internal/handover"
	"github.com/ambassadord/ambassadord/internal/listenset"
)

// TestRulesAreUnhookedLast closes a socket that no rules lead to ahead of those behind
// rules, which take time: until then it would take connections that nobody accepts.
func TestRulesAreUnhookedLast(t *testing.T) {
	left := func(role handover.Role) handover.Left {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return handover.Left{Socket: handover.Socket{Role: role}, Listener: l.(*net.TCPListener)}
	}
	var log bytes.Buffer
	// Mode host stays, so that there is nothing to unhook in the namespace of the test.
	leftovers := &Leftovers{Log: slog.New(slog.NewTextHandler(&log, nil)), KeepOwn: true, Sockets: listenset.New(nil, slog.New(slog.DiscardHandler))}
	all := []handover.Left{left(handover.Host), left(handover.Fixed), left(handover.Link), left(handover.Listen)}
	leftovers.Close(all)

	var closed []string
	for line := range strings.Lines(log.String()) {
		_, rest, _ := strings.Cut(line, "role=")
		role, _, _ := strings.Cut(rest, " ")
		closed = append(closed, role)
	}
	if got := strings.Join(closed, " "); got != "fixed listen host link" {
		t.Errorf("closed in the order %q; want those behind rules last", got)
	}
	for _, l := range all {
		if conn, err := net.Dial("tcp", l.Listener.Addr().String()); err == nil {
			conn.Close()
			t.Errorf("the %s socket still takes connections", l.Role)
		}
	}
}
