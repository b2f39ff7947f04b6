// Package netlab makes network namespaces for tests: hosts of their own, with
// addresses and veth pairs between them, on this machine and without a name, a mount
// or a process. It needs root.
//
//	lab := netlab.New(t)
//	listener, err := lab.NS().ListenTCP(addr) // inside
//	conn := lab.Dial(t, "127.0.0.1:6379")     // inside as well
//
// A lab goes when its test ends and the last socket made in it is closed.
package netlab

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// patience bounds what a test waits for in the kernel.
const patience = 5 * time.Second

// Lab is a network namespace of a test's own, with lo up.
type Lab struct {
	ns *netns.Namespace
}

// Option changes how New makes a lab.
type Option func(*labOptions)

type labOptions struct{ loopback6 bool }

// Loopback6 says whether the lab has IPv6 on lo, and so ::1. It does by default.
func Loopback6(on bool) Option { return func(o *labOptions) { o.loopback6 = on } }

// New makes a lab that is let go when the test ends.
func New(t testing.TB, opts ...Option) *Lab {
	t.Helper()
	o := labOptions{loopback6: true}
	for _, opt := range opts {
		opt(&o)
	}
	ns, err := netns.New()
	if err != nil {
		t.Fatalf("netlab: make network namespace (are we root?): %v", err)
	}
	l := &Lab{ns: ns}
	t.Cleanup(func() { _ = l.ns.Close() })

	l.Do(t, func() error {
		off := "1"
		if o.loopback6 {
			off = "0"
		}
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/lo/disable_ipv6", []byte(off), 0); err != nil {
			return err
		}
		return upWith("lo", netip.Prefix{})
	})
	return l
}

// NS returns the lab's namespace. It is closed when the test ends.
func (l *Lab) NS() *netns.Namespace { return l.ns }

// Do runs fn inside the lab and fails the test on an error.
func (l *Lab) Do(t testing.TB, fn func() error) {
	t.Helper()
	if err := l.ns.Do(fn); err != nil {
		t.Fatalf("netlab: %v", err)
	}
}

// Dial opens a TCP connection from inside the lab and closes it with the test.
// Reading and writing it fails after a few seconds, so that no test hangs.
func (l *Lab) Dial(t testing.TB, address string) *net.TCPConn {
	t.Helper()
	conn, err := l.TryDial(address)
	if err != nil {
		t.Fatalf("netlab: %v", err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatalf("netlab: %v", err)
	}
	return conn
}

// TryDial opens a TCP connection from inside the lab. The address holds an IP
// address, not a name.
func (l *Lab) TryDial(address string) (*net.TCPConn, error) {
	addr, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	var conn net.Conn
	err = l.ns.Do(func() (err error) {
		d := net.Dialer{Timeout: patience}
		d.SetMultipathTCP(false)
		// With an address instead of a name, one dial is one socket call on this
		// thread; several addresses would be raced in goroutines, outside.
		conn, err = d.Dial("tcp", addr.String())
		return err
	})
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// Run runs a command inside the lab with the given standard input, fails the test
// if the command does, and returns its standard output.
func (l *Lab) Run(t testing.TB, stdin, name string, args ...string) string {
	t.Helper()
	return run(t, l.ns, stdin, name, args...)
}

// ForgetConnections has the kernel forget the connections that it tracks in the lab.
func (l *Lab) ForgetConnections(t testing.TB) {
	t.Helper()
	l.Do(t, func() error { return netlink.ConntrackTableFlush(netlink.ConntrackTable) })
}

// Connect lays a veth pair between two labs: the next free ethN in each, up, with the
// given address and prefix length.
func Connect(t testing.TB, a *Lab, aAddr netip.Prefix, b *Lab, bAddr netip.Prefix) {
	t.Helper()
	var aName, bName string
	a.Do(t, func() (err error) { aName, err = freeName(); return err })
	b.Do(t, func() (err error) { bName, err = freeName(); return err })
	err := b.ns.WithFD(func(fd int) error {
		return a.ns.Do(func() error {
			return netlink.LinkAdd(&netlink.Veth{
				LinkAttrs:     netlink.LinkAttrs{Name: aName},
				PeerName:      bName,
				PeerNamespace: netlink.NsFd(fd),
			})
		})
	})
	if err != nil {
		t.Fatalf("netlab: connect labs: %v", err)
	}
	a.Do(t, func() error { return upWith(aName, aAddr) })
	b.Do(t, func() error { return upWith(bName, bAddr) })
}

// freeName counts interfaces; labs only ever gain some.
func freeName() (string, error) {
	links, err := netlink.LinkList()
	return fmt.Sprintf("eth%d", len(links)-1), err
}

// upWith brings an interface up, with addr if there is one.
func upWith(name string, addr netip.Prefix) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("interface %s: %w", name, err)
	}
	if addr.IsValid() {
		ipnet := &net.IPNet{
			IP:   addr.Addr().AsSlice(),
			Mask: net.CIDRMask(addr.Bits(), addr.Addr().BitLen()),
		}
		a := &netlink.Addr{IPNet: ipnet}
		if addr.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD // usable at once
		}
		if err := netlink.AddrAdd(link, a); err != nil {
			return fmt.Errorf("add %s to %s: %w", addr, name, err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return nil
}

var counters = regexp.MustCompile(`(?m)\[\d+:\d+\]$`)

// Save returns what iptables-save or ip6tables-save prints inside the namespace,
// without comment lines and with all counters at zero: two states of the rules
// are equal if their texts are.
func Save(t testing.TB, ns *netns.Namespace, f netrules.Family) string {
	t.Helper()
	return SaveWith(t, ns, f.Command()+"-save")
}

// SaveWith is Save by a command of another name, such as iptables-legacy-save.
func SaveWith(t testing.TB, ns *netns.Namespace, command string) string {
	t.Helper()
	var b strings.Builder
	for line := range strings.Lines(run(t, ns, "", command)) {
		if !strings.HasPrefix(line, "#") {
			b.WriteString(line)
		}
	}
	return counters.ReplaceAllString(b.String(), "[0:0]")
}

// RunIn runs a program in a namespace that is no lab, and returns what it prints.
func RunIn(t testing.TB, ns *netns.Namespace, name string, args ...string) string {
	t.Helper()
	return run(t, ns, "", name, args...)
}

func run(t testing.TB, ns *netns.Namespace, stdin, name string, args ...string) string {
	t.Helper()
	var out []byte
	err := ns.Do(func() error {
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Stdin = strings.NewReader(stdin)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		var err error
		if out, err = cmd.Output(); err != nil {
			return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, stderr.String())
		}
		return nil
	})
	if err != nil {
		t.Fatalf("netlab: %v", err)
	}
	return string(out)
}
