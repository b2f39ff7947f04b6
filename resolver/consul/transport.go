package consul

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/consul/blocking"
)

const (
	// Bounds of one answer, in bytes: of any agent to the operator, of the configured
	// agents to clients, and of an agent that a client names.
	maxBody, maxShared, maxForeign = 32 << 20, 8 << 20, 2 << 20

	// perObject is what an object of an answer takes beside its text, once it is decoded:
	// two bytes of JSON can be one.
	perObject = 200

	// bodyTimeout bounds the time from an answer's header to its end, of which the time
	// that a query may wait is no part.
	bodyTimeout = 20 * time.Second
)

// guardedTransport bounds answers, takes the secrets that consul/api puts into
// every request out of those for other agents than the configured ones, and keeps
// the token up to date in those for them.
type guardedTransport struct {
	base    *atomic.Pointer[http.Transport]
	trusted bool
	token   *tokenFile      // nil if the token is not in a file
	slots   *blocking.Slots // told whether the agent speaks HTTP/2
}

const tokenHeader = "X-Consul-Token" //nolint:gosec // its name, not a token

type parametersKey struct{}

// withParameters has requests of ctx carry parameters for which api.QueryOptions has no field.
func withParameters(ctx context.Context, parameters url.Values) context.Context {
	return context.WithValue(ctx, parametersKey{}, parameters)
}

// RoundTrip is http.RoundTripper's.
func (g guardedTransport) RoundTrip(request *http.Request) (*http.Response, error) {
	if parameters, ok := request.Context().Value(parametersKey{}).(url.Values); ok {
		request = request.Clone(request.Context())
		request.URL.RawQuery = strings.TrimPrefix(request.URL.RawQuery+"&"+parameters.Encode(), "&")
	}
	switch {
	case !g.trusted:
		request = request.Clone(request.Context())
		request.Header.Del(tokenHeader)
		request.Header.Del("Authorization")
	case g.token != nil:
		token, err := g.token.read()
		if err != nil {
			return nil, err
		}
		request = request.Clone(request.Context())
		request.Header.Set(tokenHeader, token)
	}
	response, err := g.base.Load().RoundTrip(request)
	if err != nil {
		return nil, err
	}
	g.slots.SetMultiplexed(response.ProtoMajor >= 2)
	allowance := resolver.AllowanceOf(request.Context())
	most := int64(maxBody)
	switch {
	case allowance.Limited() && !g.trusted:
		most = maxForeign
	case allowance.Limited():
		most = maxShared
	}
	if path := request.URL.Path; path == leaderPath || strings.HasSuffix(path, "/"+nowhere) {
		most = maxLeader
	}
	body := http.MaxBytesReader(nil, response.Body, most) // of what is read, unpacked
	response.Body = allowance.Read(request.Context(), inTime(body, bodyTimeout), perObject)
	return response, nil
}

// timedBody is closed when it has not been read whole in time: an agent that answers a byte a
// minute would make us hold what has been read all the while.
type timedBody struct {
	io.ReadCloser
	over *time.Timer
	late atomic.Bool
}

func inTime(body io.ReadCloser, limit time.Duration) io.ReadCloser {
	t := &timedBody{ReadCloser: body}
	t.over = time.AfterFunc(limit, func() {
		t.late.Store(true)
		_ = body.Close()
	})
	return t
}

// Read reads, and says so once it is late.
func (t *timedBody) Read(p []byte) (int, error) {
	n, err := t.ReadCloser.Read(p)
	if err != nil && err != io.EOF && t.late.Load() {
		err = context.DeadlineExceeded
	}
	return n, err
}

// Close is that of the body in time.
func (t *timedBody) Close() error {
	t.over.Stop()
	return t.ReadCloser.Close()
}

// tokenFile is a token that somebody else replaces from time to time: Vault's
// agent, an orchestrator.
type tokenFile struct {
	path string

	mu      sync.Mutex
	changed time.Time // the file's, when it was read
	size    int64
	token   string
}

// read returns the token as it is now; while the file is being replaced, and is
// missing or empty, as it was.
func (f *tokenFile) read() (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	info, err := os.Stat(f.path)
	if err == nil && f.token != "" && info.ModTime().Equal(f.changed) && info.Size() == f.size {
		return f.token, nil
	}
	var text []byte
	if err == nil {
		text, err = os.ReadFile(f.path)
	}
	if token := strings.TrimSpace(string(text)); err == nil && token != "" {
		f.token, f.changed, f.size = token, info.ModTime(), info.Size()
	}
	const fix = "check CONSUL_HTTP_TOKEN_FILE"
	switch {
	case f.token != "":
		return f.token, nil
	case err != nil:
		return "", hint.Errorf(fix, "the ACL token's file: %w", err)
	}
	return "", hint.Errorf(fix, "the ACL token's file %s is empty", f.path)
}
