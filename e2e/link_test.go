//go:build integration

package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/consultest"
	"github.com/ambassadord/ambassadord/internal/dockertest"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/filter/filtertest"
)

const engineSocket = "-v=/var/run/docker.sock:/var/run/docker.sock"

// contained is a daemon in a container of its own.
type contained struct {
	*daemon
	id string
}

// containerDaemon starts the daemon with docker run -d and args, options first,
// and waits until it serves. At the end of the test it is stopped as docker stop
// does and must have exited cleanly, well before the engine kills it.
func containerDaemon(t *testing.T, args ...string) *contained {
	t.Helper()
	c := runDaemon(t, append(args, "--log-format", "json")...)
	c.wait("ready", 20*time.Second, func(l line) bool { return l.str("msg") == "ready" })
	return c
}

// runDaemon is containerDaemon without waiting, and with args alone.
func runDaemon(t *testing.T, args ...string) *contained {
	t.Helper()
	id := dockertest.Run(t, args...)
	c := &contained{daemon: launch(t, exec.Command("docker", "logs", "-f", id), nil), id: id}
	t.Cleanup(c.stop)
	return c
}

// stop demands a clean exit; a second one does nothing.
func (c *contained) stop() {
	c.t.Helper()
	if !c.running() {
		return
	}
	began := time.Now()
	dockertest.Docker(c.t, "stop", c.id)
	took := time.Since(began)
	<-c.done
	code := dockertest.Docker(c.t, "inspect", "-f", "{{.State.ExitCode}}", c.id)
	if code != "0" || took > 9*time.Second {
		c.t.Errorf("docker stop took %s and left the exit code %s, want 0 within the engine's 10 s", took, code)
	}
}

// pid is the daemon's process, seen from the host.
func (c *contained) pid() int {
	c.t.Helper()
	pid, err := strconv.Atoi(dockertest.Docker(c.t, "inspect", "-f", "{{.State.Pid}}", c.id))
	if err != nil {
		c.t.Fatal(err)
	}
	return pid
}

// rules are those of IPv4 in the daemon's network namespace.
func (c *contained) rules() string {
	c.t.Helper()
	return filtertest.Save(c.t, openNamespace(c.t, fmt.Sprintf("/proc/%d/ns/net", c.pid())), netrules.IPv4)
}

// dialOnce makes one connection from a container and returns how it ended.
func dialOnce(t *testing.T, container, address string) (string, error) {
	t.Helper()
	return dockertest.Exec(t, container, "/client", "-within", "0", address)
}

// wantReset demands that a connection is made, and then reset.
func wantReset(t *testing.T, container, address string) {
	t.Helper()
	out, err := dialOnce(t, container, address)
	if err == nil || !strings.Contains(err.Error(), "connection reset by peer") {
		t.Errorf("a connection to %s answered %q, %v; want a reset", address, out, err)
	}
}

// web runs a container that serves text on its port 8000.
func web(t *testing.T, text string, options ...string) string {
	t.Helper()
	name := dockertest.Name(t)
	dockertest.Run(t, append(append([]string{"--name", name, "--expose", "8000"}, options...), dockertest.Image(t),
		"sh", "-c", "echo "+text+" >/www/index.html; exec httpd -f -p 8000 -h /www")...)
	return name
}

// wantWeb demands that a container reads text from a web server.
func wantWeb(t *testing.T, container, host, port, text string) {
	t.Helper()
	poll(t, 10*time.Second, host+":"+port+" is served", func() error {
		out, err := dockertest.Exec(t, container, "sh", "-c",
			fmt.Sprintf(`printf 'GET / HTTP/1.0\r\n\r\n' | nc -w 5 %s %s`, host, port))
		if err == nil && !strings.HasSuffix(out, "\r\n\r\n"+text+"\n") {
			err = fmt.Errorf("it answered %q, want the body %q", out, text)
		}
		return err
	})
}

// privileged is the option --privileged where the engine can grant that. One on
// a machine that lacks a capability itself cannot; there the one capability that
// counts has to do.
func privileged(t *testing.T) string {
	t.Helper()
	last, err := os.ReadFile("/proc/sys/kernel/cap_last_cap")
	if err != nil {
		t.Fatal(err)
	}
	count, err := strconv.Atoi(strings.TrimSpace(string(last)))
	if err != nil {
		t.Fatal(err)
	}
	for c := range count + 1 {
		held, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(c), 0, 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		if held == 0 {
			t.Logf("this machine lacks the capability %d, so --cap-add NET_ADMIN stands in for --privileged", c)
			return "--cap-add=NET_ADMIN"
		}
	}
	return "--privileged"
}

