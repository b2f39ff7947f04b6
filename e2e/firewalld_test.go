//go:build integration

package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/netlab"
	"github.com/ambassadord/ambassadord/netrules"
)

// ownFirewall is a host of a test's own with a system bus, for a firewalld that
// must not get at the machine's rules. Its iptables are of the legacy variant, of
// whose rules the kernel tells nobody that they are gone.
type ownFirewall struct {
	t   *testing.T
	lab *netlab.Lab
	dir string
	env []string
}

func newOwnFirewall(t *testing.T) *ownFirewall {
	t.Helper()
	dir := t.TempDir()
	f := &ownFirewall{t: t, lab: netlab.New(t), dir: dir, env: []string{"DBUS_SYSTEM_BUS_ADDRESS=unix:path=" + filepath.Join(dir, "bus")}}
	f.write("bus.conf", `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><listen>unix:path=`+dir+`/bus</listen><auth>EXTERNAL</auth><policy context="default"><allow user="*"/>
<allow own="*"/><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/></policy></busconfig>`)
	f.write("firewalld.conf", "FirewallBackend=iptables\nFlushAllOnReload=yes\nCleanupOnExit=yes\nIPv6_rpfilter=no\n")
	f.run("dbus-daemon", "--config-file="+filepath.Join(dir, "bus.conf"), "--nofork", "--nopidfile")
	poll(t, 10*time.Second, "the bus", func() error { _, err := os.Stat(filepath.Join(dir, "bus")); return err })
	return f
}

func (f *ownFirewall) write(name, text string) {
	f.t.Helper()
	if err := os.WriteFile(filepath.Join(f.dir, name), []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

// command is a program on this host.
func (f *ownFirewall) command(name string, args ...string) *exec.Cmd {
	const script = `mount --bind /usr/sbin/xtables-legacy-multi /usr/sbin/xtables-nft-multi && exec "$@"`
	return exec.Command("unshare", append([]string{"--mount", "--propagation", "slave", "sh", "-c", script, "sh", name}, args...)...)
}

// run runs a program there until end, or the end of the test.
func (f *ownFirewall) run(name string, args ...string) (end func()) {
	f.t.Helper()
	command := f.command(name, args...)
	command.Env = append(os.Environ(), f.env...)
	f.lab.Do(f.t, command.Start)
	ended := false
	end = func() {
		if !ended {
			_ = command.Process.Signal(syscall.SIGTERM)
			_ = command.Wait()
		}
		ended = true
	}
	f.t.Cleanup(end)
	return end
}

// daemon starts mode host there, which looks after its rules by itself once an hour.
// It finds no other iptables than those, whatever Docker uses on this machine.
func (f *ownFirewall) daemon() *daemon {
	f.t.Helper()
	programs := f.t.TempDir()
	for _, family := range []netrules.Family{netrules.IPv4, netrules.IPv6} {
		for _, program := range []string{"", "-save", "-restore"} {
			if err := os.Symlink("/usr/sbin/xtables-legacy-multi", filepath.Join(programs, family.Command()+program)); err != nil {
				f.t.Fatal(err)
			}
		}
	}
	var d *daemon
	f.lab.Do(f.t, func() error {
		d = launch(f.t, f.command("env", "PATH="+programs, binary, "run", "--mode", "host", "--repair-interval", "1h", "--log-format", "json"), f.env)
		return nil
	})
	d.wait("ready", 20*time.Second, func(l line) bool { return l.str("msg") == "ready" })
	return d
}

func (f *ownFirewall) iptables(args ...string) (string, error) {
	var out []byte
	err := f.lab.NS().Do(func() (err error) {
		out, err = exec.Command("iptables-legacy", append([]string{"-w", "-t", "nat"}, args...)...).CombinedOutput()
		return err
	})
	if err != nil {
		err = fmt.Errorf("iptables %v: %w: %s", args, err, out)
	}
	return string(out), err
}

// wantRepaired calls harm, which has to flush the table, and demands that our rules
// are there again soon after.
func (f *ownFirewall) wantRepaired(what string, harm func()) {
	f.t.Helper()
	const other = "SOMEBODYS"
	if _, err := f.iptables("-N", other); err != nil {
		f.t.Fatal(err)
	}
	harm()
	harmed := time.Now()
	poll(f.t, 20*time.Second, what+" takes the rules away", func() error {
		rules, err := f.iptables("-S")
		if err == nil && strings.Contains(rules, other) {
			err = errors.New("they are still there:\n" + rules)
		}
		return err
	})
	poll(f.t, 20*time.Second, "our rules after "+what, func() error {
		rules, err := f.iptables("-S")
		if err == nil && (strings.Count(rules, "-j "+netrules.HostChain) != 1 || !strings.Contains(rules, "--to-destination "+hostAddr4)) {
			err = errors.New("they are not there:\n" + rules)
		}
		return err
	})
	if took := time.Since(harmed); took > 5*time.Second {
		f.t.Errorf("our rules were back %s after %s", took, what)
	}
}

// TestFirewalld: whatever a real firewalld does to the rules of everybody, ours are
// there again at once.
func TestFirewalld(t *testing.T) {
	f := newOwnFirewall(t)
	f.daemon()
	var end func()
	f.wantRepaired("the start of firewalld", func() {
		end = f.run("firewalld", "--nofork", "--nopid", "--system-config", f.dir)
		f.wantRunning()
	})
	for _, reload := range []string{"--reload", "--complete-reload"} {
		f.wantRepaired(reload, func() {
			if err := f.control(reload); err != nil {
				t.Fatal(err)
			}
		})
	}
	f.wantRepaired("the end of firewalld", end)
}

// wantRunning returns once firewalld has set its rules.
func (f *ownFirewall) wantRunning() {
	f.t.Helper()
	poll(f.t, 30*time.Second, "firewalld runs (Debian's package is firewalld)", func() error { return f.control("--state") })
}

// control is firewall-cmd(1), which finds firewalld by the bus.
func (f *ownFirewall) control(args ...string) error {
	command := exec.Command("firewall-cmd", args...)
	command.Env = append(os.Environ(), f.env...)
	if out, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("firewall-cmd %v: %w: %s", args, err, out)
	}
	return nil
}
