//go:build integration

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/consultest"
	"github.com/ambassadord/ambassadord/internal/dockertest"
	"github.com/ambassadord/ambassadord/internal/netlab"
)

// echoPort is what the backends of these tests listen on.
const echoPort = 7000

// echoServer is a container with an echo server, the program of e2e/internal/load.
type echoServer struct {
	t        *testing.T
	name, ip string
}

func (s *echoServer) address() string { return fmt.Sprintf("%s:%d", s.ip, echoPort) }

func startEchoServer(t *testing.T, options ...string) *echoServer {
	t.Helper()
	path, err := buildLoad()
	if err != nil {
		t.Fatal(err)
	}
	s := &echoServer{t: t, name: dockertest.Name(t)}
	args := append([]string{"--name", s.name, "-v=" + path + ":/load:ro"}, options...)
	dockertest.Run(t, append(args, dockertest.Image(t), "/load", "-serve", fmt.Sprintf(":%d", echoPort))...)
	s.ip = dockertest.Docker(t, "inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", s.name)
	return s
}

// failing is one backend of three that fails under load.
type failing struct {
	// options are labels of the client, beside the target.
	options []string
	fail    func(*echoServer)
	// mend, if set, undoes it once the backend is ejected.
	mend func(*echoServer)
	// said is the log line that says that it is out.
	said string
}

func signal(name string) func(*echoServer) {
	return func(s *echoServer) { dockertest.Docker(s.t, "kill", "-s", name, s.name) }
}

// TestBackendFails: whichever way one of three backends fails under a load of 200
// connections a second, no client sees it.
func TestBackendFails(t *testing.T) {
	for name, c := range map[string]failing{
		"killed": {
			// The one whose request it has just read is sent to another.
			options: []string{"-l", "connect.6379.retry=first-byte"},
			fail:    signal("KILL"), said: "endpoint ejected",
		},
		"frozen": {
			// Its kernel answers for it, so that only a question that it has to answer
			// itself finds out.
			options: []string{
				"-l", "connect.6379.check=tcp", "-l", "connect.6379.check-send=ping", "-l", "connect.6379.check-expect=ping",
				"-l", "connect.6379.check-interval=200ms", "-l", "connect.6379.check-timeout=200ms",
				"-l", "connect.6379.on-unhealthy=keep", // what it has had before it was found out it answers in the end
			},
			fail: signal("STOP"), mend: signal("CONT"), said: "check fails; the endpoint is out",
		},
		"dropping SYNs": {
			fail: func(s *echoServer) {
				netlab.RunIn(s.t, containerNamespace(s.t, s.name), "iptables", "-I", "INPUT", "-p", "tcp", "--syn", "--dport", fmt.Sprint(echoPort), "-j", "DROP")
			},
			said: "endpoint ejected",
		},
	} {
		t.Run(name, func(t *testing.T) {
			servers := []*echoServer{startEchoServer(t), startEchoServer(t), startEchoServer(t)}
			var all []string
			for _, s := range servers {
				all = append(all, s.address())
			}
			d := startPlain(t, "run", "--limit", "check*=allow")
			l := startLoad(t, strings.Join(all, ","), "127.0.0.1:6379", 200, 0, c.options...)
			served := func() int { return d.logged(l.name, 6379) }
			poll(t, 20*time.Second, "all three are used", func() error {
				if n := served(); n < 100 {
					return fmt.Errorf("%d connections", n)
				}
				return nil
			})
			victim := servers[1]
			began := time.Now()
			c.fail(victim)
			d.wait("that "+victim.address()+" is out", 20*time.Second, func(l line) bool {
				return l.str("msg") == c.said && l.str("endpoint") == victim.address()
			})
			ejected := time.Since(began)
			if c.mend != nil {
				c.mend(victim)
			}
			more := served() + 400
			poll(t, 20*time.Second, "others serve", func() error {
				if n := served(); n < more {
					return fmt.Errorf("%d connections", n)
				}
				return nil
			})
			done := l.finish()
			t.Logf("out after %s: %+v", ejected.Round(time.Millisecond), done)
		})
	}
}

// TestBackendIsRescheduled: the only backend goes, and comes back at another port a
// second later, as Consul says. Clients wait for it and see nothing else.
func TestBackendIsRescheduled(t *testing.T) {
	consul := consultest.Start(t)
	register := func(s *echoServer) {
		consulPut(t, consul, "/v1/agent/service/register", fmt.Sprintf(`{"Name":"echo","Address":%q,"Port":%d}`, s.ip, echoPort))
	}
	before := startEchoServer(t)
	register(before)
	d := startPlain(t, "run", "--consul-addr", consul.HTTPAddr)
	l := startLoad(t, "consul-service://echo", "127.0.0.1:6379", 200, 0, "-l", "connect.6379.retry=first-byte", "-l", "connect.6379.wait=10s")
	dockertest.Docker(t, "kill", before.name)
	gone := time.Now()
	after := startEchoServer(t)
	poll(t, 10*time.Second, "connections are held", func() error {
		if time.Since(gone) < time.Second {
			return fmt.Errorf("it is gone for %s", time.Since(gone))
		}
		return nil
	})
	register(after)
	d.connection(l.name, 6379, func(l line) bool { return l.str("endpoint") == after.address() && l.str("held") != "" })
	more := d.logged(l.name, 6379) + 200
	poll(t, 20*time.Second, "it serves", func() error {
		if n := d.logged(l.name, 6379); n < more {
			return fmt.Errorf("%d connections", n)
		}
		return nil
	})
	t.Logf("away for %s: %+v", time.Since(gone).Round(time.Millisecond), l.finish())
}

// TestStartedInTheWrongOrder: clients dial once and do not try again, and what they
// need is started two seconds after them.
func TestStartedInTheWrongOrder(t *testing.T) {
	path, err := buildLoad()
	if err != nil {
		t.Fatal(err)
	}
	server := dockertest.Name(t)
	dockertest.Create(t, "--name", server, "-v="+path+":/load:ro", dockertest.Image(t), "/load", "-serve", fmt.Sprintf(":%d", echoPort))
	var names []string
	for range 5 {
		name := dockertest.Name(t)
		names = append(names, name)
		dockertest.Create(t, "--name", name, clientOption(t), "-l", fmt.Sprintf("connect.6379=docker://%s:%d", server, echoPort),
			// On a busy machine it takes an engine more than a second to start a container.
			"-l", "connect.6379.wait=20s", "-l", "connect.6379.timeout=30s", dockertest.Image(t), "/client", "-within", "0", "-patience", "30s", "-token", "x", "localhost:6379")
	}
	d := start(t, "run")
	dockertest.Docker(t, append([]string{"start"}, names...)...)
	began := time.Now()
	poll(t, 10*time.Second, "two seconds later", func() error {
		if since := time.Since(began); since < 2*time.Second {
			return fmt.Errorf("%s", since)
		}
		return nil
	})
	dockertest.Docker(t, "start", server)
	for _, name := range names {
		if code := dockertest.Docker(t, "wait", name); code != "0" {
			t.Errorf("a client ended with %s: %s", code, dockertest.Docker(t, "logs", name))
		}
		held, err := time.ParseDuration(d.connection(name, 6379, nil).str("held"))
		if err != nil || held < time.Second {
			t.Errorf("%s was held for %s, %v; want it to have waited", name, held, err)
		}
	}
}
