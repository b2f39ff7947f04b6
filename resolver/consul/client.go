package consul

import (
	"cmp"
	"context"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/consul/sharedwatch"
	"github.com/ambassadord/ambassadord/resolver/internal/failover"
)

// Schemes of this package's sources.
const (
	SchemeService = "consul-service"
	SchemeQuery   = "consul-query"
	SchemeKV      = "consul"
)

const defaultPort = "8500"

// Config tunes a Client. The zero value of each field means its default.
type Config struct {
	// Address is the configured agent: HOST:PORT, http://…, https://… or
	// unix:///path; or several of one cluster, separated by commas, the next of which
	// is asked when one fails. Default CONSUL_HTTP_ADDR, else localhost:8500.
	Address string
	// Domain is Consul's DNS domain. Default consul.
	Domain string
	// Wait is how long the agent may hold one blocking query. Default 5 min, and
	// Consul allows 10 min at most.
	Wait time.Duration
	// Slack is how long an answer may take beyond that. Default 20 s.
	Slack time.Duration
	// Timeout bounds a request that is not to wait, and all of them together when several
	// agents are asked. Default 5 s.
	Timeout time.Duration
	// Heartbeat is how often an agent is asked for a sign of life while a watch waits for it.
	// Default 1 s.
	Heartbeat time.Duration
	// Slots is how many blocking queries are held at once over HTTP/1.1, where each
	// takes a connection. Default 100: agents allow 200 connections from one address
	// (limits.http_max_conns_per_client), and we are not alone there.
	Slots int
	// MinInterval is the least time between two requests of one watch, after a burst of ten.
	// Default 100 ms.
	MinInterval time.Duration
	// Poll is how often a prepared query is executed, of which Consul has no blocking
	// form. Default 5 s.
	Poll time.Duration
	// Permit is asked about the addresses of agents that targets name; nil permits all.
	Permit resolver.Permission

	search time.Duration // bounds a search for the subscribers of a shared watch that are concerned
}

// Client asks Consul agents. It keeps their connections until Close.
type Client struct {
	config     Config
	configured []string                               // the addresses of the configured agents
	order      atomic.Pointer[failover.Order[*agent]] // of whom of them is asked first

	mu     sync.Mutex
	agents map[string]*agent // by address
	// lingering counts the timers that have still to look whether an agent is asked.
	lingering int

	asking   sync.Mutex // held while the configured agents are asked whether any answers
	asked    time.Time  // when they last were
	answered bool       // then
}

// New makes a Client. It connects to an agent when one is first asked.
func New(config Config) *Client {
	config.Wait = cmp.Or(config.Wait, 5*time.Minute)
	config.Slack = cmp.Or(config.Slack, 20*time.Second)
	config.Timeout = cmp.Or(config.Timeout, 5*time.Second)
	config.Heartbeat = cmp.Or(config.Heartbeat, time.Second)
	config.Slots = cmp.Or(config.Slots, 100)
	config.MinInterval = cmp.Or(config.MinInterval, 100*time.Millisecond)
	config.Poll = cmp.Or(config.Poll, 5*time.Second)
	config.search = cmp.Or(config.search, sharedwatch.SearchTime)
	config.Domain = strings.ToLower(strings.Trim(cmp.Or(config.Domain, "consul"), "."))
	c := &Client{config: config, agents: map[string]*agent{}}
	c.order.Store(new(failover.Order[*agent]))
	for address := range strings.SplitSeq(cmp.Or(config.Address, api.DefaultConfig().Address), ",") {
		c.configured = append(c.configured, strings.TrimSpace(address))
	}
	return c
}

// Explicit says whether somebody configured an agent; else one is merely looked for
// where agents usually are.
func (c *Client) Explicit() bool {
	return c.config.Address != "" || os.Getenv(api.HTTPAddrEnvName) != ""
}

// Configured are the configured agents, HOST:PORT, as a target may name them too.
func (c *Client) Configured() []string {
	servers := make([]string, len(c.configured))
	for i, address := range c.configured {
		servers[i] = canonical(address)
	}
	return servers
}

// Services is the source of the scheme "consul-service".
func (c *Client) Services() resolver.Source { return serviceSource{c} }

// Queries is the source of the scheme "consul-query".
func (c *Client) Queries() resolver.Source { return querySource{c} }

// KV is the source of the scheme "consul".
func (c *Client) KV() resolver.Source { return kvSource{c} }

// Close closes the connections that no watch is using, and ends what has outlived a
// watch for the next one's sake. End the watches first.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range c.agents {
		a.shared.Close()
		a.transport.Load().CloseIdleConnections()
	}
	return nil
}

// Address is the configured agent's, or several, separated by commas.
func (c *Client) Address() string { return strings.Join(c.configured, ",") }

