package consul

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"

	"github.com/hashicorp/consul/api"

	"github.com/ambassadord/ambassadord/internal/hint"
)

// maxErrorText bounds how much of an agent's own words goes into an error.
const maxErrorText = 200

// request is what was asked of whom, for errors.
type request struct {
	agent   *agent
	trusted bool   // the configured agent, which gets the token
	what    string // "service redis"
	rule    string // the ACL rule that reading it takes
}

// explain names the agent and the request that err ended, and hints at what to
// do about it.
func (r request) explain(err error) error {
	return fmt.Errorf("asking the Consul agent at %s for %s: %w", r.agent.address, r.what, r.cause(err))
}

// cause strips from err what the reader knows (the URL) and what differs each
// time (the index in it, the local port), and attaches a hint to the rest.
func (r request) cause(err error) error {
	const fix = "check that the agent runs, and --consul-addr or CONSUL_HTTP_ADDR"
	var (
		status  api.StatusError
		outer   *url.Error
		op      *net.OpError
		tooLong *http.MaxBytesError
		netErr  net.Error
		record  tls.RecordHeaderError
	)
	if errors.As(err, &outer) {
		err = outer.Err
	}
	switch {
	case errors.As(err, &status):
		return hint.Errorf(r.statusHint(status), "status %d: %q", status.Code, shorten(status.Body))
	case errors.As(err, &tooLong):
		return hint.Errorf("ask for less: is the path the right one?", "an answer of more than %d MiB", maxBody>>20)
	case errors.Is(err, context.DeadlineExceeded):
		return hint.Errorf(fix, "no answer in time")
	case errors.As(err, &record):
		return hint.Errorf("check CONSUL_HTTP_SSL and the port", "the agent does not speak TLS")
	case errors.As(err, &netErr) && netErr.Timeout():
		return hint.Errorf(fix, "connection timed out")
	case errors.Is(err, syscall.ECONNREFUSED):
		return hint.Errorf(fix, "connection refused")
	case errors.As(err, &op):
		return hint.Wrap(op.Err, fix)
	}
	return hint.Wrap(err, "is it a Consul agent's HTTP port? "+fix)
}

func (r request) statusHint(status api.StatusError) string {
	switch {
	case status.Code == http.StatusForbidden && !r.trusted:
		return "the token is sent to the configured agent alone: set CONSUL_HTTP_ADDR=" + r.agent.address +
			" if this is the one, and CONSUL_HTTP_TOKEN to a token with " + r.rule
	case status.Code == http.StatusForbidden:
		return "set CONSUL_HTTP_TOKEN to a token with " + r.rule
	case status.Code == http.StatusTooManyRequests:
		return "the agent limits requests or connections of one client: see limits in its configuration"
	case status.Code == http.StatusBadRequest && strings.Contains(status.Body, "HTTPS server"):
		return "set CONSUL_HTTP_SSL=true or an https:// address"
	case strings.Contains(status.Body, "No path to datacenter"):
		return "check dc=; these exist: consul catalog datacenters"
	case strings.Contains(status.Body, "No cluster leader"):
		return "the Consul servers have no leader: see consul operator raft list-peers"
	}
	return "see the agent's log: consul monitor"
}

func shorten(text string) string {
	if len(text) > maxErrorText {
		return strings.ToValidUTF8(text[:maxErrorText], "") + "…"
	}
	return text
}
