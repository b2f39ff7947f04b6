package dns

import (
	"context"
	"net"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/internal/answer"
)

// Config tunes a Client. The zero value of each field means its default.
type Config struct {
	// ResolvConf and HostsFile are the paths of resolv.conf(5) and hosts(5), each
	// read again when it changes. Defaults /etc/resolv.conf and /etc/hosts.
	ResolvConf, HostsFile string
	// Servers are asked instead of resolv.conf's, in order: each an IP address
	// with an optional port, 53 by default. The search list and the options still
	// come from resolv.conf.
	Servers []string
	// Timeout bounds each try of one server. Default 2 s. It stands for
	// resolv.conf's "timeout" option, whose default is longer than a waiting
	// connection should be held up.
	Timeout time.Duration
	// MinTTL and MaxTTL clamp the time between an answer and the next question.
	// Defaults 1 s and 60 s.
	MinTTL, MaxTTL time.Duration
	// MaxNegativeTTL is MaxTTL for answers without records. Default 10 s.
	MaxNegativeTTL time.Duration
	// HostsInterval is how often a name found in the hosts file is looked up
	// there again. Default 5 s.
	HostsInterval time.Duration
}

func (c *Config) setDefaults() {
	if c.ResolvConf == "" {
		c.ResolvConf = "/etc/resolv.conf"
	}
	if c.HostsFile == "" {
		c.HostsFile = "/etc/hosts"
	}
	setDefault(&c.Timeout, 2*time.Second)
	setDefault(&c.MinTTL, time.Second)
	setDefault(&c.MaxTTL, time.Minute)
	setDefault(&c.MaxNegativeTTL, 10*time.Second)
	setDefault(&c.HostsInterval, 5*time.Second)
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
	resolvConf watchedFile[*mdns.ClientConfig]
	hosts      watchedFile[hosts]
}

// New makes a Client.
func New(config Config) *Client {
	config.setDefaults()
	return &Client{
		config:     config,
		resolvConf: watchedFile[*mdns.ClientConfig]{path: config.ResolvConf, parse: mdns.ClientConfigFromReader},
		hosts:      watchedFile[hosts]{path: config.HostsFile, parse: parseHosts},
	}
}

// Hosts is the source of the scheme "dns": host:port.
func (c *Client) Hosts() resolver.Source { return hostSource{c} }

// Services is the source of the scheme "srv": a bare name.
func (c *Client) Services() resolver.Source { return serviceSource{c} }

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
	return watch(ctx, publish, func() (lookup, error) { return s.client.lookupHost(ctx, q.Host, q.Port) })
}

type serviceSource struct{ client *Client }

// Check wants a DNS name alone.
func (serviceSource) Check(q resolver.Query) error {
	const fix = "write the name of SRV records alone, for example redis.service.consul"
	if q.Port != 0 {
		return hint.Errorf(fix, "SRV records bring their own ports; %d is one too many", q.Port)
	}
	return check(q, fix)
}

// Watch publishes the service's endpoints, and again when they change.
func (s serviceSource) Watch(ctx context.Context, q resolver.Query, publish func(resolver.Answer)) error {
	return watch(ctx, publish, func() (lookup, error) { return s.client.lookupService(ctx, q.Host) })
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
	return nil
}

// lookup is an answer and how long it holds.
type lookup struct {
	answer resolver.Answer
	holds  time.Duration
	// noSuchName is set when the answer is empty because the name does not exist.
	noSuchName bool
}

// watch looks up, publishes what is new, waits as long as the answer holds, and
// starts over, until a lookup fails or ctx ends.
func watch(ctx context.Context, publish func(resolver.Answer), look func() (lookup, error)) error {
	publish = answer.OnChange(publish)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		found, err := look()
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		publish(found.answer)
		timer.Reset(found.holds)
	}
}
