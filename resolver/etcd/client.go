package etcd

import (
	"cmp"
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ambassadord/ambassadord/internal/selfconnect"
	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/internal/failover"
)

const (
	defaultEndpoint = "127.0.0.1:2379"
	defaultPort     = "2379"

	// silence is how long a connection may be silent before its server is asked for a
	// sign of life (gRPC allows no less), and signOfLife how long that may take.
	silence, signOfLife = 10 * time.Second, 3 * time.Second
	// failureFor is how long a server that could not be asked is not asked again:
	// all its watches fail at once.
	failureFor = 200 * time.Millisecond
	// readsAtOnce is how many watches of a cluster are read at a time: when a connection is
	// lost, all of them are.
	readsAtOnce = 64
	// maxMessage bounds one answer of the configured servers, in bytes, and all that is
	// kept of one path; maxForeign those of a server that a target names.
	maxMessage, maxForeign = 32 << 20, 1 << 20
	// maxHeaders bounds the headers of an answer, in bytes.
	maxHeaders = 64 << 10
)

// Config tunes a Client. The zero value of each field means its default.
type Config struct {
	// Endpoints are the configured cluster's servers, HOST:PORT, http://… or
	// https://…. Default ETCDCTL_ENDPOINTS, else 127.0.0.1:2379.
	Endpoints []string
	// Timeout bounds one read, whichever servers it takes. Default 5 s.
	Timeout time.Duration
	// Heartbeat is how often a server is asked for a sign of life while it is watched; one that
	// gives none for twice that is left for another one, or after four times that asked anew
	// if there is none. Default 1 s.
	Heartbeat time.Duration
	// Permit is asked about the addresses of servers that targets name; nil permits all.
	Permit resolver.Permission
}

// Client asks etcd clusters. It keeps their connections until Close.
type Client struct {
	config     Config
	configured *cluster

	mu    sync.Mutex
	named map[string]*cluster // by address
}

var _ resolver.Source = (*Client)(nil)

// New makes a Client. It connects to a cluster when one is first asked.
func New(config Config) *Client {
	config.Timeout = cmp.Or(config.Timeout, 5*time.Second)
	config.Heartbeat = cmp.Or(config.Heartbeat, time.Second)
	endpoints := config.Endpoints
	if len(endpoints) == 0 {
		endpoints = strings.Split(cmp.Or(os.Getenv("ETCDCTL_ENDPOINTS"), defaultEndpoint), ",")
	}
	for i, e := range endpoints {
		endpoints[i] = strings.TrimSuffix(strings.TrimSpace(e), "/")
	}
	c := &Client{config: config, named: map[string]*cluster{}}
	c.configured = newCluster(config, true, endpoints...)
	return c
}

// most bounds one message of the cluster's servers, and all that is kept of a path.
func (c *cluster) most() int {
	if c.trusted {
		return maxMessage
	}
	return maxForeign
}

// Configured are the servers of the configured cluster, HOST:PORT, as a target may name
// them too.
func (c *Client) Configured() []string {
	servers := make([]string, len(c.configured.endpoints))
	for i, address := range c.configured.endpoints {
		servers[i] = canonical(address)
	}
	return servers
}

// Close closes all connections. End the watches first.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	errs := []error{c.configured.close()}
	for _, cluster := range c.named {
		errs = append(errs, cluster.close())
	}
	return errors.Join(errs...)
}

