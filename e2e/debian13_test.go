//go:build integration

package e2e

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/dockertest"
	"github.com/ambassadord/ambassadord/internal/netlab"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// insideDebian13 says, in the environment, that TestDebian13 runs on the host that it has made.
const insideDebian13 = "E2E_DEBIAN13"

// TestDebian13 has a host that is a Debian 13 without any iptables program, with today's engine
// and its firewall backend nftables, and runs itself on it.
func TestDebian13(t *testing.T) {
	if os.Getenv(insideDebian13) != "" {
		onDebian13(t)
		return
	}
	output := func(name string, args ...string) string {
		t.Helper()
		out, err := exec.Command(name, args...).Output()
		if err != nil {
			t.Fatalf("%s %s: %v", name, strings.Join(args, " "), err)
		}
		return strings.TrimSpace(string(out))
	}
	base := output("../scripts/setup", "path", "debian13")
	if _, err := os.Stat(base); err != nil {
		t.Fatalf("%v; run scripts/setup debian13", err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	checkout, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	// What `make demo` asks for is Go; its caches make it quick.
	paths := append(strings.Fields(output("go", "env", "GOROOT", "GOMODCACHE", "GOCACHE")), checkout, filepath.Dir(binary), self, "/bin/busybox")
	folder, err := os.MkdirTemp("", "d") // sockets are in there, and a path to one is short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(folder)

	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, "../scripts/engine", "29-nft", self, "-test.run=^TestDebian13$", "-test.v", "-test.timeout=7m")
	command.Env = append(os.Environ(), "TMPDIR="+folder, "ENGINE_BASE="+base, "ENGINE_PATHS="+strings.Join(paths, " "),
		"ENGINE_IMAGES="+dockertest.Image(t), "E2E_DAEMON="+binary, insideDebian13+"=1")
	command.WaitDelay = time.Minute
	out, err := command.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestDebian13 ") {
		t.Fatalf("%v:\n%s", err, out)
	}
	t.Logf("%s", out)
}