// The three commands of the first ambassadord, to the letter.
func TestOmnimode(t *testing.T) {
	host := dockerHost(t)
	first, second := startRedis(t, host), startRedis(t, host)
	agent := consultest.Start(t, "-client=127.0.0.1 "+host)
	consulPut(t, agent, "/v1/kv/redis/value", first.addr.String())
	consulPut(t, agent, "/v1/kv/redis/children/a", second.addr.String())
	consulPut(t, agent, "/v1/kv/redis/children/b", second.addr.String())
	_, port, err := net.SplitHostPort(agent.HTTPAddr)
	if err != nil {
		t.Fatal(err)
	}
	kv := "consul://" + net.JoinHostPort(host, port)

	backends := dockertest.Name(t)
	d := runDaemon(t, "-v", "/var/run/docker.sock:/var/run/docker.sock", "--name", backends, image(t), "--omnimode")
	dockertest.Docker(t, "run", "--rm", privileged(t), "--net", "container:"+backends, image(t), "--setup-iptables")

	site := web(t, "hello")
	options := []string{"--link", backends + ":backends", clientOption(t)}
	client := dockertest.Run(t, append(options,
		"-e", "BACKEND_6379="+first.addr.String()+","+first.addr.String(),
		"-e", "BACKEND_6380="+kv+"/redis/value",
		"-e", "BACKEND_6381="+kv+"/redis/children",
		"-e", "BACKEND_80=docker://"+site+":8000",
		dockertest.Image(t))...)
	setAndGet(t, client, "backends", "6379", first.addr.Port())
	setAndGet(t, client, "backends", "6380", first.addr.Port())
	setAndGet(t, client, "backends", "6381", second.addr.Port())
	wantWeb(t, client, "backends", "80", "hello")

	// A container that declares nothing, or another port, is refused.
	stranger := dockertest.Name(t)
	dockertest.Run(t, append(options, "--name", stranger, dockertest.Image(t))...)
	wantReset(t, stranger, "backends:6379")
	wantReset(t, client, "backends:6382")
	poll(t, 10*time.Second, "docker logs name the refused clients", func() error {
		log, err := exec.Command("docker", "logs", backends).CombinedOutput()
		if err != nil {
			return err
		}
		for l := range strings.Lines(string(log)) {
			if strings.Contains(l, "client="+stranger+" ") && strings.Contains(l, "port=6379 ") && strings.Contains(l, "reason=no_binding") {
				return nil
			}
		}
		return fmt.Errorf("no line of %s, port 6379 and reason=no_binding in\n%s", stranger, log)
	})
	d.stop()
}

// One container with NET_ADMIN sets its rules itself, on any network.
func TestLinkNetworks(t *testing.T) {
	server := startRedis(t, dockerHost(t))
	network := dockertest.Network(t)
	name := dockertest.Name(t)
	for _, test := range []struct {
		name           string
		daemon, client []string
	}{
		{"user network", []string{"--network", network, "--network-alias", "backends"}, []string{"--network", network}},
		{"default bridge", []string{"--name", name}, []string{"--link", name + ":backends"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := containerDaemon(t, append(test.daemon, "--cap-add", "NET_ADMIN", engineSocket, image(t), "--omnimode")...)
			if rules := d.rules(); !strings.Contains(rules, "AMBASSADORD") {
				t.Fatalf("nat table of the daemon's namespace, want a chain of ours:\n%s", rules)
			}
			client := dockertest.Name(t)
			id := dockertest.Run(t, append(test.client, "--name", client, "-e", "BACKEND_6379="+server.addr.String(),
				clientOption(t), dockertest.Image(t))...)
			setAndGet(t, id, "backends", "6379", server.addr.Port())
			l := d.connection(client, 6379, nil)
			if l.str("endpoint") != server.addr.String() || l.str("id") != id[:12] || l.num("bytes_up") == 0 || l.num("bytes_down") == 0 {
				t.Errorf("log line %v; want the endpoint %s, the ID %s and bytes both ways", l, server.addr, id[:12])
			}
			wantReset(t, id, "backends:6380")
			if l := d.connection(client, 6380, nil); l.str("reason") != "no_binding" || l.str("hint") == "" {
				t.Errorf("log line %v; want the reason no_binding and a hint", l)
			}
			// A container in the daemon's namespace sees that nothing of ours is left in it.
			beside := &contained{daemon: d.daemon, id: dockertest.Run(t, "--network", "container:"+d.id, dockertest.Image(t))}
			d.stop()
			if rules := beside.rules(); strings.Contains(rules, "AMBASSADORD") {
				t.Errorf("nat table after docker stop, want no chain of ours:\n%s", rules)
			}
		})
	}
}

