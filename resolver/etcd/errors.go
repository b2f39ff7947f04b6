package etcd

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/resolver/internal/answer"
)

// maxErrorText bounds how much of a server's own words goes into an error.
const maxErrorText = 300

// addresses are those of a connection, which differ each time.
var addresses = regexp.MustCompile(` tcp \S+->\S+:`)

// serverRequest is what was asked of whom, for errors.
type serverRequest struct {
	cluster *cluster
	path    string
}

// serverError is why one of several servers has not answered.
type serverError struct {
	endpoint string
	err      error
}

// serverErrors are why none has.
type serverErrors []serverError

// mostServers is of how many servers an error tells.
const mostServers = 3

func (e serverErrors) Error() string {
	var texts []string
	for _, s := range e[:min(len(e), mostServers)] {
		texts = append(texts, s.endpoint+": "+plainWords(s.err).Error())
	}
	if more := len(e) - len(texts); more > 0 {
		texts = append(texts, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(texts, "; ")
}

// Unwrap is for errors.Is and errors.As.
func (e serverErrors) Unwrap() []error {
	errs := make([]error, len(e))
	for i, s := range e {
		errs[i] = s.err
	}
	return errs
}

// unreadError is why the keys could not be read anew, after a watch had been lost.
type unreadError struct{ now, before error }

func (e unreadError) Error() string {
	return plainWords(e.now).Error() + "; before that: " + plainWords(e.before).Error()
}

// Unwrap is for errors.Is and errors.As.
func (e unreadError) Unwrap() []error { return []error{e.now, e.before} }

// explain names the servers and the path that err ended, and hints at what to do
// about it.
func (r serverRequest) explain(err error) error {
	if refusal := r.cluster.refusal.Load(); refusal != nil {
		return hint.Errorf(hint.Of(refusal), "asking etcd at %s for %s: %w", r.cluster, r.path, refusal)
	}
	return hint.Errorf(r.fix(err), "asking etcd at %s for %s: %w", r.cluster, r.path, plainWords(err))
}

// plainWords drops from err gRPC's wrapping, which says nothing to an operator.
func plainWords(err error) error {
	if unread, ok := err.(unreadError); ok { //nolint:errorlint // it has put its own in plain words
		return unread
	}
	if several, ok := err.(serverErrors); ok { //nolint:errorlint // likewise
		return several
	}
	if errors.Is(err, context.DeadlineExceeded) || strings.HasSuffix(err.Error(), context.DeadlineExceeded.Error()) { // the server's, too
		return errors.New("no answer in time")
	}
	s, ok := status.FromError(err)
	if !ok || s.Code() == codes.Unknown {
		return err
	}
	text := s.Message()
	for _, wrapping := range []string{"connection error: desc = ", "transport: ", "last connection error: "} {
		if _, after, ok := strings.Cut(text, wrapping); ok {
			text = strings.Trim(after, `"`)
		}
	}
	return errors.New(answer.Shorten(addresses.ReplaceAllString(text, ":"), maxErrorText))
}

// fix is what to do about err.
func (r serverRequest) fix(err error) string {
	const reach = "check that etcd runs, and --etcd-endpoints or ETCDCTL_ENDPOINTS"
	if own := hint.Of(err); own != "" {
		return own
	}
	secrets := func(fix string) string {
		if r.cluster.trusted {
			return fix
		}
		return fmt.Sprintf("user and TLS go to the configured cluster alone: add %s to --etcd-endpoints if it is part of it, and %s", r.cluster, fix)
	}
	text := err.Error()
	says := func(words ...string) bool {
		for _, w := range words {
			if strings.Contains(text, w) {
				return true
			}
		}
		return false
	}
	switch {
	case errors.Is(err, errTooMany), errors.Is(err, errTooLong), status.Code(err) == codes.ResourceExhausted && says("larger than max"):
		return "name a path further down"
	case errors.Is(err, errHistory):
		return "do the endpoints belong to one cluster? See etcdctl endpoint status; after etcd was restored from a backup this is over by itself"
	case errors.Is(err, rpctypes.ErrPermissionDenied):
		return fmt.Sprintf("let the user read it: etcdctl role grant-permission ROLE read --prefix /%s/", answer.Shorten(r.path, maxErrorText))
	case errors.Is(err, rpctypes.ErrAuthFailed):
		return "check ETCDCTL_USER and ETCDCTL_PASSWORD"
	case errors.Is(err, rpctypes.ErrUserEmpty):
		return secrets("set ETCDCTL_USER and ETCDCTL_PASSWORD")
	case errors.Is(err, rpctypes.ErrNoLeader), errors.Is(err, rpctypes.ErrLeaderChanged), errors.Is(err, rpctypes.ErrTimeoutDueToLeaderFail),
		errors.Is(err, rpctypes.ErrTimeout), errors.Is(err, rpctypes.ErrTimeoutDueToConnectionLost):
		return "etcd has no leader: see etcdctl endpoint status --cluster"
	case says("certificate required", "bad certificate", "handshake failure"):
		return secrets("set ETCDCTL_CERT and ETCDCTL_KEY to a pair that the server accepts")
	case says("x509:"):
		return secrets("set ETCDCTL_CACERT to the CA of the server's certificate, and name the server as the certificate does")
	case says("first record does not look like a TLS handshake", "handshake failed: EOF"),
		says("handshake failed") && says("connection reset by peer", "broken pipe"): // how it ends depends on who is quicker
		return "the server does not speak TLS: write http:// before its address, or unset ETCDCTL_CACERT and ETCDCTL_CERT"
	case !errors.Is(err, errLost) && says("error reading server preface", "connection reset by peer", "broken pipe"): // the same; a server that was well until now has ended
		return secrets("is it etcd's client port, and does it want TLS or a client's certificate? Then set ETCDCTL_CACERT, ETCDCTL_CERT and ETCDCTL_KEY")
	}
	return reach
}
