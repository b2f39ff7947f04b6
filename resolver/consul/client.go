package consul

import (
	"cmp"
	"context"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/resolver"
)

// Schemes of this package's sources.
const (
	SchemeService = "consul-service"
	SchemeKV      = "consul"
)

const (
	defaultPort = "8500"

	// dialTimeout bounds how long an agent that drops packets holds up a watch.
	dialTimeout = 2 * time.Second

	// maxBody bounds one answer of an agent, in bytes.
	maxBody = 32 << 20
)

// Config tunes a Client. The zero value of each field means its default.
type Config struct {
	// Address is the configured agent: HOST:PORT, http://…, https://… or
	// unix:///path. Default CONSUL_HTTP_ADDR, else localhost:8500.
	Address string
	// Wait is how long the agent may hold one blocking query. Default 5 min, and
	// Consul allows 10 min at most.
	Wait time.Duration
	// Slack is how long an answer may take beyond that. Default 20 s.
	Slack time.Duration
}

// Client asks Consul agents. It keeps their connections until Close.
type Client struct {
	config  Config
	address string // the configured agent

	mu     sync.Mutex
	agents map[string]*agent // by address
}

// New makes a Client. It connects to an agent when one is first asked.
func New(config Config) *Client {
	config.Wait = cmp.Or(config.Wait, 5*time.Minute)
	config.Slack = cmp.Or(config.Slack, 20*time.Second)
	address := cmp.Or(config.Address, api.DefaultConfig().Address)
	return &Client{config: config, address: address, agents: map[string]*agent{}}
}

// Services is the source of the scheme "consul-service".
func (c *Client) Services() resolver.Source { return serviceSource{c} }

// KV is the source of the scheme "consul".
func (c *Client) KV() resolver.Source { return kvSource{c} }

// Close closes the connections that no watch is using. End the watches first.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range c.agents {
		a.transport.CloseIdleConnections()
	}
	return nil
}

// agent is one Consul agent.
type agent struct {
	address   string
	client    *api.Client
	transport *http.Transport
}

// configured is the agent of the configuration.
func (c *Client) configured() (*agent, error) { return c.agent(c.address, true) }

// named is the agent that a target names.
func (c *Client) named(host string, port uint16) (*agent, error) {
	address := net.JoinHostPort(host, defaultPort)
	if port != 0 {
		address = net.JoinHostPort(host, strconv.Itoa(int(port)))
	}
	if canonical(address) == canonical(c.address) {
		return c.configured()
	}
	return c.agent(address, false)
}

// canonical makes addresses comparable, as far as that goes without asking DNS.
func canonical(address string) string {
	if _, rest, ok := strings.Cut(address, "://"); ok {
		address = strings.TrimSuffix(rest, "/")
	}
	address = strings.ToLower(address)
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		host, port = strings.Trim(address, "[]"), defaultPort
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

func (c *Client) agent(address string, trusted bool) (*agent, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a := c.agents[address]; a != nil {
		return a, nil
	}
	a, err := newAgent(address, trusted)
	if err != nil {
		return nil, hint.Errorf("check --consul-addr and the CONSUL_* environment", "Consul agent %s: %w", address, err)
	}
	c.agents[address] = a
	return a, nil
}

// newAgent makes the API client for one agent. It builds the transport itself:
// consul/api's has no bound on dialling or on the size of an answer, and takes a
// dead peer for a quiet one.
func newAgent(address string, trusted bool) (*agent, error) {
	config := api.DefaultConfig()
	config.Address = address
	dialer := &net.Dialer{
		Timeout:         dialTimeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3},
	}
	transport := config.Transport
	transport.DialContext = dialer.DialContext
	transport.TLSHandshakeTimeout = dialTimeout
	transport.MaxIdleConnsPerHost = 2
	if path, ok := strings.CutPrefix(address, "unix://"); ok {
		config.Address = path
		transport.Proxy = nil
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", path)
		}
	}
	if !trusted {
		config.TLSConfig.CertFile, config.TLSConfig.KeyFile = "", ""
	}
	tlsConfig, err := api.SetupTLSConfig(&config.TLSConfig)
	if err != nil {
		return nil, err
	}
	transport.TLSClientConfig = tlsConfig
	config.HttpClient = &http.Client{
		Transport: guardedTransport{base: transport, trusted: trusted},
		// A redirect would carry the token to wherever it points.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	client, err := api.NewClient(config)
	if err != nil {
		return nil, err
	}
	return &agent{address: address, client: client, transport: transport}, nil
}

// guardedTransport bounds answers, and takes the secrets that consul/api puts
// into every request out of those for other agents than the configured one.
type guardedTransport struct {
	base    *http.Transport
	trusted bool
}

// RoundTrip is http.RoundTripper's.
func (g guardedTransport) RoundTrip(request *http.Request) (*http.Response, error) {
	if !g.trusted {
		request = request.Clone(request.Context())
		request.Header.Del("X-Consul-Token")
		request.Header.Del("Authorization")
	}
	response, err := g.base.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	response.Body = http.MaxBytesReader(nil, response.Body, maxBody)
	return response, nil
}
