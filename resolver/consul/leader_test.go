package consul

import (
	"net/http"
	"strings"
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

// TestCheckToken: an agent that answers may let read nothing.
func TestCheckToken(t *testing.T) {
	t.Setenv("CONSUL_HTTP_TOKEN", "")
	t.Setenv("CONSUL_HTTP_TOKEN_FILE", "")
	agent := newFakeAgent(t, list(instance("a", "10.0.0.1", "", 8300, 1, "passing")))
	client := newTestClient(t, Config{Address: agent.address})
	if err := client.CheckToken(t.Context()); err != nil {
		t.Errorf("a token that reads: %v", err)
	}
	agent.respond(http.StatusForbidden, 11, "ACL not found")
	if err := client.CheckToken(t.Context()); err == nil || !strings.Contains(err.Error(), "ACL not found") || !strings.Contains(hint.Of(err), "CONSUL_HTTP_TOKEN") {
		t.Errorf("a token that is denied: %v, hint %q", err, hint.Of(err))
	}
	agent.set(12, "[]") // without ACLs, as in a test
	if err := client.CheckToken(t.Context()); err != nil {
		t.Errorf("no servers, and no ACLs: %v", err)
	}
}
