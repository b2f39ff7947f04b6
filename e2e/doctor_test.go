//go:build integration

package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
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
	"github.com/ambassadord/ambassadord/internal/etcdtest"
	"github.com/ambassadord/ambassadord/internal/netlab"
	"github.com/ambassadord/ambassadord/internal/sandbox"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/iptables"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// finding is a check's in doctor's report.
type finding struct{ Name, Status, Summary, Hint string }

// diagnosis is doctor's report and exit code.
type diagnosis struct {
	t      *testing.T
	code   int
	Status string
	Checks []finding
}

// diagnose runs doctor -o json by command, the daemon's binary and what it is
// wrapped in, with more arguments.
func diagnose(t *testing.T, command []string, args ...string) diagnosis {
	t.Helper()
	command = append(append(slices.Clone(command), "doctor", "-o", "json"), args...)
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=50")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	d := diagnosis{t: t}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		d.code = exit.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(out, &d); err != nil {
		t.Fatalf("%s: %v\n%s%s", strings.Join(command, " "), err, out, &stderr)
	}
	return d
}

// of is a check's finding.
func (d diagnosis) of(name string) finding {
	d.t.Helper()
	i := slices.IndexFunc(d.Checks, func(f finding) bool { return f.Name == name })
	if i < 0 {
		d.t.Fatalf("there is no check %s in %+v", name, d.Checks)
	}
	return d.Checks[i]
}

// want demands a check's status, and parts of its summary and hint.
func (d diagnosis) want(name, status, summary, hint string) {
	d.t.Helper()
	if f := d.of(name); f.Status != status || !strings.Contains(f.Summary, summary) || !strings.Contains(f.Hint, hint) {
		d.t.Errorf("%+v, want status %s, summary with %q, hint with %q", f, status, summary, hint)
	}
}

// wantNo demands that no check has a status, but those named, and that of DNS: the tests' host
// may have a network that leads nowhere.
func (d diagnosis) wantNo(status string, but ...string) {
	d.t.Helper()
	for _, f := range d.Checks {
		if f.Status == status && f.Name != "dns" && !slices.Contains(but, f.Name) {
			d.t.Errorf("%+v, want no %s", f, status)
		}
	}
}

// namespaceFiles lists the engine's and ip-netns's namespaces. Of the engine's only those
// that are mounted: the empty files of containers that have ended go at any time.
func namespaceFiles(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, pattern := range []string{"/run/docker/netns/*", "/run/netns/*"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if filepath.Dir(file) == "/run/netns" || sandbox.Mounted(file) {
				all = append(all, file)
			}
		}
	}
	return all
}

// TestDoctorOnThisHost finds nothing that fails here, and changes nothing.
func TestDoctorOnThisHost(t *testing.T) {
	consul, etcd := consultest.Start(t), etcdtest.Start(t)
	name := dockertest.Name(t)
	all := []client{{name: name, ns: containerNamespace(t, dockertest.Run(t, "--name", name, "-l", "connect.6379=redis:6379", dockertest.Image(t)))}}
	rules, namespaces := savedRules(t, all), namespaceFiles(t)
	began := time.Now()
	d := diagnose(t, []string{binary}, "--consul-addr", consul.HTTPAddr, "--etcd-endpoints", etcd.Addr)
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %s", took)
	}
	wantRestored(t, rules, all)
	if after := namespaceFiles(t); !slices.Equal(after, namespaces) {
		t.Errorf("namespaces before:\n%q\nafter:\n%q", namespaces, after)
	}

	d.wantNo("fail")
	d.want("privileges", "ok", "enough for mode redirect", "")
	d.want("redirect-ipv4", "ok", "redirected", "")
	d.want("redirect-ipv6", "ok", "redirected", "")
	d.want("bridge-filter", "ok", "can filter", "")
	d.want("splice", "ok", "inside the kernel", "")
	version := dockertest.Docker(t, "version", "-f", "version {{.Server.Version}}, API {{.Server.APIVersion}}")
	d.want("engine", "ok", version, "")
	d.want("raw-packets", "ok", " can send packets with any source", "")
	d.want("namespaces", "ok", "/run/docker/netns", "")
	d.want("consul", "ok", "its leader is 127.0.0.1:", "")
	d.want("etcd", "ok", "the servers at "+etcd.Addr+" answer", "")
	d.want("daemon", "warn", "none is running, and 1 running container declares ports", "ambassadord run")
	codes := map[string]int{"ok": 0, "fail": 1, "warn": 3}
	if code := codes[d.Status]; d.code != code {
		t.Errorf("exit code %d for %s, want %d", d.code, d.Status, code)
	}

	d = diagnose(t, []string{binary}, "--mode", "link")
	d.want("raw-packets", "warn", " among them; mode link", "--cap-drop NET_RAW")
	if code := codes[d.Status]; d.code != code || d.Status == "ok" {
		t.Errorf("exit code %d for %s with a warning, want %d", d.code, d.Status, code)
	}
}

