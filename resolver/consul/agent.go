package consul

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/ambassadord/ambassadord/internal/selfconnect"
	"github.com/ambassadord/ambassadord/resolver"
)

const (
	// dialTimeout bounds how long an agent that drops packets holds up a watch.
	dialTimeout = 2 * time.Second

	// Bounds of one answer, in bytes: of any agent to the operator, of the configured
	// agents to clients, and of an agent that a client names.
	maxBody, maxShared, maxForeign = 32 << 20, 8 << 20, 2 << 20

	// perObject is what an object of an answer takes beside its text, once it is decoded:
	// two bytes of JSON can be one.
	perObject = 200

	// maxHeader bounds an answer's header, in bytes.
	maxHeader = 64 << 10

	// bodyTimeout bounds the time from an answer's header to its end, of which the time
	// that a query may wait is no part.
	bodyTimeout = 20 * time.Second
)

// agent is one Consul agent.
type agent struct {
	address   string
	https     bool
	trusted   bool // a configured one, which gets the secrets
	client    *api.Client
	permit    resolver.Permission
	transport atomic.Pointer[http.Transport] // replaced when it fails
	made      atomic.Int64                   // when that was made, in Unix nanoseconds
	lanes     lanes
	home      home
	pulse     pulse

	mu     sync.Mutex
	crowds map[scope]*crowd

	users int // how many watches have it, under Client.mu; of an agent that a target names
}

// newAgent makes the API client for one agent.
func newAgent(address string, trusted bool, blocking int, permit resolver.Permission) (*agent, error) {
	config := api.DefaultConfig()
	config.Address = address
	https := strings.HasPrefix(address, "https://") || config.Scheme == "https" && !strings.Contains(address, "://")
	a := &agent{address: address, https: https, trusted: trusted, permit: permit, crowds: map[scope]*crowd{}}
	if path, ok := strings.CutPrefix(address, "unix://"); ok {
		config.Address = path
	}
	if err := a.connect(); err != nil {
		return nil, err
	}
	a.home.turn = make(chan struct{}, 1)
	a.lanes.init(blocking, a.short())
	guarded := guardedTransport{base: &a.transport, trusted: trusted, multiplexed: &a.lanes.multiplexed}
	if path := os.Getenv(api.HTTPTokenFileEnvName); path != "" && trusted {
		guarded.token = &tokenFile{path: path}
	}
	if guarded.token != nil || !trusted {
		config.Token = "none" // or consul/api reads the file, once; it is not sent
	}
	config.HttpClient = &http.Client{
		Transport: guarded,
		// A redirect would carry the token to wherever it points.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	var err error
	if a.client, err = api.NewClient(config); err != nil {
		return nil, err
	}
	return a, nil
}

// short is how many requests that do not wait may be under way at a.
func (a *agent) short() int {
	if a.trusted {
		return shortLanes
	}
	return fewShortLanes
}

// connect makes a transport to the agent, with the certificates as they are now. It builds it
// itself: consul/api's has no bound on dialling or on the size of an answer, and takes a dead
// peer for a quiet one.
func (a *agent) connect() error {
	config := api.DefaultConfig()
	dialer := &net.Dialer{
		Timeout:         dialTimeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 3 * time.Second, Interval: time.Second, Count: 5},
	}
	transport := config.Transport
	if !a.trusted {
		// What a target names is reached where it may be, not by way of somebody else.
		dialer.ControlContext = a.permit.Control(a.address)
		transport.Proxy = nil
	}
	transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		return selfconnect.DialContext(ctx, dialer, network, address)
	}
	transport.TLSHandshakeTimeout = 2 * dialTimeout // a server may be slow, and answers it twice
	transport.MaxIdleConnsPerHost = a.short()
	transport.MaxResponseHeaderBytes = maxHeader
	// The configured agent is on this host, as a rule, where to pack and to unpack takes longer than
	// what is packed takes to send.
	transport.DisableCompression = a.trusted
	// Over HTTP/2 a question that is given up leaves its connection to the others, also one
	// that is dead.
	transport.HTTP2 = &http.HTTP2Config{SendPingTimeout: 3 * time.Second, PingTimeout: 3 * time.Second}
	if path, ok := strings.CutPrefix(a.address, "unix://"); ok {
		transport.Proxy = nil
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", path)
		}
	}
	if !a.trusted {
		config.TLSConfig.CertFile, config.TLSConfig.KeyFile = "", ""
	}
	tlsConfig, err := api.SetupTLSConfig(&config.TLSConfig)
	if err != nil {
		return err
	}
	transport.TLSClientConfig = tlsConfig
	if old := a.transport.Swap(transport); old != nil {
		old.CloseIdleConnections()
	}
	a.made.Store(time.Now().UnixNano())
	return nil
}

// renewAfter is how old a transport must be for its failure to end it.
const renewAfter = time.Second

// renew replaces the transport of an agent with TLS that has failed with err, unless the agent
// has answered: a certificate or its authority may be another one in its file by now. It
// reports whether it has.
func (a *agent) renew(err error) bool {
	made := a.made.Load()
	if _, answered := errors.AsType[api.StatusError](err); answered || !a.https || errors.Is(err, context.Canceled) || time.Since(time.Unix(0, made)) < renewAfter {
		return false
	}
	if !a.made.CompareAndSwap(made, time.Now().UnixNano()) { // another watch does it
		return false
	}
	return a.connect() == nil // or the files are just being replaced: the next failure tries again
}

// guardedTransport bounds answers, takes the secrets that consul/api puts into
// every request out of those for other agents than the configured ones, and keeps
// the token up to date in those for them.
type guardedTransport struct {
	base        *atomic.Pointer[http.Transport]
	trusted     bool
	token       *tokenFile   // nil if the token is not in a file
	multiplexed *atomic.Bool // told whether the agent speaks HTTP/2
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
	g.multiplexed.Store(response.ProtoMajor >= 2)
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

// timedBody is closed when it has not been read whole in time: who answers a byte a minute
// holds what has been read all the while.
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
