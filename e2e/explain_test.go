//go:build integration

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/consultest"
	"github.com/ambassadord/ambassadord/internal/dockertest"
	"github.com/ambassadord/ambassadord/internal/explain"
	"github.com/ambassadord/ambassadord/internal/servertest"
)

// explainer asks a daemon by the command explain.
type explainer struct {
	t     *testing.T
	admin string
	flags []string
}

// ask is what the command says, and the code it ends with.
func (x *explainer) ask(container string, port int, more ...string) (*explain.Explanation, string, int) {
	x.t.Helper()
	args := slices.Concat([]string{"explain", container, fmt.Sprint(port), "--admin", x.admin, "-o", "json"}, x.flags, more)
	var stderr strings.Builder
	cmd := exec.CommandContext(x.t.Context(), binary, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		x.t.Fatal(err)
	}
	e := new(explain.Explanation)
	if len(out) > 0 {
		if err := json.Unmarshal(out, e); err != nil {
			x.t.Fatalf("%v: %s", err, out)
		}
	}
	return e, stderr.String(), cmd.ProcessState.ExitCode()
}

// wants asks until the verdict has that cause, and demands that it names what says has, of which what
// begins with "do: " has to be what to do.
func (x *explainer) wants(state explain.State, cause, container string, port int, says ...string) *explain.Explanation {
	x.t.Helper()
	var e *explain.Explanation
	poll(x.t, 20*time.Second, fmt.Sprintf("explain %s %d says %s (%s)", container, port, state, cause), func() error {
		var said string
		var code int
		e, said, code = x.ask(container, port)
		text, _ := json.MarshalIndent(e, "", "  ")
		f := e.Verdict
		if f.State != state || f.Cause != cause {
			return fmt.Errorf("it says %s%s", text, said)
		}
		if want := map[explain.State]int{explain.OK: 0, explain.Broken: 1, explain.Doubtful: 3}[state]; code != want {
			return fmt.Errorf("it ends with %d, want %d", code, want)
		}
		for _, want := range says {
			in, what := f.Text, want
			if fix, ok := strings.CutPrefix(want, "do: "); ok {
				in, what = f.Fix, fix
			}
			if !strings.Contains(in, what) {
				return fmt.Errorf("%q is not in it: %+v", what, f)
			}
		}
		return nil
	})
	return e
}

// run is a container with these arguments of docker run, and its name.
func (x *explainer) run(args ...string) string {
	x.t.Helper()
	name := dockertest.Name(x.t)
	dockertest.Run(x.t, append([]string{"--name", name}, args...)...)
	return name
}