// TestDoctorFindsStaleRules leaves rules behind as a killed daemon would, in each
// variant, and demands that what doctor says to do helps.
func TestDoctorFindsStaleRules(t *testing.T) {
	for _, variant := range []iptables.Variant{iptables.NFT, iptables.Legacy} {
		t.Run(string(variant), func(t *testing.T) {
			id := dockertest.Run(t, dockertest.Image(t))
			ns := containerNamespace(t, id)
			file := filepath.Base(dockertest.Docker(t, "inspect", "-f", "{{.NetworkSettings.SandboxKey}}", id))
			rules, err := iptables.New(t.Context(), iptables.Prefer(variant))
			if err != nil {
				t.Fatal(err)
			}
			chain := netrules.Redirect(netrules.IPv4, 61000, []netrules.Port{{Number: 6379, Comment: "test"}})
			if _, err := rules.Apply(t.Context(), ns, chain); err != nil {
				t.Fatal(err)
			}
			d := diagnose(t, []string{binary})
			d.want("stale-rules", "warn", "/run/docker/netns/"+file, "ambassadord rules remove")
			d.wantNo("fail")

			// Where somebody listens they are in use: by a daemon in a container.
			listener, err := ns.ListenTCP(netip.MustParseAddrPort("127.0.0.1:61000"))
			if err != nil {
				t.Fatal(err)
			}
			if f := diagnose(t, []string{binary}).of("stale-rules"); strings.Contains(f.Summary, file) {
				t.Errorf("%+v, although somebody listens", f)
			}
			listener.Close()

			if out, err := exec.Command(binary, "rules", "remove").CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if f := diagnose(t, []string{binary}).of("stale-rules"); strings.Contains(f.Summary, file) {
				t.Errorf("%+v, although they were removed", f)
			}
		})
	}
}

// TestDoctorKnowsARunningDaemon finds the daemon, whose rules are not stale.
func TestDoctorKnowsARunningDaemon(t *testing.T) {
	name := dockertest.Name(t)
	dockertest.Run(t, "--name", name, "-l", "connect.6379=127.0.0.1:1", dockertest.Image(t))
	running := start(t)
	running.attached(name)
	d := diagnose(t, []string{binary})
	d.want("daemon", "ok", fmt.Sprintf("process %d", running.cmd.Process.Pid), "")
	d.want("stale-rules", "ok", "and a daemon runs", "")
}

// TestDoctorNamesWhatIsMissing takes one thing after the other away from it.
func TestDoctorNamesWhatIsMissing(t *testing.T) {
	dockertest.Run(t, dockertest.Image(t)) // so that there is a namespace to be entered
	dropped := func(capabilities ...string) []string {
		list := "-" + strings.Join(capabilities, ",-")
		return []string{"setpriv", "--bounding-set", list, "--inh-caps", list, binary}
	}
	t.Run("NET_ADMIN", func(t *testing.T) {
		d := diagnose(t, dropped("net_admin"))
		d.want("privileges", "fail", "mode redirect lacks NET_ADMIN", "--cap-add NET_ADMIN; or use --mode listen")
		d.want("redirect-ipv4", "warn", "not checked", "as the daemon would be")
		d.wantNo("fail", "privileges")
		if d.code != 1 || d.Status != "fail" {
			t.Errorf("exit code %d, status %s; want 1, fail", d.code, d.Status)
		}
	})
	t.Run("NET_ADMIN, for mode listen", func(t *testing.T) {
		d := diagnose(t, dropped("net_admin"), "--mode", "listen")
		d.want("privileges", "ok", "enough for mode listen", "")
		d.wantNo("fail")
	})
	t.Run("SYS_ADMIN", func(t *testing.T) {
		d := diagnose(t, dropped("sys_admin"))
		d.want("privileges", "fail", "mode redirect lacks SYS_ADMIN", "--cap-add SYS_ADMIN; or use --mode host")
		d.want("namespaces", "fail", "none in /run/docker/netns can be entered", "--cap-add SYS_ADMIN")
	})
	t.Run("the engine", func(t *testing.T) {
		d := diagnose(t, []string{binary}, "--docker-host", "unix:///nonexistent.sock")
		d.want("engine", "fail", "/nonexistent.sock", "is the engine running?")
		d.want("raw-packets", "warn", "not checked", "is the engine running?")
		d.wantNo("fail", "engine")
		if d.code != 1 {
			t.Errorf("exit code %d, want 1", d.code)
		}
	})
	t.Run("an engine that does not answer", func(t *testing.T) {
		path := filepath.Join(shortFolder(t), "hang.sock")
		listener, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close() // what it accepts stays in the queue: nobody answers
		began := time.Now()
		d := diagnose(t, []string{binary}, "--docker-host", "unix://"+path)
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("it took %s", took)
		}
		d.want("engine", "fail", "no answer within", "is the engine running?")
		d.want("raw-packets", "warn", "not checked", "")
		d.want("splice", "ok", "", "")
	})
	t.Run("DNS and Consul", func(t *testing.T) {
		lab := netlab.New(t)
		d := diagnoseIn(t, lab.NS(), "nameserver 127.0.0.1\n", "--consul-addr", "127.0.0.1:8500", "--etcd-endpoints", "127.0.0.1:2379")
		d.want("dns", "warn", "no server answers, and no running container declares a target that needs one: 127.0.0.1:53", "resolv.conf")
		d.want("consul", "fail", "connection refused", "--consul-addr")
		d.want("etcd", "fail", "connection refused", "--etcd-endpoints")
		serveNames(t, lab.NS())
		d = diagnoseIn(t, lab.NS(), "nameserver 127.0.0.1\n")
		d.want("dns", "ok", "127.0.0.1:53", "")
		d.want("consul", "ok", "not configured", "")
		d.want("etcd", "ok", "not configured", "")
	})
	t.Run("descriptors", func(t *testing.T) {
		d := diagnose(t, []string{"prlimit", "--nofile=1024:1024", binary})
		d.want("descriptors", "warn", "at most 1024", "LimitNOFILE")
	})
}

