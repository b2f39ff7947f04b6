//go:build integration

package registries

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"

	"github.com/ambassadord/ambassadord/internal/consultest"
	"github.com/ambassadord/ambassadord/internal/etcdtest"
	"github.com/ambassadord/ambassadord/internal/servertest"
	"github.com/ambassadord/ambassadord/resolver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fault makes something happen to a registry; undo ends it, and returns once the registry
// can be asked again. without is the server that cannot be written to meanwhile, -1 for none.
type fault func(t testing.TB, l *lab) (without int, undo func(testing.TB))

// relayed are the faults that a relay makes.
func relayed(name string) bool { return name == "slow" || name == "half" }

var faults = map[string]fault{
	"stopped": func(t testing.TB, l *lab) (int, func(testing.TB)) {
		l.processes[0].Stop(t)
		return 0, l.processes[0].Restart
	},
	"frozen": func(t testing.TB, l *lab) (int, func(testing.TB)) {
		thaw := l.processes[0].Freeze(t)
		return 0, func(testing.TB) { thaw() }
	},
	"restarted": func(t testing.TB, l *lab) (int, func(testing.TB)) {
		if len(l.processes) > 1 { // the others go on meanwhile
			l.processes[0].Restart(t)
			return -1, func(testing.TB) {}
		}
		l.processes[0].Stop(t)
		return 0, l.processes[0].Restart
	},
	"leaderless": func(t testing.TB, l *lab) (int, func(testing.TB)) {
		leader := l.leader(t)
		l.processes[leader].Stop(t)
		return leader, l.processes[leader].Restart
	},
	"slow": func(_ testing.TB, l *lab) (int, func(testing.TB)) {
		l.relays[0].slow.Store(true)
		return -1, func(testing.TB) { l.relays[0].slow.Store(false) }
	},
	"half": func(_ testing.TB, l *lab) (int, func(testing.TB)) {
		l.relays[0].half.Store(l.halfOf)
		return -1, func(testing.TB) { l.relays[0].half.Store(0) }
	},
}

// patience is the resolver's, and the bound on a new target.
const patience = 5 * time.Second

// client is a resolver that asks a lab's servers, as the daemon's does.
type client struct {
	*resolver.Resolver
	lab *lab
}

func newClient(t testing.TB, l *lab, addresses []string) *client {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c := &client{resolver.New(l.sources(t, addresses), resolver.Options{Timeout: patience}), l}
	done := make(chan struct{})
	go func() { defer close(done); _ = c.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return c
}

func (c *client) parse(t testing.TB, name string) resolver.Target {
	t.Helper()
	target, err := c.Parse(c.lab.target(name))
	if err != nil {
		t.Fatal(err)
	}
	return target
}

// hears waits until name is at endpoint and reports how long that took.
func (c *client) hears(t testing.TB, name, endpoint string, within time.Duration) {
	t.Helper()
	target, began := c.parse(t, name), time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), 4*within)
	defer cancel()
	for {
		got, err := c.Resolve(ctx, target, nil)
		if err == nil && len(got.Endpoints) == 1 && got.Endpoints[0].String() == endpoint {
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("%s is not at %s after %v: %v, %v", name, endpoint, time.Since(began), got, err)
		}
		if got != nil {
			changed, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
			got.Changed(changed)
			cancel()
		}
	}
	if took := time.Since(began); took > within {
		t.Errorf("%s was heard to be at %s after %v, want %v", name, endpoint, took, within)
	} else {
		t.Logf("%s at %s: %v", name, endpoint, took)
	}
}

// keeps checks that name is still at endpoint.
func (c *client) keeps(t testing.TB, name, endpoint string) {
	t.Helper()
	got, err := c.Resolve(context.Background(), c.parse(t, name), nil)
	if err != nil || len(got.Endpoints) != 1 || got.Endpoints[0].String() != endpoint {
		t.Fatalf("the last answer is lost: %v, %v", got, err)
	}
}

// fails waits until it is told that name cannot be asked for, and that the last answer stays.
func (c *client) fails(t testing.TB, name, endpoint string) {
	t.Helper()
	target := c.parse(t, name)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c.keeps(t, name, endpoint)
		s, err := c.Status(context.Background(), target)
		if err != nil {
			t.Fatal(err)
		}
		if s.Queries[0].Err != nil {
			t.Logf("it says: %v", s.Queries[0].Err)
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing is said of the failure")
		}
	}
}