// clusterOf is the cluster that a query asks, until leave is called: the configured one if
// it names none, or one of its servers. Others are closed with the last watch that asks
// them, or containers that come and go, and each name another one, would leave theirs
// behind for ever.
func (c *Client) clusterOf(allowance *resolver.Allowance, q resolver.Query) (_ *cluster, leave func(), err error) {
	if q.Host == "" {
		return c.configured, func() {}, nil
	}
	address := net.JoinHostPort(q.Host, defaultPort)
	if q.Port != 0 {
		address = net.JoinHostPort(q.Host, strconv.Itoa(int(q.Port)))
	}
	if slices.ContainsFunc(c.configured.endpoints, func(e string) bool { return canonical(e) == canonical(address) }) {
		return c.configured, func() {}, nil
	}
	uncount, err := allowance.Server("etcd://" + address)
	if err != nil {
		return nil, nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	named := c.named[address]
	if named == nil {
		named = newCluster(c.config, false, address)
		c.named[address] = named
	}
	named.users++
	return named, func() { c.unuse(address, named); uncount() }, nil
}

// unuse closes the cluster at address when no watch asks it any more.
func (c *Client) unuse(address string, named *cluster) {
	c.mu.Lock()
	named.users--
	last := named.users == 0
	if last {
		delete(c.named, address)
	}
	c.mu.Unlock()
	if last {
		_ = named.close()
	}
}

// canonical makes addresses comparable, as far as that goes without asking DNS.
func canonical(address string) string {
	if _, rest, ok := strings.Cut(address, "://"); ok {
		address = rest
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

// cluster is one etcd cluster, as far as its servers are named.
type cluster struct {
	config    Config
	endpoints []string
	trusted   bool // the configured one, which gets the secrets
	users     int  // how many watches have it, under Client.mu; of one that a target names

	servers []*server
	order   atomic.Pointer[failover.Order[*server]] // of whom is asked first
	reading chan struct{}                           // has room for as many reads as are under way at once

	refusal atomic.Pointer[resolver.Refusal] // why the last connection was not permitted; nil if it was
}

func newCluster(config Config, trusted bool, endpoints ...string) *cluster {
	c := &cluster{config: config, endpoints: endpoints, trusted: trusted, reading: make(chan struct{}, readsAtOnce)}
	c.order.Store(new(failover.Order[*server]))
	for _, endpoint := range endpoints {
		s := &server{cluster: c, endpoint: endpoint, turn: make(chan struct{}, 1)}
		s.ctx, s.stop = context.WithCancel(context.Background())
		c.servers = append(c.servers, s)
	}
	return c
}

func (c *cluster) String() string { return strings.Join(c.endpoints, ",") }

// inOrder are the servers, those that have failed last.
func (c *cluster) inOrder() []*server { return c.order.Load().Sort(c.servers) }

// demote has s be asked last from now on.
func (c *cluster) demote(s *server) {
	if len(c.servers) == 1 {
		return
	}
	next := c.order.Load().Demote(s)
	c.order.Store(&next)
}

func (c *cluster) close() error {
	var errs []error
	for _, s := range c.servers {
		errs = append(errs, s.close())
	}
	return errors.Join(errs...)
}

// dialPermitted connects to a server that a target names, and by no proxy.
func (c *cluster) dialPermitted(ctx context.Context, address string) (net.Conn, error) {
	dialer := net.Dialer{ControlContext: c.config.Permit.Control(c.endpoints[0])}
	conn, err := selfconnect.DialContext(ctx, &dialer, "tcp", address)
	c.refusal.Store(nil)
	if refusal, ok := errors.AsType[*resolver.Refusal](err); ok { // gRPC keeps the text alone
		c.refusal.Store(refusal)
	}
	return conn, err
}

// failFast undoes the client's own choice, to wait for a server until the deadline:
// that hides why there is none. Nor does it let the client answer a login that was refused
// for the token that comes with it by another one, which brings the same, until the deadline.
func failFast(ctx context.Context, method string, request, reply any, connection *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
	err := invoke(ctx, method, request, reply, connection, append(options, grpc.WaitForReady(false))...)
	if method == etcdserverpb.Auth_Authenticate_FullMethodName && errors.Is(rpctypes.Error(err), rpctypes.ErrInvalidAuthToken) {
		return status.Error(codes.FailedPrecondition, oldToken)
	}
	return err
}

// oldToken is the message of such an error.
const oldToken = "the login was refused for the token of an earlier one" //nolint:gosec // its words, not a token

// isOldToken reports whether a session has failed for a token that its server has forgotten.
func isOldToken(err error) bool { return err != nil && strings.Contains(err.Error(), oldToken) }