// onDebian13 is the part of TestDebian13 inside: the demo, every mode and doctor, and each time
// nothing is left.
func onDebian13(t *testing.T) {
	if release, err := os.ReadFile("/etc/os-release"); err != nil || !strings.Contains(string(release), `VERSION_ID="13"`) {
		t.Fatalf("this is no Debian 13: %v: %s", err, release)
	}
	withoutPrograms(t)
	backend := serveIn(t, hostNamespace(t), "127.0.0.1:0", echo)

	lockBinFor := func(t *testing.T) {
		t.Helper()
		lock, err := lockBin()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { lock.Close() })
	}

	t.Run("demo", func(t *testing.T) {
		defer nothingLeft(t, nil)()
		lockBinFor(t)
		out, err := exec.Command("make", "-C", "..", "demo").CombinedOutput()
		for _, want := range []string{"add rule ip ambassadord ", "  0  failed", "no rule of ours is left"} {
			if err != nil || !strings.Contains(string(out), want) {
				t.Fatalf("make demo: %v, want %q in\n%s", err, want, out)
			}
		}
		withoutPrograms(t) // it installs what is missing, and that is not
		// Of the containers that have ended the engine has files still.
		diagnose(t, []string{binary}).wantNo("fail")
	})

	t.Run("iptables where there is none", func(t *testing.T) {
		out, err := exec.Command(binary, "run", "--rules", "iptables").CombinedOutput()
		if err == nil || !strings.Contains(string(out), `"iptables": executable file not found`) || !strings.Contains(string(out), "--rules nft") {
			t.Errorf("%v: %s; want a failure, and what to do", err, out)
		}
		found := diagnose(t, []string{binary}, "--rules", "iptables")
		found.want("rules", "fail", "executable file not found", "--rules nft")
	})

	t.Run("redirect", func(t *testing.T) {
		all := clients(t, backend)
		defer nothingLeft(t, all)()
		d := start(t, "run", "--mode", "redirect")
		for _, c := range all {
			d.attached(c.name)
			addresses := []string{"127.0.0.1:6379"}
			if c.six {
				addresses = append(addresses, "[::1]:6379")
			}
			for _, address := range addresses {
				live := dialIn(t, c.ns, address)
				netlab.RunIn(t, c.ns, "nft", "flush", "table", "ip", "ambassadord")
				poll(t, 10*time.Second, "a new connection after a flush", func() error { return connects(c) })
				if err := pingPong(live); err != nil {
					t.Errorf("%s, %s: the live connection after a flush: %v", c.name, address, err)
				}
				live.Close()
			}
		}
		found := diagnose(t, []string{binary})
		found.wantNo("fail")
		found.wantNo("warn")
		found.want("rules", "ok", "by netlink", "")
		found.want("iptables", "ok", "not needed", "")
		found.want("iptables-mix", "ok", "no iptables program", "")
		found.want("redirect-ipv4", "ok", "was redirected", "")
		found.want("redirect-ipv6", "ok", "was redirected", "")
		found.want("engine", "ok", "firewall by nftables", "")
		found.want("stale-rules", "ok", "rules of ours in 4 of", "")

		d.kill()
		if out, err := exec.Command(binary, "rules", "remove").CombinedOutput(); err != nil {
			t.Errorf("rules remove after kill -9: %v: %s", err, out)
		}
		for _, c := range all {
			if rules := wholeRuleSet(t, c.ns); strings.Contains(rules, "ambassadord") {
				t.Errorf("%s after rules remove: %s", c.name, rules)
			}
		}
		d = start(t, "run", "--mode", "redirect") // which removes the dead one's files
		for _, c := range all {
			d.attached(c.name)
		}
		d.stop()
	})

	t.Run("listen", func(t *testing.T) {
		all := clients(t, backend)
		defer nothingLeft(t, all)()
		d := start(t, "run", "--mode", "listen")
		for _, c := range all {
			poll(t, 10*time.Second, "a connection", func() error { return connects(c) })
		}
		diagnose(t, []string{binary}, "--mode", "listen").wantNo("fail")
		d.stop()
	})

	t.Run("host", func(t *testing.T) {
		network := dockertest.Network(t, "--ipv6", "--subnet", "fd00:77:13::/64")
		var all []client
		for _, options := range [][]string{nil, {"--network", network}} {
			name := dockertest.Name(t)
			id := dockertest.Run(t, append(options, "--name", name, "-l", "connect.6379="+backend, dockertest.Image(t))...)
			all = append(all, client{name: name, ns: containerNamespace(t, id), six: options != nil})
		}
		defer nothingLeft(t, all)()
		d := start(t, "run", "--mode", "host")
		for _, c := range all {
			addresses := []string{hostAddr4 + ":6379"}
			if c.six {
				addresses = append(addresses, "["+hostAddr6+"]:6379")
			}
			for _, address := range addresses {
				poll(t, 10*time.Second, c.name+" dials "+address, func() error {
					_, err := echoed(c.ns, address)
					return err
				})
			}
		}
		found := diagnose(t, []string{binary}, "--mode", "host")
		found.wantNo("fail")
		found.want("bridge-filter", "ok", "can filter", "")
		d.stop()
	})

	// Without iptables in its image either.
	const bare = "ambassadord:bare"
	t.Run("image", func(t *testing.T) {
		lockBinFor(t)
		command := exec.Command("make", "-C", "..", "image", "BASE=scratch")
		command.Env = append(os.Environ(), "IMAGE="+bare)
		if out, err := command.CombinedOutput(); err != nil {
			t.Fatalf("make image: %v: %s", err, out)
		}
	})

	t.Run("link", func(t *testing.T) {
		network := dockertest.Network(t)
		onBridge := serveIn(t, hostNamespace(t), dockerHost(t)+":0", echo)
		name := dockertest.Name(t)
		id := dockertest.Run(t, "--name", name, "--network", network, "-l", "connect.6379="+onBridge, dockertest.Image(t))
		c := client{name: name, ns: containerNamespace(t, id)}
		defer nothingLeft(t, []client{c})()
		d := containerDaemon(t, "--network", network, "--pid", "host", "--cap-drop", "ALL",
			"--cap-add", "NET_ADMIN", "--cap-add", "SYS_ADMIN", "--cap-add", "SYS_PTRACE", engineSocket, bare, "run", "--mode", "link")
		address := dockertest.Docker(t, "inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", d.id) + ":6379"
		poll(t, 10*time.Second, "a connection", func() error {
			_, err := echoed(c.ns, address)
			return err
		})
		found := diagnose(t, []string{"docker", "exec", d.id, "/bin/ambassadord"}, "--mode", "link")
		found.wantNo("fail")
		found.want("rules", "ok", "by netlink", "")
		d.stop()
	})

	t.Run("redirect in a container", func(t *testing.T) {
		all := clients(t, backend)
		defer nothingLeft(t, all)()
		d := containerDaemon(t, "--network", "host", "--cap-drop", "ALL", "--cap-add", "NET_ADMIN", "--cap-add", "SYS_ADMIN",
			engineSocket, "-v", "/var/run/docker/netns:/var/run/docker/netns:rslave", bare, "run", "--mode", "redirect", "--allow-loopback")
		for _, c := range all {
			d.attached(c.name)
			if err := connects(c); err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
		}
		d.stop()
	})
}