// try runs a cell.
func try(t *testing.T, l *lab, name string, cell Cell, happens fault) {
	addresses := l.addresses
	if relayed(name) {
		addresses = l.relayed()
	}
	within := l.within
	if name == "slow" && l.leader == nil && len(l.addresses) == 1 { // DNS: a TTL, and two answers
		within += late
	}
	l.put(t, -1, name, "10.0.0.9:80")
	c := newClient(t, l, addresses)
	c.hears(t, name, "10.0.0.9:80", 4*patience)
	l.put(t, -1, name, "10.0.0.1:80")
	c.hears(t, name, "10.0.0.1:80", l.within) // so it follows by now
	without, undo := happens(t, l)
	if cell.Promise != Hears {
		if name == "half" { // or nothing is said at all
			l.put(t, -1, name, "10.0.0.2:80")
		}
		c.fails(t, name, "10.0.0.1:80")
		if cell.Promise == Keeps {
			undo(t) // for the next cell
			return
		}
		undo(t)
		without = -1
	} else {
		c.keeps(t, name, "10.0.0.1:80")
		defer undo(t)
	}
	if name != "half" || cell.Promise == Hears {
		l.put(t, without, name, "10.0.0.2:80")
	}
	c.hears(t, name, "10.0.0.2:80", within)
	l.put(t, without, name+"-new", "10.0.0.3:80")
	c.hears(t, name+"-new", "10.0.0.3:80", patience)
	newClient(t, l, addresses).hears(t, name+"-new", "10.0.0.3:80", patience) // who knows nothing of the servers yet
}

// restored is the cell of a backup.
func restored(t *testing.T, l *lab) {
	const name = "restored"
	l.put(t, -1, name, "10.0.0.1:80")
	restore := l.backup(t)
	c := newClient(t, l, l.addresses)
	for range 20 {
		l.put(t, -1, "other", "10.0.0.9:80") // and so it is far behind
	}
	l.put(t, -1, name, "10.0.0.2:80")
	c.hears(t, name, "10.0.0.2:80", 4*patience)
	restore(t)
	c.hears(t, name, "10.0.0.1:80", l.within)
	l.put(t, -1, name, "10.0.0.3:80")
	c.hears(t, name, "10.0.0.3:80", l.within)
}

// TestRegistries is the table but for the cells that TestSecrets has.
func TestRegistries(t *testing.T) {
	tests := map[string]func(t *testing.T) *lab{
		"Consul/one":     func(t *testing.T) *lab { return consulLab(t, consultest.StartCluster(t, 1), api.Config{}) },
		"Consul/several": func(t *testing.T) *lab { return consulLab(t, consultest.StartCluster(t, 3), api.Config{}) },
		"etcd/one":       func(t *testing.T) *lab { return etcdLab(t, []*etcdtest.Server{etcdtest.Start(t)}, plain) },
		"etcd/several":   func(t *testing.T) *lab { return etcdLab(t, etcdtest.StartCluster(t, 3), plain) },
		"DNS/one":        func(t *testing.T) *lab { return dnsLab(t, 1) },
		"DNS/several":    func(t *testing.T) *lab { return dnsLab(t, 2) },
	}
	for _, r := range Registries {
		for servers, column := range map[string]string{"one": one, "several": several} {
			start := tests[r.Name+"/"+servers]
			if start == nil {
				continue // TestEngines has it
			}
			t.Run(r.Name+" "+servers, func(t *testing.T) {
				t.Parallel()
				l := start(t)
				for _, f := range r.Faults { // one after the other: it is the same registry
					cell := r.cell(column, f.Name)
					if cell.Promise == Nothing || secret(f.Name) {
						continue
					}
					t.Run(f.Name, func(t *testing.T) {
						if f.Name == "restored" {
							restored(t, l)
						} else {
							try(t, l, f.Name, cell, faults[f.Name])
						}
					})
				}
			})
		}
	}
}

func secret(fault string) bool { return fault == "authenticated" || fault == "certified" }