// An address changes hands while the daemon hears nothing of it, because the
// engine's events do not arrive: its new owner must never get to the target of
// the old one.
func TestLinkAddressReused(t *testing.T) {
	network := dockertest.Network(t, "--subnet", "203.0.113.0/28")
	engine := startEngineProxy(t)
	d := containerDaemon(t, "--network", network, "--network-alias", "backends", "--cap-add", "NET_ADMIN",
		"-v="+engine.dir+":/engine", "-e", "DOCKER_HOST=unix:///engine/docker.sock", image(t), "--omnimode")
	c := &churn{t: t}
	c.listen(dockerHost(t), 2)
	run := func(token string, b *backend) (id string, ask func() (string, error)) {
		c.expect(token, b)
		id = dockertest.Run(t, "--network", network, "--ip", "203.0.113.10", "-e", "BACKEND_7000="+b.target(),
			clientOption(t), dockertest.Image(t))
		return id, func() (string, error) {
			return dockertest.Exec(t, id, "/client", "-token", token, "-want", b.name, "-within", "0", "backends:7000")
		}
	}
	old, ask := run("old", c.backends[0])
	if out, err := ask(); err != nil {
		t.Fatalf("the first owner of the address: %q, %v", out, err)
	}

	engine.deaf.Store(true)
	dockertest.Docker(t, "rm", "-f", old)
	_, ask = run("new", c.backends[1])
	out, err := ask()
	if err == nil || !strings.Contains(err.Error(), "connection reset by peer") {
		t.Errorf("the new owner of the address: %q, %v; want a reset", out, err)
	}
	l := d.connection("203.0.113.10", 7000, nil)
	if l.str("reason") != "unknown_client" || l.str("hint") == "" {
		t.Errorf("log line %v; want the reason unknown_client and a hint", l)
	}

	engine.deaf.Store(false)
	engine.hangUp()
	poll(t, 15*time.Second, "the new owner gets to its own target", func() error {
		_, err := ask()
		return err
	})
	c.checkForeign()
}

// engineProxy is the engine behind a socket of our own, dir/docker.sock, which
// passes on events only while it is not deaf, and nothing while it is mute.
type engineProxy struct {
	dir         string
	deaf, mute  atomic.Bool
	inspections atomic.Int64 // of containers

	mu      sync.Mutex
	streams []context.CancelFunc
}

func startEngineProxy(t *testing.T) *engineProxy {
	t.Helper()
	e := &engineProxy{dir: t.TempDir()}
	listener, err := net.Listen("unix", filepath.Join(e.dir, "docker.sock"))
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", "/var/run/docker.sock")
	}}
	proxy := &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: "http", Host: "engine"}) },
		Transport:     transport,
		FlushInterval: -1,
		// A stream that hangUp ends is no news.
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
		ModifyResponse: func(r *http.Response) error {
			if strings.HasSuffix(r.Request.URL.Path, "/events") {
				r.Body = &stream{ReadCloser: r.Body, deaf: &e.deaf}
			}
			return nil
		},
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if e.mute.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		if strings.Contains(r.URL.Path, "/containers/") && strings.HasSuffix(r.URL.Path, "/json") && !strings.HasSuffix(r.URL.Path, "/containers/json") {
			e.inspections.Add(1)
		}
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		if strings.HasSuffix(r.URL.Path, "/events") {
			e.mu.Lock()
			e.streams = append(e.streams, cancel)
			e.mu.Unlock()
		}
		proxy.ServeHTTP(w, r.WithContext(ctx))
	})}
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(listener) }()
	t.Cleanup(func() {
		server.Close()
		<-served
		transport.CloseIdleConnections()
	})
	return e
}

// hangUp ends the streams of events, so that the daemon asks for everything anew.
func (e *engineProxy) hangUp() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, cancel := range e.streams {
		cancel()
	}
	e.streams = nil
}

// stream is a body whose bytes are lost while deaf is set.
type stream struct {
	io.ReadCloser
	deaf *atomic.Bool
}

func (s *stream) Read(p []byte) (int, error) {
	for {
		n, err := s.ReadCloser.Read(p)
		if err != nil || !s.deaf.Load() {
			return n, err
		}
	}
}

