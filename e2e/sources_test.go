//go:build integration

package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/ambassadord/ambassadord/internal/consultest"
	"github.com/ambassadord/ambassadord/internal/etcdtest"
)

// TestSources moves a backend in each registry: a connection opened a second later
// reaches the new place, though the old one still runs.
func TestSources(t *testing.T) {
	consul, etcd := consultest.Start(t), etcdtest.Start(t)
	list := filepath.Join(t.TempDir(), "redis.list")
	put := func(key string) func(address string) {
		return func(address string) { putEtcd(t, etcd, key, address) }
	}
	sources := []struct {
		name, target string
		set          func(address string)
	}{
		{"etcd", "etcd://" + etcd.Addr + "/services/redis", put("/services/redis/1")},
		{"the configured etcd", "etcd:///services/web", put("services/web")},
		{"file", "file://" + list, func(address string) {
			next := list + ".next"
			if err := os.WriteFile(next, []byte("# by hand\n"+address+" 10\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(next, list); err != nil {
				t.Fatal(err)
			}
		}},
		{"a name of Consul's", "redis.service.consul", func(address string) {
			host, port, err := net.SplitHostPort(address)
			if err != nil {
				t.Fatal(err)
			}
			consulPut(t, consul, "/v1/agent/service/register", fmt.Sprintf(`{"Name":"redis","Address":%q,"Port":%s}`, host, port))
		}},
		{"a fallback", "consul-service://nobody | etcd://" + etcd.Addr + "/fallback", put("fallback")},
	}
	const firstPort = 6379
	targets := map[int]string{}
	var before, after []string
	for i, s := range sources {
		targets[firstPort+i] = s.target
		before = append(before, serveIn(t, hostNamespace(t), "127.0.0.1:0", echo))
		after = append(after, serveIn(t, hostNamespace(t), "127.0.0.1:0", echo))
		s.set(before[i])
	}
	c := declaring(t, targets)
	d := start(t, "run", "--consul-addr", consul.HTTPAddr, "--etcd-endpoints", etcd.Addr)
	d.attached(c.name)
	for i, s := range sources {
		t.Run(s.name, func(t *testing.T) {
			reaches := func(address string) error {
				n := d.logged(c.name, firstPort+i)
				if _, err := echoed(c.ns, loopback(firstPort+i)); err != nil {
					return err
				}
				if got := d.endpoint(c.name, firstPort+i, n); got != address {
					return fmt.Errorf("it reached %s, not %s", got, address)
				}
				return nil
			}
			if err := reaches(before[i]); err != nil {
				t.Fatal(err)
			}
			s.set(after[i])
			moved := time.Now()
			poll(t, 10*time.Second, "a connection reaches the new place", func() error {
				opened := time.Now()
				err := reaches(after[i])
				if err != nil && opened.Sub(moved) > time.Second {
					t.Errorf("opened %s after the move: %v", opened.Sub(moved), err)
				}
				return err
			})
		})
	}
}

// endpoint waits until more than n connections of client to port have ended, and
// returns where the last one went.
func (d *daemon) endpoint(client string, port, n int) (endpoint string) {
	d.t.Helper()
	poll(d.t, connPatience, "the connection's log line", func() error {
		if d.logged(client, port) <= n {
			return fmt.Errorf("%d of them", n)
		}
		return nil
	})
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range d.lines {
		if l.str("msg") == "connection" && l.str("client") == client && l.num("port") == int64(port) {
			endpoint = l.str("endpoint")
		}
	}
	return endpoint
}

func putEtcd(t *testing.T, server *etcdtest.Server, key, value string) {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{server.Addr}, DialTimeout: connPatience})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Put(t.Context(), key, value); err != nil {
		t.Fatal(err)
	}
}
