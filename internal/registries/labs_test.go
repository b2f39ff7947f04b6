//go:build integration

package registries

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	mdns "github.com/miekg/dns"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/ambassadord/ambassadord/internal/consultest"
	"github.com/ambassadord/ambassadord/internal/etcdtest"
	"github.com/ambassadord/ambassadord/internal/servertest"
	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/consul"
	"github.com/ambassadord/ambassadord/resolver/dns"
	"github.com/ambassadord/ambassadord/resolver/etcd"
)

// lab is a registry of real servers, and a relay before each.
type lab struct {
	t         testing.TB // all of its cells'
	processes []*servertest.Process
	addresses []string
	relays    []*relay
	halfOf    int64 // bytes that are half of an answer to a connection
	within    time.Duration

	// sources ask these addresses; they are closed when the test ends.
	sources func(t testing.TB, addresses []string) map[string]resolver.Source
	// target is what resolves name.
	target func(name string) string
	// put has name be at endpoint, and returns once the registry, asked by way of all servers
	// but without, can tell.
	put func(t testing.TB, without int, name, endpoint string)
	// backup keeps what there is, and returns what makes it all there is once more.
	backup func(t testing.TB) (restore func(testing.TB))
	// leader is which of the servers leads; nil where none does.
	leader func(t testing.TB) int
}

func (l *lab) relayed() []string {
	for i := len(l.relays); i < len(l.addresses); i++ {
		l.relays = append(l.relays, newRelay(l.t, l.addresses[i]))
	}
	var addresses []string
	for _, r := range l.relays {
		addresses = append(addresses, r.addr)
	}
	return addresses
}

