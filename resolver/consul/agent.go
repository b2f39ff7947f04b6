package consul

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/ambassadord/ambassadord/internal/selfconnect"
	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/consul/blocking"
	"github.com/ambassadord/ambassadord/resolver/consul/sharedwatch"
)

const (
	// dialTimeout bounds how long an agent that drops packets holds up a watch.
	dialTimeout = 2 * time.Second

	// maxHeader bounds an answer's header, in bytes.
	maxHeader = 64 << 10

	// homeTimeout bounds how long an answer waits for its agent's datacenter, which it
	// can do without.
	homeTimeout = time.Second

	// homeRetry is how long an agent that does not tell is not asked again: a token
	// without agent:read is the likely reason.
	homeRetry = time.Minute
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
	slots     *blocking.Slots
	home      home
	liveness  liveness
	shared    sharedwatch.Watches[scope]

	users int // how many watches have it, under Client.mu; of an agent that a target names
}

// newAgent makes the API client for one agent.
func newAgent(address string, trusted bool, slots int, permit resolver.Permission) (*agent, error) {
	config := api.DefaultConfig()
	config.Address = address
	https := strings.HasPrefix(address, "https://") || config.Scheme == "https" && !strings.Contains(address, "://")
	a := &agent{address: address, https: https, trusted: trusted, permit: permit}
	if path, ok := strings.CutPrefix(address, "unix://"); ok {
		config.Address = path
	}
	if err := a.connect(); err != nil {
		return nil, err
	}
	a.home.turn = make(chan struct{}, 1)
	a.slots = blocking.NewSlots(slots, a.short())
	guarded := guardedTransport{base: &a.transport, trusted: trusted, slots: a.slots}
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

// shortSlots is how many requests that do not wait may be under way at one agent, and
// fewShortSlots at one that a target names: a client may have many of those asked, and each
// request takes a descriptor of ours.
const shortSlots, fewShortSlots = 16, 8

// short is how many requests that do not wait may be under way at a.
func (a *agent) short() int {
	if a.trusted {
		return shortSlots
	}
	return fewShortSlots
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
	// Over HTTP/2 a query that is given up leaves its connection to the others, also one
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

// home is the datacenter of an agent, asked for once and by one at a time.
type home struct {
	turn      chan struct{} // held while the next two are read or written
	name      string        // "" if it is not known
	retry     time.Time     // when to ask again while it is not
	forgotten atomic.Bool
}

// datacenter is the agent's own, "" when it does not tell. It is needed for answers
// that are of a datacenter which somebody named; any other is of the agent's.
func (a *agent) datacenter(ctx context.Context) string {
	h := &a.home
	select {
	case h.turn <- struct{}{}:
		defer func() { <-h.turn }()
	case <-ctx.Done():
		return ""
	}
	if h.forgotten.Swap(false) {
		h.name, h.retry = "", time.Time{}
	}
	if h.name != "" || time.Now().Before(h.retry) {
		return h.name
	}
	asking, cancel := context.WithTimeout(ctx, homeTimeout)
	defer cancel()
	var self struct{ Config struct{ Datacenter string } }
	_, err := a.client.Raw().Query("/v1/agent/self", &self, (&api.QueryOptions{}).WithContext(asking))
	switch {
	case ctx.Err() != nil:
		return ""
	case err != nil || self.Config.Datacenter == "":
		h.retry = time.Now().Add(homeRetry)
	default:
		h.name = self.Config.Datacenter
	}
	return h.name
}

// forget makes the datacenter be asked for again: behind the address of an agent that
// has failed another one may answer next.
func (h *home) forget() { h.forgotten.Store(true) }