// withoutPrograms demands that this host has no iptables.
func withoutPrograms(t *testing.T) {
	t.Helper()
	for _, folder := range []string{"/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"} {
		found, err := filepath.Glob(filepath.Join(folder, "*tables*"))
		if err != nil || len(found) > 0 {
			t.Fatalf("there are %q, %v", found, err)
		}
	}
}

// nothingLeft returns what demands, later, that the host and its clients are as they are now:
// their rules, the addresses of lo, and the files in /run but the engine's, and but for what a daemon has counted, which
// it leaves for the next one.
func nothingLeft(t *testing.T, all []client) (check func()) {
	t.Helper()
	look := func() []string {
		var b strings.Builder
		in := func(name string, ns *netns.Namespace) {
			fmt.Fprintf(&b, "%s:\n%s%s", name, netlab.RunIn(t, ns, "nft", "--stateless", "list", "ruleset"),
				netlab.RunIn(t, ns, "ip", "-o", "address", "show", "lo"))
		}
		in("the host", hostNamespace(t))
		for _, c := range all {
			in(c.name, c.ns)
		}
		err := filepath.WalkDir("/run", func(path string, entry fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case path == "/run/docker" || path == "/run/containerd":
				return fs.SkipDir
			case strings.HasPrefix(path, "/run/ambassadord/counters-") && strings.HasSuffix(path, ".note"):
			case !entry.IsDir():
				b.WriteString(path + "\n")
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(b.String(), "\n")
		for i, line := range lines { // the elements of a map are listed in any order
			lines[i] = strings.TrimRight(strings.TrimPrefix(strings.TrimSpace(line), "elements = { "), ", }")
		}
		slices.Sort(lines)
		return lines
	}
	before := look()
	return func() {
		t.Helper()
		if t.Failed() {
			return // a daemon may run still
		}
		if after := look(); !slices.Equal(after, before) {
			t.Errorf("it was\n%s\nand is now, want the same:\n%s", unlike(before, after), unlike(after, before))
		}
	}
}

// unlike returns those of lines that others lack.
func unlike(lines, others []string) string {
	lacking := slices.DeleteFunc(slices.Clone(lines), func(line string) bool { return slices.Contains(others, line) })
	return strings.Join(lacking, "\n")
}