// TestExplain sets broken situations up for real, and has the command name the cause of each and what
// to do.
func TestExplain(t *testing.T) {
	folder, err := os.MkdirTemp("/tmp", "explain-") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	image, gateway := dockertest.Image(t), dockerHost(t)
	backend := serveIn(t, hostNamespace(t), gateway+":0", echo)
	rude := serveIn(t, hostNamespace(t), gateway+":0", func(conn *net.TCPConn) { _ = conn.Close() })
	forbidden := serveIn(t, hostNamespace(t), gateway+":0", echo)
	nobody := net.JoinHostPort(gateway, fmt.Sprint(servertest.Nobody(t).Port()))
	file := filepath.Join(folder, "ambassadord.yml")
	text := "policy:\n  - {name: keep-out, action: deny, to: " + gateway + "/32, port: [" + portOf(t, forbidden) + "]}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	before := labelled(t, "connect.6379="+backend).name
	admin := filepath.Join(folder, "admin.sock")
	d := startStrict(t, "run", "--admin", admin, "--config", file)
	at := func(t *testing.T) *explainer {
		return &explainer{t: t, admin: admin, flags: []string{"--config", file}}
	}

	t.Run("27 started before the daemon", func(t *testing.T) {
		x := at(t)
		d.attached(before)
		var e *explain.Explanation
		poll(t, 10*time.Second, "since when it is attached", func() error { // what it says may be half a second old
			if e = x.wants(explain.OK, "ok", before, 6379, backend); e.Attached == nil || !e.Attached.Since.After(e.Container.Started) {
				return fmt.Errorf("attached %+v to a container of %s", e.Attached, e.Container.Started)
			}
			return nil
		})
		if e.Inside.Rule == nil || !e.Inside.Rule.Served {
			t.Errorf("the rule is %+v; want that it stands", e.Inside.Rule)
		}
		e, _, code := x.ask(before, 6379, "--dial")
		if code != 0 || e.Dial == nil || !e.Dial.OK || len(e.Dial.Steps) < 3 {
			t.Errorf("--dial says %+v and ends with %d; want that it is served", e.Dial, code)
		}
	})
	t.Run("01 wrong label key", func(t *testing.T) {
		x := at(t)
		x.wants(explain.Broken, "not_declared", x.run("-l", "conect.8080="+backend, image), 8080, "conect.8080", "do: connect.8080")
	})
	t.Run("02 wrong scheme", func(t *testing.T) {
		x := at(t)
		x.wants(explain.Broken, "bad_declaration", x.run("-l", "connect.80=cnsul-service://redis", image), 80, "label connect.80", "do: consul-service")
	})
	t.Run("a mistaken option, and a declaration that another wins over", func(t *testing.T) {
		x := at(t)
		x.wants(explain.Doubtful, "mistake", x.run("-l", "connect.80="+backend, "-l", "connect.80.wiat=5s", image), 80, "label connect.80.wiat", "do: wait")
		x.wants(explain.Doubtful, "mistake", x.run("-l", "connect.80="+backend, "-e", "CONNECT_80=10.0.0.1:80", image), 80, "environment CONNECT_80", "do: keep one")
	})
	t.Run("04 port out of range", func(t *testing.T) {
		x := at(t)
		x.wants(explain.Broken, "bad_declaration", x.run("-l", "connect.80=10.0.0.1:70000", image), 80, "70000", "do: 65535")
	})
	t.Run("03 target without port", func(t *testing.T) {
		x := at(t)
		x.wants(explain.Broken, "source_fails", x.run("-l", "connect.80=redis.invalid", image), 80, "redis.invalid", "do: redis.invalid:PORT")
	})
	t.Run("09 unknown name", func(t *testing.T) {
		x := at(t)
		x.wants(explain.Broken, "source_fails", x.run("-l", "connect.80=redis.invalid:80", image), 80, "redis.invalid")
	})
	t.Run("11 endpoint refuses", func(t *testing.T) {
		x := at(t)
		c := labelled(t, "connect.80="+nobody, "connect.80.wait=0s")
		d.attached(c.name)
		if _, err := refused(c.ns, loopback(80)); err != nil {
			t.Error(err)
		}
		x.wants(explain.Broken, "dial_failed", c.name, 80, nobody, "refused")
		e, _, code := x.ask(c.name, 80, "--dial")
		if code != 1 || e.Dial == nil || e.Dial.OK || e.Dial.Reason != "dial_failed" {
			t.Errorf("--dial says %+v and ends with %d; want why it fails", e.Dial, code)
		}
	})
	t.Run("13 accepts and closes at once", func(t *testing.T) {
		x := at(t)
		c := labelled(t, "connect.80="+rude)
		d.attached(c.name)
		conn := dialIn(t, c.ns, loopback(80))
		if n, err := io.Copy(io.Discard, conn); n != 0 || err != nil { // until its end
			t.Errorf("%d bytes came, and %v", n, err)
		}
		conn.Close()
		x.wants(explain.Broken, "endpoint_gone", c.name, 80, "without", "do: ")
	})
	t.Run("14 ejected", func(t *testing.T) {
		x := at(t)
		c := labelled(t, "connect.80="+backend+","+nobody, "connect.80.eject-after=1")
		d.attached(c.name)
		poll(t, 20*time.Second, "an endpoint is ejected", func() error {
			if _, err := echoed(c.ns, loopback(80)); err != nil {
				return err
			}
			e, _, _ := x.ask(c.name, 80)
			if e.Verdict.Cause != "ejected" {
				return fmt.Errorf("it says %+v", e.Verdict)
			}
			return nil
		})
		x.wants(explain.Doubtful, "ejected", c.name, 80, nobody, "refused", "1 of 2", "do: ")
	})
	t.Run("16 host network", func(t *testing.T) {
		x := at(t)
		x.wants(explain.Broken, "host_network", x.run("--network", "host", "-l", "connect.80="+backend, image), 80, "host's network", "do: network of its own")
	})
	t.Run("17 no network", func(t *testing.T) {
		x := at(t)
		e := x.wants(explain.OK, "ok", x.run("--network", "none", "-l", "connect.80="+backend, image), 80)
		if e.Container.Network != "none" {
			t.Errorf("its network is %q", e.Container.Network)
		}
	})
	t.Run("18 the container serves the port itself", func(t *testing.T) {
		x := at(t)
		x.wants(explain.Doubtful, "app_listens", x.run("-l", "connect.8080="+backend, image, "nc", "-ll", "-p", "8080", "-e", "cat"), 8080, "itself listens", "do: another port")
	})
	t.Run("19 UDP", func(t *testing.T) {
		x := at(t)
		c := labelled(t, "connect.8125="+backend)
		var conn net.Conn
		if err := c.ns.Do(func() (err error) {
			conn, err = net.Dial("udp4", loopback(8125))
			return err
		}); err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		x.wants(explain.Doubtful, "udp", c.name, 8125, "UDP", "do: TCP")
		x.wants(explain.Broken, "not_declared", x.run("-l", "connect.8126/udp="+backend, image), 8126, "UDP", "do: TCP")
	})
	t.Run("20 another port", func(t *testing.T) {
		x := at(t)
		x.wants(explain.Broken, "not_declared", x.run("-l", "connect.6379="+backend, image), 6378, "port 6379", "do: localhost:6379")
	})
	t.Run("21 a label that matches nothing", func(t *testing.T) {
		x := at(t)
		x.wants(explain.Broken, "no_endpoints", x.run("-l", "connect.80=docker://?label=app=nosuch&port=80", image), 80, "app=nosuch", "do: docker ps")
	})
	t.Run("22 unhealthy", func(t *testing.T) {
		x := at(t)
		sick := x.run("--health-cmd", "false", "--health-interval", "100ms", "--health-retries", "1", image)
		x.wants(explain.Broken, "all_left_out", x.run("-l", "connect.80=docker://"+sick+":80", image), 80, sick, "unhealthy", "do: health check")
	})
	t.Run("23 a network that is not reachable", func(t *testing.T) {
		x := at(t)
		web := x.run(image)
		x.wants(explain.Broken, "unreachable_network", x.run("-l", "connect.80=docker://"+web+":80?network=backend", image), 80, web, "not on the network backend", "do: published=1")
		x.wants(explain.Broken, "unreachable_network", x.run("-l", "connect.80=docker://"+web+":80?published=1", image), 80, web, "does not publish its port 80", "do: published=1")
	})
	t.Run("24 limit", func(t *testing.T) {
		x := at(t)
		c := labelled(t, "connect.80="+backend, "connect.80.client-limit=1")
		d.attached(c.name)
		if err := pingPong(dialIn(t, c.ns, loopback(80))); err != nil {
			t.Fatal(err)
		}
		x.wants(explain.Broken, "over_limit", c.name, 80, "1 of 1", c.name+" (1)", "do: client-limit")
	})
	t.Run("29 not created anew", func(t *testing.T) {
		x := at(t)
		compose := filepath.Join(t.TempDir(), "compose.yaml")
		text := "services:\n  app:\n    labels:\n      connect.80: 10.0.0.1:80\n      connect.81: " + backend + "\n"
		if err := os.WriteFile(compose, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		name := x.run("-l", "connect.80="+backend, "-l", "com.docker.compose.project=shop", "-l", "com.docker.compose.service=app",
			"-l", "com.docker.compose.project.config_files="+compose, image)
		x.wants(explain.Doubtful, "not_recreated", name, 80, compose+":4", "do: docker compose -p shop up -d app")
		x.wants(explain.Broken, "not_declared", name, 81, compose+":5", "do: docker compose -p shop up -d app")
	})
	t.Run("30 denied by policy", func(t *testing.T) {
		x := at(t)
		x.wants(explain.Broken, "denied", x.run("-l", "connect.80="+forbidden, image), 80, "keep-out", file, "do: keep-out")
		x.wants(explain.Broken, "denied", x.run("-l", "connect.80=127.0.0.1:22", image), 80, "loopback", "do: ")
	})
	t.Run("31 a name of two projects", func(t *testing.T) {
		x := at(t)
		for _, project := range []string{"one", "two"} {
			x.run("-l", "com.docker.compose.project="+project, "-l", "com.docker.compose.service=cache", image)
		}
		x.wants(explain.Broken, "ambiguous", x.run("-l", "connect.80=docker://cache:80", image), 80, "project one", "project two", "do: project=")
		_, said, code := x.ask("cache", 80)
		if code != 1 || !strings.Contains(said, "more than one project") || !strings.Contains(said, "one/cache") {
			t.Errorf("a service of two projects: %d, %s; want which there are", code, said)
		}
		e, said, _ := x.ask("two/cache", 80)
		if e.Container.Project != "two" {
			t.Errorf("two/cache: %+v, %s", e.Container, said)
		}
	})
	t.Run("a container that has ended", func(t *testing.T) {
		x := at(t)
		name := x.run("-l", "connect.80="+backend, image)
		dockertest.Docker(t, "kill", name)
		x.wants(explain.Broken, "not_running", name, 80, name, "do: docker start")
		_, said, code := x.ask(name+"x", 80)
		if code != 1 || !strings.Contains(said, "did you mean "+name+"?") {
			t.Errorf("a name with a slip: %d, %s", code, said)
		}
	})
	t.Run("as text", func(t *testing.T) {
		out, err := exec.CommandContext(t.Context(), binary, "explain", before, "6379", "--admin", admin, "--dial").CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		t.Logf("%s", out)
		for _, want := range []string{"daemon     ready", "container  " + before, "attached   for ", "rule       ", "declared   " + backend + ", by label connect.6379", "endpoint   " + backend, "dial       ", "verdict    OK (ok): "} {
			if !strings.Contains(string(out), want) {
				t.Errorf("%q is not in\n%s", want, out)
			}
		}
	})

	d.stop()
	t.Run("25 no daemon", func(t *testing.T) {
		x := at(t)
		e := x.wants(explain.Broken, "no_daemon", before, 6379, "no daemon", "do: ambassadord run")
		if e.Declaration == nil || e.Declaration.Target != backend || len(e.Endpoints) != 1 {
			t.Errorf("without a daemon it says %+v, %+v; want the declaration and its endpoint all the same", e.Declaration, e.Endpoints)
		}
		e, _, _ = x.ask(before, 6379, "--dial")
		if e.Dial == nil || e.Dial.OK || !strings.Contains(e.Dial.Error, "refused") {
			t.Errorf("--dial says %+v; want that it is refused", e.Dial)
		}
	})
	t.Run("28 no engine", func(t *testing.T) {
		x := at(t)
		e, said, code := x.ask(before, 6379, "--docker-host", "unix://"+folder+"/nosuch.sock")
		if code != 1 || e.Verdict.Cause != "engine_away" || !strings.Contains(e.Verdict.Text, "nosuch.sock") || e.Verdict.Fix == "" {
			t.Errorf("%d: %+v, %s; want that the engine does not answer", code, e.Verdict, said)
		}
	})
}

// TestExplainRegistries: a registry that is away, that does not know the service, or whose instances are
// all critical; a DNS server, and an endpoint, that are silent; an endpoint that takes no PROXY header.
func TestExplainRegistries(t *testing.T) {
	folder, err := os.MkdirTemp("/tmp", "explain-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	admin, image := filepath.Join(folder, "admin.sock"), dockertest.Image(t)
	consul := consultest.Start(t)
	register := func(body string) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+consul.HTTPAddr+"/v1/agent/service/register", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		answer, err := (&http.Client{Timeout: 20 * time.Second}).Do(request)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			t.Fatal(answer.Status)
		}
	}
	register(`{"Name":"redis","Port":6379,"Check":{"TTL":"1h","Status":"critical"}}`)
	register(`{"Name":"web","Port":80,"Address":"10.255.0.1"}`)
	deaf, _ := deafNames(t)
	hole := blackHole(t)
	picky := serveIn(t, hostNamespace(t), dockerHost(t)+":0", func(conn *net.TCPConn) {
		_, _ = io.ReadFull(conn, make([]byte, 1))
		_ = conn.SetLinger(0) // a reset
		_ = conn.Close()
	})
	d := start(t, "run", "--admin", admin, "--consul-addr", consul.HTTPAddr, "--limit", "proxy-protocol*=allow")
	x := &explainer{t: t, admin: admin}
	x.wants(explain.Broken, "no_endpoints", x.run("-l", "connect.80=consul-service://redos", image), 80, "redos", "do: ")
	critical := x.run("-l", "connect.80=consul-service://redis", image)
	x.wants(explain.Broken, "all_left_out", critical, 80, "critical", "do: health check")
	served := x.run("-l", "connect.80=consul-service://web", image)
	x.wants(explain.OK, "ok", served, 80)
	x.wants(explain.Broken, "source_fails", x.run("-l", "connect.80=dns://"+deaf+"/redis.test:80", image), 80, deaf, "do: ")

	silent := labelled(t, "connect.80="+hole, "connect.80.timeout=1s")
	d.attached(silent.name)
	if _, err := refused(silent.ns, loopback(80)); err != nil {
		t.Error(err)
	}
	x.wants(explain.Broken, "dial_failed", silent.name, 80, hole, "do: ")

	proxied := labelled(t, "connect.80="+picky, "connect.80.proxy-protocol=v2")
	d.attached(proxied.name)
	if err := pingPong(dialIn(t, proxied.ns, loopback(80))); err == nil {
		t.Error("an endpoint that takes no PROXY header answers")
	}
	x.wants(explain.Broken, "endpoint_gone", proxied.name, 80, "reset", "do: PROXY header")

	consul.Stop(t)
	x.wants(explain.Broken, "source_fails", critical, 80, "connection refused", "do: agent runs")
	x.wants(explain.Doubtful, "stale_answer", served, 80, "its last answer holds", "do: agent runs")
}

