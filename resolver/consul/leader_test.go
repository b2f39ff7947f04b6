package consul

import (
	"net/http"
	"testing"

	"github.com/ambassadord/ambassadord/internal/hint"
)

func TestLeader(t *testing.T) {
	agent := newFakeAgent(t, `"192.0.2.1:8300"`)
	agent.tellsLeader = true
	client := newTestClient(t, Config{Address: agent.address})
	if client.Address() != agent.address {
		t.Errorf("address %q, want %q", client.Address(), agent.address)
	}
	for body, want := range map[string]string{`"192.0.2.1:8300"`: "192.0.2.1:8300", `""`: ""} {
		agent.set(11, body)
		if got, err := client.Leader(t.Context()); err != nil || got != want {
			t.Errorf("%s: leader %q, %v; want %q", body, got, err, want)
		}
	}
	agent.respond(http.StatusForbidden, 12, "Permission denied")
	if _, err := client.Leader(t.Context()); hint.Of(err) == "" {
		t.Errorf("refused: %v, want an error with a hint", err)
	}
}

func TestLeaderOfNoAgent(t *testing.T) {
	client := newTestClient(t, Config{Address: "127.0.0.1:1"})
	if leader, err := client.Leader(t.Context()); hint.Of(err) == "" {
		t.Errorf("leader %q, %v; want an error with a hint", leader, err)
	}
}
