package dns

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/resolver"
)

// DefaultTimeout is a Config's Timeout.
const DefaultTimeout = 2 * time.Second

// Config tunes a Client. The zero value of each field means its default.
type Config struct {
	// ResolvConf and HostsFile are the paths of resolv.conf(5) and hosts(5), each
	// read again when it changes. Defaults /etc/resolv.conf and /etc/hosts.
	ResolvConf, HostsFile string
	// Servers are asked instead of resolv.conf's, in order: each an IP address
	// with an optional port, 53 by default. The search list and the options still
	// come from resolv.conf.
	Servers []string
	// Timeout bounds each try of one server where resolv.conf has no "timeout"
	// option. Default DefaultTimeout: the C library's 5 s is longer than a waiting connection
	// should be held up.
	Timeout time.Duration
	// MinTTL and MaxTTL clamp the time between an answer and the next question.
	// Defaults 1 s and 60 s.
	MinTTL, MaxTTL time.Duration
	// MaxNegativeTTL is MaxTTL for answers without records. Default 10 s.
	MaxNegativeTTL time.Duration
	// FilesInterval is how often both files are looked at for a change, which
	// makes every watch ask again at once. Default 5 s.
	FilesInterval time.Duration
	// Permit is asked about the addresses of servers that targets name; nil permits all.
	Permit resolver.Permission
}

func (c *Config) setDefaults() {
	if c.ResolvConf == "" {
		c.ResolvConf = "/etc/resolv.conf"
	}
	if c.HostsFile == "" {
		c.HostsFile = "/etc/hosts"
	}
	setDefault(&c.Timeout, DefaultTimeout)
	setDefault(&c.MinTTL, time.Second)
	setDefault(&c.MaxTTL, time.Minute)
	setDefault(&c.MaxNegativeTTL, 10*time.Second)
	setDefault(&c.FilesInterval, 5*time.Second)
}

func setDefault(d *time.Duration, value time.Duration) {
	if *d <= 0 {
		*d = value
	}
}

// Client asks DNS servers. It holds no connection between questions and needs no
// Close.
type Client struct {
	config     Config
	resolvConf watchedFile[*resolvConf]
	hosts      watchedFile[hosts]

	lookups   atomic.Uint64         // counted for rotation
	named     expiringMap[[]string] // servers given by name → their addresses
	exchanger *exchanger
}

// New makes a Client.
func New(config Config) *Client {
	config.setDefaults()
	return &Client{
		config:     config,
		resolvConf: watchedFile[*resolvConf]{path: config.ResolvConf, parse: parseResolvConf},
		hosts:      watchedFile[hosts]{path: config.HostsFile, parse: parseHosts},
		exchanger:  newExchanger(config.Permit),
	}
}

// Hosts is the source of the scheme "dns": host:port.
func (c *Client) Hosts() resolver.Source { return hostSource{c} }

// Services is the source of the scheme "srv": a bare name.
func (c *Client) Services() resolver.Source { return srvSource{c} }

type hostSource struct{ client *Client }

// Check wants a DNS name and a port.
func (hostSource) Check(q resolver.Query) error {
	const fix = "write HOST:PORT, for example redis.example.com:6379"
	if q.Port == 0 {
		return hint.Errorf(fix, "%q has no port", q.Host)
	}
	return check(q, fix)
}

// Watch publishes the host's addresses, and again when they change.
func (s hostSource) Watch(ctx context.Context, q resolver.Query, publish func(resolver.Answer)) error {
	return s.client.watch(ctx, publish, func() (lookup, error) { return s.client.lookupHost(ctx, q) })
}

type srvSource struct{ client *Client }

// Check wants a DNS name alone.
func (srvSource) Check(q resolver.Query) error {
	const fix = "write the name of SRV records alone, for example redis.service.consul"
	if q.Port != 0 {
		return hint.Errorf(fix, "SRV records bring their own ports; %d is one too many", q.Port)
	}
	return check(q, fix)
}

// Watch publishes the service's endpoints, and again when they change.
func (s srvSource) Watch(ctx context.Context, q resolver.Query, publish func(resolver.Answer)) error {
	return s.client.watch(ctx, publish, func() (lookup, error) { return s.client.lookupService(ctx, q) })
}

// check is what both schemes ask of a query.
func check(q resolver.Query, fix string) error {
	_, validName := mdns.IsDomainName(q.Host)
	switch {
	case q.Host == "" || !validName:
		return hint.Errorf(fix, "%q is not a DNS name", q.Host)
	case net.ParseIP(q.Host) != nil:
		return hint.Errorf(fix, "%s is an address, not a DNS name", q.Host)
	case q.Path != "" || q.Params != "":
		return hint.Errorf(fix, "a DNS name takes neither a path nor parameters")
	}
	if q.Server == "" {
		return nil
	}
	if _, err := resolver.ParseHostPort(q.Server); err != nil {
		return fmt.Errorf("the DNS server: %w", err)
	}
	return nil
}