// TestExplainModes: in modes that have no rule in the container, or none of whose sockets is there, and
// where the rules are flushed again and again.
func TestExplainModes(t *testing.T) {
	backend := serveIn(t, hostNamespace(t), dockerHost(t)+":0", echo)
	run := func(t *testing.T, args ...string) (*explainer, client) {
		folder, err := os.MkdirTemp("/tmp", "explain-")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(folder) })
		x := &explainer{t: t, admin: filepath.Join(folder, "admin.sock")}
		c := labelled(t, "connect.6379="+backend)
		start(t, append([]string{"run", "--admin", x.admin}, args...)...)
		return x, c
	}
	for _, mode := range []string{"listen", "host"} {
		t.Run(mode, func(t *testing.T) {
			x, c := run(t, "--mode", mode)
			x.wants(explain.OK, "ok", c.name, 6379)
			e, said, code := x.ask(c.name, 6379, "--dial")
			if code != 0 || e.Dial == nil || !e.Dial.OK {
				t.Errorf("%d: %+v %+v %s; want that it is served", code, e.Verdict, e.Dial, said)
			}
		})
	}
	for _, kind := range []string{"iptables", "nft"} {
		t.Run("15 rules flushed, "+kind, func(t *testing.T) {
			x, c := run(t, "--rules", kind)
			x.wants(explain.OK, "ok", c.name, 6379)
			done, stopped := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(stopped)
				for {
					select {
					case <-done:
						return
					default:
						_ = c.ns.Do(func() error { return exec.Command("nft", "flush", "ruleset").Run() }) // the daemon puts them back
					}
				}
			}()
			defer func() { close(done); <-stopped }()
			x.wants(explain.Broken, "no_rule", c.name, 6379, "flushed", "do: find who flushes")
		})
	}
}

func portOf(t *testing.T, address string) string {
	t.Helper()
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(at.Port())
}