// diagnoseIn runs doctor in a network namespace, with a resolv.conf of its own.
func diagnoseIn(t *testing.T, ns *netns.Namespace, resolvConf string, args ...string) diagnosis {
	t.Helper()
	file := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(file, []byte(resolvConf), 0o644); err != nil {
		t.Fatal(err)
	}
	script := `mount --make-rprivate / && mount --bind "$0" /etc/resolv.conf && exec "$@"`
	var d diagnosis
	err := ns.Do(func() error {
		d = diagnose(t, []string{"unshare", "--mount", "sh", "-c", script, file, binary}, args...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestDoctorTellsOfListeners: a daemon with nothing but listeners is told of, and that it
// redirects nothing.
func TestDoctorTellsOfListeners(t *testing.T) {
	address := freeAddrs(t, 1)[0]
	file := filepath.Join(t.TempDir(), "config.yml")
	if err := os.WriteFile(file, []byte("mode: []\nlisten: [{address: "+address+", target: 192.0.2.1:80}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := start(t, "run", "--config", file)
	diagnose(t, []string{binary}).want("daemon", "ok",
		fmt.Sprintf("none is running that redirects what containers dial; for those who dial its own address there is process %d (", d.cmd.Process.Pid), "")
	host := start(t, "run", "--mode", "redirect")
	seen := diagnose(t, []string{binary})
	seen.want("daemon", "ok", fmt.Sprintf("one is running: process %d (", host.cmd.Process.Pid), "")
	seen.want("daemon", "ok", ") at "+address, "")
}

// TestDaemonOutOfSight looks for the host's daemon from another PID namespace, as that of a
// container without --pid host: what is known of it is told, and where to see the rest.
func TestDaemonOutOfSight(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	start(t, "run", "--mode", "redirect", "--run-dir", dir)
	container := []string{"unshare", "--pid", "--fork", "--mount-proc", binary}
	const process = "a process of user 0 out of our sight"

	diagnose(t, container, "--run-dir", dir).want("daemon", "ok", "one is running: "+process+", which shares "+dir, "")
	diagnose(t, container, "--run-dir", dir+"-own").want("daemon", "warn",
		"whether one is running cannot be told from here: @ambassadord/redirect is held by "+process, "run this on the host, or in a container with --pid host")
	for where, want := range map[string][]string{
		dir:          {"another ambassadord serves this host already: " + process},
		dir + "-own": {"@ambassadord/redirect is held by " + process, "run ambassadord doctor on the host, or give this container --pid host"},
	} {
		cmd := exec.Command(container[0], append(slices.Clone(container[1:]), "rules", "remove", "--run-dir", where)...)
		cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=50")
		out, err := cmd.CombinedOutput()
		for _, text := range want {
			if !strings.Contains(string(out), text) {
				t.Errorf("with the folder %s it says %q, %v; want %q", where, out, err, text)
			}
		}
	}
}