// Leader asks the configured agents, until one answers, for their cluster's leader,
// IP:PORT, and returns "" when it knows none: then it answers no query that wants to
// be consistent. The error carries a hint.
func (c *Client) Leader(ctx context.Context) (string, error) {
	agents, err := c.all()
	if err != nil {
		return "", err
	}
	asking := failover.Asking[*agent, string]{
		Ask:  func(ctx context.Context, a *agent) (string, error) { return a.askLeader(ctx, c.config.Timeout) },
		Slow: failover.Slow(c.config.Timeout, len(agents)),
	}
	got, failures := asking.First(ctx, agents)
	if got != nil {
		return got.Value, nil
	}
	var errs []error
	for _, f := range failures {
		errs = append(errs, request{agent: f.Of, what: "the leader"}.explain(f.Err))
	}
	return "", join(errs)
}

// CheckToken asks the configured agents, until one answers, for the instances of Consul's own servers, as
// watches ask for those of a service. The error, which carries a hint, says that the token is denied, or
// that there is none and ACLs hide everything from who has none. A token that may read other services
// alone passes.
func (c *Client) CheckToken(ctx context.Context) error {
	agents, err := c.all()
	if err != nil {
		return err
	}
	asked := request{what: "service consul", rule: serviceRule}
	for _, asked.agent = range agents {
		var entries []*api.ServiceEntry
		var meta *api.QueryMeta
		within, cancel := context.WithTimeout(ctx, c.config.Timeout)
		entries, meta, err = asked.agent.client.Health().Service("consul", "", false, (&api.QueryOptions{}).WithContext(within))
		cancel()
		switch {
		case err != nil && another(err):
			continue
		case err != nil:
			return asked.explain(err)
		case len(entries) == 0 && meta.DefaultACLPolicy == "deny" && os.Getenv(api.HTTPTokenEnvName) == "" && os.Getenv(api.HTTPTokenFileEnvName) == "":
			return hint.Errorf(asked.tokenHint(), "the Consul agent at %s hides everything from who has no token, for ACLs deny by default", asked.agent.address)
		}
		return nil
	}
	return asked.explain(err)
}

// all are the configured agents, those that have failed last.
func (c *Client) all() ([]*agent, error) {
	agents := make([]*agent, 0, len(c.configured))
	for _, address := range c.configured {
		a, err := c.agent(address, true)
		if err != nil {
			return nil, err
		}
		agents = append(agents, a)
	}
	return c.order.Load().Sort(agents), nil
}

// avoid makes watches ask a, which has failed or is slow, last.
func (c *Client) avoid(a *agent) {
	if len(c.configured) == 1 || !a.trusted {
		return
	}
	next := c.order.Load().Demote(a)
	c.order.Store(&next)
}

// lingering is how long an agent that a target named is remembered when no watch asks it
// any more. A watch that begins again after a failure finds its connections.
const lingering = time.Minute

// named is the agent that a target names, until leave is called. Such agents are forgotten
// with the last watch that asks them, or containers that come and go, and each name
// another one, would leave theirs behind for ever.
func (c *Client) named(allowance *resolver.Allowance, host string, port uint16) (a *agent, leave func(), err error) {
	address := net.JoinHostPort(host, defaultPort)
	if port != 0 {
		address = net.JoinHostPort(host, strconv.Itoa(int(port)))
	}
	for _, configured := range c.configured {
		if canonical(address) == canonical(configured) {
			a, err = c.agent(configured, true)
			return a, func() {}, err
		}
	}
	uncount, err := allowance.Server("consul://" + address)
	if err != nil {
		return nil, nil, err
	}
	if a, err = c.use(address); err != nil {
		uncount()
		return nil, nil, err
	}
	return a, func() { c.unuse(a); uncount() }, nil
}

// use counts one more watch of the agent at address.
func (c *Client) use(address string) (*agent, error) {
	for {
		a, err := c.agent(address, false)
		if err != nil {
			return nil, err
		}
		c.mu.Lock()
		there := c.agents[address] == a // or it has just been forgotten
		if there {
			a.users++
		}
		c.mu.Unlock()
		if there {
			return a, nil
		}
	}
}

// unuse counts one less. Beyond a few that linger, an agent without any is forgotten.
func (c *Client) unuse(a *agent) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a.users--; a.users > 0 {
		return
	}
	if c.lingering >= mostLingering {
		c.forget(a)
		return
	}
	c.lingering++
	time.AfterFunc(lingering, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.lingering--
		if a.users == 0 {
			c.forget(a)
		}
	})
}

// mostLingering bounds the agents that nobody asks and that are remembered.
const mostLingering = 64

// forget is called with mu held.
func (c *Client) forget(a *agent) {
	if c.agents[a.address] == a {
		delete(c.agents, a.address)
	}
	a.transport.Load().CloseIdleConnections()
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
	a, err := newAgent(address, trusted, c.config.Slots, c.config.Permit)
	if err != nil {
		return nil, hint.Errorf("check --consul-addr and the CONSUL_* environment", "Consul agent %s: %w", address, err)
	}
	c.agents[address] = a
	return a, nil
}
