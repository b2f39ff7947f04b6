package netlab

import (
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// insideVariable names the test that a process inside is for.
const insideVariable = "NETLAB_INSIDE"

// Inside runs the calling test once more, in a process whose network namespace is its own,
// with lo up, for what is to be tested on every thread or changes settings of the namespace.
// It reports whether this is that process; in the other one the test is over when it returns,
// and has failed if it failed inside.
func Inside(t *testing.T) bool {
	t.Helper()
	if IsInside(t) {
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err != nil {
			t.Fatalf("netlab: set lo up: %v", err)
		}
		return true
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.count=1")
	cmd.Env = append(os.Environ(), insideVariable+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("in a network namespace of its own: %v\n%s", err, out)
	}
	return false
}

// IsInside reports whether this is the process that Inside has started for the test.
func IsInside(t *testing.T) bool { return os.Getenv(insideVariable) == t.Name() }

// LocalPorts sets from which ports the kernel chooses those of connections (ip(7),
// ip_local_port_range), in the network namespace of this process: one that is Inside.
func LocalPorts(t testing.TB, first, last string) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte(first+" "+last), 0); err != nil {
		t.Fatalf("netlab: %v", err)
	}
}