// TestSecrets is the cells whose secrets come from the environment, which tests share.
func TestSecrets(t *testing.T) {
	t.Run("Docker certified", engineCertified)
	restart := func(t testing.TB, l *lab) (int, func(testing.TB)) {
		l.processes[0].Stop(t)
		return 0, l.processes[0].Restart
	}
	cellOf := func(registry, fault string) Cell {
		for _, r := range Registries {
			if r.Name == registry {
				return r.cell(one, fault)
			}
		}
		return Cell{}
	}
	t.Run("Consul authenticated", func(t *testing.T) {
		const token = "5f0bd4a8-9f3c-4d7e-8a51-7f2f6a1d9c11"
		servers := consultest.StartCluster(t, 1, `-hcl=acl {
			enabled = true
			default_policy = "deny"
			tokens { initial_management = "`+token+`" agent = "`+token+`" }
		}`)
		t.Setenv("CONSUL_HTTP_TOKEN", token)
		try(t, consulLab(t, servers, api.Config{Token: token}), "authenticated", cellOf("Consul", "authenticated"), restart)
	})
	t.Run("etcd authenticated", func(t *testing.T) {
		server := etcdtest.Start(t)
		l := etcdLab(t, []*etcdtest.Server{server}, func() clientv3.Config { return clientv3.Config{Username: "root", Password: "root"} })
		authenticate(t, server.Addr)
		t.Setenv("ETCDCTL_USER", "root:root")
		try(t, l, "authenticated", cellOf("etcd", "authenticated"), func(t testing.TB, l *lab) (int, func(testing.TB)) {
			l.backup(t) // which restarts it, with its tokens forgotten
			return restart(t, l)
		})
	})
	t.Run("Consul certified", func(t *testing.T) {
		files := newSecrets(t)
		server := consultest.StartTLS(t, files.authority, "localhost")
		t.Setenv("CONSUL_CACERT", files.ca)
		t.Setenv("CONSUL_CLIENT_CERT", files.cert)
		t.Setenv("CONSUL_CLIENT_KEY", files.key)
		t.Setenv("CONSUL_TLS_SERVER_NAME", "localhost")
		config := api.Config{Scheme: "https", TLSConfig: api.TLSConfig{CAFile: files.ca, CertFile: files.cert, KeyFile: files.key, Address: "localhost"}}
		try(t, consulLab(t, []*consultest.Server{server}, config), "certified", cellOf("Consul", "certified"), files.replace("localhost", "localhost"))
	})
	t.Run("etcd certified", func(t *testing.T) {
		files := newSecrets(t)
		server := etcdtest.StartTLS(t, files.authority)
		t.Setenv("ETCDCTL_CACERT", files.ca)
		t.Setenv("ETCDCTL_CERT", files.cert)
		t.Setenv("ETCDCTL_KEY", files.key)
		l := etcdLab(t, []*etcdtest.Server{server}, func() clientv3.Config {
			return clientv3.Config{TLS: tlsFrom(files.ca, files.cert, files.key)}
		})
		try(t, l, "certified", cellOf("etcd", "certified"), files.replace("etcd"))
	})
}

// authenticate makes a root with the password root and turns authentication on.
func authenticate(t testing.TB, address string) {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{address}, DialTimeout: 3 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, step := range []func() error{
		func() error { _, err := client.UserAdd(ctx, "root", "root"); return err },
		func() error { _, err := client.UserGrantRole(ctx, "root", "root"); return err },
		func() error { _, err := client.AuthEnable(ctx); return err },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
}

// secrets are a client's files, and the authority of a server's.
type secrets struct {
	authority     *servertest.Authority
	ca, cert, key string
}

func newSecrets(t testing.TB) *secrets {
	s := &secrets{authority: servertest.NewAuthority(t)}
	s.ca = s.authority.CAFile
	s.cert, s.key = s.authority.Issue(t, "client")
	return s
}

// replace has another authority sign for the server, which is called name, and its clients.
func (s *secrets) replace(name string, dnsNames ...string) fault {
	return func(t testing.TB, l *lab) (int, func(testing.TB)) {
		l.processes[0].Stop(t)
		next := servertest.NewAuthority(t)
		clientCert, clientKey := next.Issue(t, "client")
		serverCert, serverKey := next.Issue(t, name, dnsNames...)
		oldCert, oldKey := s.authority.Issue(t, name, dnsNames...) // where the server's are
		return 0, func(t testing.TB) {
			for from, to := range map[string]string{next.CAFile: s.ca, clientCert: s.cert, clientKey: s.key, serverCert: oldCert, serverKey: oldKey} {
				text, err := os.ReadFile(from)
				if err == nil {
					err = os.WriteFile(to, text, 0o600)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			l.processes[0].Restart(t)
		}
	}
}
