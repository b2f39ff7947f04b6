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
	"github.com/ambassadord/ambassadord/resolver/internal/answer"
)

// maxErrorText bounds how much of an agent's own words goes into an error.
const maxErrorText = 200

// request is what was asked of whom, for errors.
type request struct {
	agent *agent
	what  string // "service redis"
	rule  string // the ACL rule that reading it takes
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
		cert    *tls.CertificateVerificationError
		alert   tls.AlertError
	)
	if errors.As(err, &outer) {
		err = outer.Err
	}
	switch {
	case errors.As(err, &status):
		return hint.Errorf(r.statusHint(status), "status %d: %q", status.Code, answer.Shorten(status.Body, maxErrorText))
	case errors.As(err, &tooLong):
		return hint.Errorf("ask for less: is the path the right one?", "an answer of more than %d MiB", tooLong.Limit>>20)
	case hint.Of(err) != "": // of our own: too much is read for its client
		return err
	case strings.Contains(err.Error(), "server response headers exceeded"):
		return hint.Errorf("is it a Consul agent's HTTP port?", "an answer whose header is longer than %d KiB", maxHeader>>10)
	case strings.Contains(err.Error(), "readLoopPeekFailLocked"): // net/http has no better word for it
		return hint.Errorf(limitsHint, "it answered before it was asked, as an agent does that takes no more connections")
	case errors.Is(err, errSilent):
		return hint.Errorf(fix, "%w", errSilent)
	case errors.Is(err, context.DeadlineExceeded):
		return hint.Errorf(fix, "no answer in time")
	case errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch):
		return hint.Errorf("check CONSUL_HTTP_SSL and the port", "the agent does not speak TLS")
	case errors.As(err, &cert):
		return hint.Wrap(err, "set CONSUL_CACERT to the CA of the agent's certificate, and CONSUL_TLS_SERVER_NAME to a name in it")
	case errors.As(err, &alert):
		return hint.Wrap(alert, "set CONSUL_CLIENT_CERT and CONSUL_CLIENT_KEY to a pair that the agent accepts")
	case errors.As(err, &netErr) && netErr.Timeout():
		return hint.Errorf(fix, "connection timed out")
	case errors.Is(err, syscall.ECONNREFUSED):
		return hint.Errorf(fix, "connection refused")
	case r.agent.https: // with TLS 1.3 a certificate is refused only after the handshake, in one of several ways
		if errors.As(err, &op) {
			err = op.Err
		}
		return hint.Wrap(err, "does the agent want a client's certificate? Then set CONSUL_CLIENT_CERT and CONSUL_CLIENT_KEY; else "+fix)
	case errors.As(err, &op):
		return hint.Wrap(op.Err, fix)
	}
	return hint.Wrap(err, "is it a Consul agent's HTTP port? "+fix)
}

const limitsHint = "the agent limits requests or connections of one client: see limits in its configuration"

// tokenHint is what to do where the configured agent lets read nothing, or not all.
func (r request) tokenHint() string {
	return "set CONSUL_HTTP_TOKEN to a token with " + r.rule + ", or CONSUL_HTTP_TOKEN_FILE to a file with one"
}

func (r request) statusHint(status api.StatusError) string {
	switch {
	case status.Code == http.StatusForbidden && !r.agent.trusted:
		return "the token is sent to the configured agent alone: set CONSUL_HTTP_ADDR=" + r.agent.address +
			" if this is the one, and CONSUL_HTTP_TOKEN to a token with " + r.rule
	case status.Code == http.StatusForbidden:
		return r.tokenHint()
	case status.Code == http.StatusNotFound && strings.Contains(status.Body, "Query not found"):
		return "check the name: /v1/query of the agent lists the prepared queries"
	case status.Code == http.StatusTooManyRequests:
		return limitsHint
	case status.Code == http.StatusBadRequest && strings.Contains(status.Body, "HTTPS server"):
		return "set CONSUL_HTTP_SSL=true or an https:// address"
	case status.Code == http.StatusBadRequest && strings.Contains(status.Body, "Enterprise feature"):
		return "leave out ns= and partition=: this Consul has neither"
	case strings.Contains(status.Body, "No path to datacenter"):
		return "check dc=; these exist: consul catalog datacenters"
	case strings.Contains(status.Body, "No cluster leader"):
		return "the Consul servers have no leader: see consul operator raft list-peers"
	}
	return "see the agent's log: consul monitor"
}

// another says whether another agent of the cluster might do better than the one
// whose error err is: it is away, overloaded or cut off. What the cluster says, they
// all say.
func another(err error) bool {
	var status api.StatusError
	if !errors.As(err, &status) {
		return true
	}
	return status.Code == http.StatusTooManyRequests ||
		status.Code >= http.StatusInternalServerError && !strings.Contains(status.Body, "No path to datacenter")
}