// retry calls try until it succeeds: a registry that elects a leader refuses.
func retry(t testing.TB, what string, try func(context.Context) error) {
	t.Helper()
	for deadline := time.Now().Add(40 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		err := try(ctx)
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// but are all addresses but one.
func (l *lab) but(without int) (rest []string) {
	for i, a := range l.addresses {
		if i != without {
			rest = append(rest, a)
		}
	}
	return rest
}

func consulLab(t testing.TB, servers []*consultest.Server, config api.Config) *lab {
	l := &lab{t: t, halfOf: 200, within: 3 * time.Second}
	for _, s := range servers {
		l.processes = append(l.processes, s.Process)
		l.addresses = append(l.addresses, s.HTTPAddr)
		if config.Scheme == "https" {
			l.addresses[len(l.addresses)-1] = s.HTTPSAddr
		}
	}
	client := func(address string) (*api.Client, error) {
		c := *api.DefaultConfig()
		c.Address, c.Token, c.Scheme, c.TLSConfig = address, config.Token, config.Scheme, config.TLSConfig
		return api.NewClient(&c)
	}
	l.sources = func(t testing.TB, addresses []string) map[string]resolver.Source {
		var list string
		for i, a := range addresses {
			if i > 0 {
				list += ","
			}
			if config.Scheme == "https" {
				a = "https://" + a
			}
			list += a
		}
		c := consul.New(consul.Config{Address: list})
		t.Cleanup(func() { _ = c.Close() })
		return map[string]resolver.Source{"consul": c.KV()}
	}
	l.target = func(name string) string { return "consul:///services/" + name }
	l.put = func(t testing.TB, without int, name, endpoint string) {
		t.Helper()
		rest, i := l.but(without), 0
		retry(t, "putting "+name, func(ctx context.Context) error {
			c, err := client(rest[i%len(rest)])
			i++
			if err != nil {
				return err
			}
			_, err = c.KV().Put(&api.KVPair{Key: "services/" + name, Value: []byte(endpoint)}, new(api.WriteOptions).WithContext(ctx))
			return err
		})
	}
	l.backup = func(t testing.TB) func(testing.TB) {
		var saved []byte
		retry(t, "a snapshot", func(ctx context.Context) error {
			c, err := client(l.addresses[0])
			if err != nil {
				return err
			}
			from, _, err := c.Snapshot().Save(new(api.QueryOptions).WithContext(ctx))
			if err != nil {
				return err
			}
			defer from.Close()
			saved, err = io.ReadAll(from)
			return err
		})
		return func(t testing.TB) {
			retry(t, "restoring", func(ctx context.Context) error {
				c, err := client(l.addresses[0])
				if err != nil {
					return err
				}
				return c.Snapshot().Restore(new(api.WriteOptions).WithContext(ctx), bytes.NewReader(saved))
			})
		}
	}
	l.leader = func(t testing.TB) int {
		for i, s := range servers {
			if s.IsLeader(t) {
				return i
			}
		}
		t.Fatal("no leader")
		return 0
	}
	return l
}

func etcdLab(t testing.TB, servers []*etcdtest.Server, config func() clientv3.Config) *lab {
	l := &lab{t: t, halfOf: 60, within: 3 * time.Second}
	for _, s := range servers {
		l.processes = append(l.processes, s.Process)
		l.addresses = append(l.addresses, s.Addr)
	}
	do := func(t testing.TB, what string, endpoints []string, ask func(context.Context, *clientv3.Client) error) {
		t.Helper()
		retry(t, what, func(ctx context.Context) error {
			c := config()
			c.Endpoints, c.Logger, c.DialTimeout = endpoints, zap.NewNop(), 3*time.Second
			client, err := clientv3.New(c)
			if err != nil {
				return err
			}
			defer client.Close()
			return ask(ctx, client)
		})
	}
	l.sources = func(t testing.TB, addresses []string) map[string]resolver.Source {
		c := etcd.New(etcd.Config{Endpoints: append([]string(nil), addresses...)})
		t.Cleanup(func() { _ = c.Close() })
		return map[string]resolver.Source{"etcd": c}
	}
	l.target = func(name string) string { return "etcd:///services/" + name }
	l.put = func(t testing.TB, without int, name, endpoint string) {
		t.Helper()
		do(t, "putting "+name, l.but(without), func(ctx context.Context, c *clientv3.Client) error {
			_, err := c.Put(ctx, "/services/"+name, endpoint)
			return err
		})
	}
	l.backup = func(t testing.TB) func(testing.TB) {
		s := servers[0]
		do(t, "writing it down", l.addresses, func(ctx context.Context, c *clientv3.Client) error {
			_, err := c.Defragment(ctx, s.Addr)
			return err
		})
		data, saved := filepath.Join(s.Dir(), "data"), filepath.Join(t.TempDir(), "saved")
		s.Stop(t)
		if err := os.CopyFS(saved, os.DirFS(data)); err != nil {
			t.Fatal(err)
		}
		s.Restart(t)
		return func(t testing.TB) {
			s.Stop(t)
			if err := os.RemoveAll(data); err != nil {
				t.Fatal(err)
			}
			if err := os.CopyFS(data, os.DirFS(saved)); err != nil {
				t.Fatal(err)
			}
			s.Restart(t)
		}
	}
	l.leader = func(t testing.TB) (leader int) {
		do(t, "who leads", l.addresses, func(ctx context.Context, c *clientv3.Client) error {
			for i, s := range servers {
				status, err := c.Status(ctx, s.Addr)
				if err != nil {
					return err
				}
				if status.Leader == status.Header.MemberId {
					leader = i
					return nil
				}
			}
			return fmt.Errorf("nobody")
		})
		return leader
	}
	return l
}

// plain is for an etcd that wants neither a login nor TLS.
func plain() clientv3.Config { return clientv3.Config{} }

// dnsLab has Consul agents that know nothing of each other as DNS servers: each is one
// process. What they say holds for a second, as the least of what a client takes.
func dnsLab(t testing.TB, n int) *lab {
	l := &lab{t: t, halfOf: 20, within: 4 * time.Second} // a TTL more
	var agents []*consultest.Server
	for range n {
		s := consultest.Start(t)
		agents = append(agents, s)
		l.processes = append(l.processes, s.Process)
		l.addresses = append(l.addresses, s.DNSAddr)
	}
	l.sources = func(t testing.TB, addresses []string) map[string]resolver.Source {
		dir := t.TempDir()
		for _, name := range []string{"resolv.conf", "hosts"} {
			if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		c := dns.New(dns.Config{ResolvConf: filepath.Join(dir, "resolv.conf"), HostsFile: filepath.Join(dir, "hosts"), Servers: addresses})
		return map[string]resolver.Source{resolver.SchemeDNS: c.Hosts()}
	}
	l.target = func(name string) string { return name + ".service.consul:80" }
	l.put = func(t testing.TB, without int, name, endpoint string) {
		t.Helper()
		host, _, err := net.SplitHostPort(endpoint)
		if err != nil {
			t.Fatal(err)
		}
		for i, agent := range agents {
			if i == without {
				continue
			}
			retry(t, "registering "+name, func(ctx context.Context) error {
				c, err := api.NewClient(&api.Config{Address: agent.HTTPAddr})
				if err != nil {
					return err
				}
				r := &api.AgentServiceRegistration{ID: name, Name: name, Address: host, Port: 80}
				return c.Agent().ServiceRegisterOpts(r, (api.ServiceRegisterOpts{}).WithContext(ctx))
			})
			retry(t, "asking for "+name, func(ctx context.Context) error {
				reply, err := mdns.ExchangeContext(ctx, new(mdns.Msg).SetQuestion(name+".service.consul.", mdns.TypeA), l.addresses[i])
				if err != nil {
					return err
				}
				for _, rr := range reply.Answer {
					if a, ok := rr.(*mdns.A); ok && a.A.String() == host {
						return nil
					}
				}
				return fmt.Errorf("%s does not know it", l.addresses[i])
			})
		}
	}
	return l
}

// tlsFrom is what a client takes from files to speak to a server of authority's.
func tlsFrom(ca, cert, key string) *tls.Config {
	pair, err := tls.LoadX509KeyPair(cert, key)
	pem, caErr := os.ReadFile(ca)
	if err != nil || caErr != nil {
		return &tls.Config{MinVersion: tls.VersionTLS12}
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, RootCAs: pool}
}
