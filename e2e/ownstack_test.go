//go:build integration

package e2e

import (
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/netlab"
)

// TestNetworkStackOfItsOwn starts containers with gVisor's runsc, whose loopback is in their
// own kernel: mode redirect cannot serve them, and says so, with the way out. That is taken.
func TestNetworkStackOfItsOwn(t *testing.T) {
	runsc, err := exec.LookPath("runsc")
	if err != nil {
		t.Fatalf("%v; scripts/setup runsc builds it", err)
	}
	host := netlab.New(t)
	// Its name says nothing: the program that it stands for does.
	e := startEngineIn(t, host, "--add-runtime", "sandboxed="+runsc)
	image := e.load()
	server := serveIn(t, host.NS(), "10.213.0.1:0", echo)
	in := []string{"-t", strconv.Itoa(e.cmd.Process.Pid), "-n", binary}
	run := func(modes ...string) *daemon {
		t.Helper()
		args := append(append(in, "run", "--docker-host", e.endpoint(), "--log-format", "json", "--allow-loopback"), modes...)
		d := launch(t, exec.Command("nsenter", args...), nil)
		d.wait("ready", 20*time.Second, func(l line) bool { return l.str("msg") == "ready" })
		return d
	}
	start := func(name string, more ...string) {
		t.Helper()
		options := append([]string{"run", "-d", "--runtime", "sandboxed", "--name", name, clientOption(t), "-l", "connect.7000=" + server}, more...)
		e.docker(append(options, image, "sleep", "1h")...)
	}
	dial := func(name, address string) (string, error) {
		out, err := exec.Command("docker", "-H", e.endpoint(), "exec", name, "/client", "-within", "0", "-token", "hello", address).CombinedOutput()
		return string(out), err
	}

	d := run("--mode", "redirect")
	start("alone")
	told := d.wait("that it cannot be served", 20*time.Second, func(l line) bool { return l.str("level") == "WARN" && l.str("client") == "alone" })
	for _, part := range []string{"gVisor", "sandboxed", "network stack of its own"} {
		if !strings.Contains(told.str("error"), part) {
			t.Errorf("the line says nothing of %q: %v", part, told)
		}
	}
	if !strings.Contains(told.str("hint"), "--mode host") {
		t.Errorf("the hint does not say what to do: %v", told)
	}
	if out, err := dial("alone", "127.0.0.1:7000"); err == nil {
		t.Errorf("mode redirect serves it after all: %s", out)
	}
	doctor, _ := exec.Command("nsenter", append(in, "doctor", "--docker-host", e.endpoint(), "--mode", "redirect")...).CombinedOutput()
	if !strings.Contains(string(doctor), "alone") || !strings.Contains(string(doctor), "gVisor") {
		t.Errorf("doctor does not tell of it:\n%s", doctor)
	}
	d.stop()

	run("--mode", "redirect", "--mode", "host")
	start("served")
	for _, name := range []string{"alone", "served"} {
		poll(t, 20*time.Second, name+" is served at the host's address", func() error {
			_, err := dial(name, hostAddr4+":7000")
			return err
		})
	}
	// One that uses the kernel's stack, of the same engine, is served as ever.
	e.docker("run", "-d", "--name", "ordinary", clientOption(t), "-l", "connect.7000="+server, image, "sleep", "1h")
	poll(t, 20*time.Second, "a container of runc's is served at localhost", func() error {
		_, err := dial("ordinary", "127.0.0.1:7000")
		return err
	})
}