// The other command lines of the first ambassadord, in its image.
func TestImageCommandLines(t *testing.T) {
	server := startRedis(t, dockerHost(t))
	client := dockertest.Run(t, dockertest.Image(t))

	t.Run("TARGET", func(t *testing.T) {
		d := containerDaemon(t, image(t), server.addr.String())
		setAndGet(t, client, d.address(), fmt.Sprint(server.addr.Port()), server.addr.Port())
	})
	t.Run("PORT", func(t *testing.T) {
		d := containerDaemon(t, "-e", "PORT=6379", image(t), server.addr.String())
		setAndGet(t, client, d.address(), "6379", server.addr.Port())
	})
	t.Run("links by variables", func(t *testing.T) {
		if !setsLinkVariables(t) {
			t.Skip("this engine sets none")
		}
		site := web(t, "linked")
		d := containerDaemon(t, "--link", site+":site", image(t), "--links")
		wantWeb(t, client, d.address(), "8000", "linked")
	})
	t.Run("links of the default bridge by the engine", func(t *testing.T) {
		site, bare := web(t, "asked"), dockertest.Name(t)
		dockertest.Run(t, "--name", bare, dockertest.Image(t))
		d := containerDaemon(t, "--link", site+":site", "--link", bare+":bare", engineSocket, image(t), "--links")
		wantWeb(t, client, d.address(), "8000", "asked")
		d.wait("the link without a port", time.Second, func(l line) bool {
			return l.str("link") == "bare" && strings.Contains(l.str("error"), bare+" declares no TCP port") && strings.Contains(l.str("hint"), "=bare:")
		})
	})
	t.Run("links that cannot be known", func(t *testing.T) {
		network := dockertest.Network(t) // where no engine sets variables
		site := web(t, "unknown", "--network", network)
		bare := dockertest.Name(t)
		dockertest.Run(t, "--name", bare, "--network", network, dockertest.Image(t))
		for what, c := range map[string]struct {
			args []string
			want []string
		}{
			"no socket": {[]string{"--link", site + ":site"}, []string{"no socket at", "mount the engine's socket"}},
			"no port":   {[]string{"--link", bare + ":bare", engineSocket}, []string{"bare: container " + bare + " declares no TCP port", "ambassadord run 6379=bare:6379"}},
			"no link":   {[]string{engineSocket}, []string{"has no links", "docker run --link"}},
		} {
			began := time.Now()
			args := slices.Concat([]string{"run", "--rm", "--network", network}, c.args, []string{image(t), "--links"})
			out, err := exec.Command("docker", args...).CombinedOutput()
			if err == nil || time.Since(began) > 8*time.Second {
				t.Errorf("%s: %v after %s; want a failure at once", what, err, time.Since(began))
			}
			for _, want := range c.want {
				if !strings.Contains(string(out), want) {
					t.Errorf("%s: it says %s; want %q", what, out, want)
				}
			}
		}
	})
	t.Run("links by the engine", func(t *testing.T) {
		// On user networks the engine sets no variables.
		network := dockertest.Network(t)
		site := web(t, "asked", "--network", network)
		d := containerDaemon(t, "--network", network, "--network-alias", "proxy", "--link", site+":site", engineSocket, image(t), "--links")
		neighbour := dockertest.Run(t, "--network", network, dockertest.Image(t))
		wantWeb(t, neighbour, "proxy", "8000", "asked")
		d.stop()
	})
}

// setsLinkVariables reports whether the engine does so for links of its default bridge, which
// engine 29 has ended.
func setsLinkVariables(t *testing.T) bool {
	t.Helper()
	site := web(t, "probe")
	out := dockertest.Docker(t, "run", "--rm", "--link", site+":site", dockertest.Image(t), "env")
	return strings.Contains(out, "SITE_PORT_8000_TCP=")
}

// address is the daemon's on its one network.
func (c *contained) address() string {
	c.t.Helper()
	return dockertest.Docker(c.t, "inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", c.id)
}

// Mode link takes every port of its namespace, so on a host it must not start.
func TestLinkRefusesHost(t *testing.T) {
	for _, args := range [][]string{{"run", "--mode", "link"}, {"--omnimode"}, {"--setup-iptables"}} {
		out, err := exec.Command(binary, args...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "this one is a host's") || !strings.Contains(string(out), "hint: run it in a container") {
			t.Errorf("%s on the host: %v: %s; want a refusal with a hint", args, err, out)
		}
	}
	out, err := exec.Command("iptables-save", "-t", "nat").CombinedOutput()
	if err != nil || strings.Contains(string(out), "AMBASSADORD") {
		t.Errorf("the host's nat table: %v, want no chain of ours:\n%s", err, out)
	}
}
