//go:build integration

package guard_test

import (
	"errors"
	"flag"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/netlab"
	"github.com/ambassadord/ambassadord/netrules/guard"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The addresses that clients dial, of the host's own.
var ours = []netip.Addr{netip.MustParseAddr("169.254.77.1"), netip.MustParseAddr("fd61:6d62:6173::1")}

// bridged is a host with a bridge and two containers on it.
type bridged struct {
	host, victim, attacker *netlab.Lab
}

var (
	victimAddrs   = []netip.Addr{netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8::2")}
	attackerAddrs = []netip.Addr{netip.MustParseAddr("192.0.2.3"), netip.MustParseAddr("2001:db8::3")}
)

func newBridged(t *testing.T) bridged {
	t.Helper()
	b := bridged{netlab.New(t), netlab.New(t), netlab.New(t)}
	ip := func(lab *netlab.Lab, args string) { lab.Run(t, "", "ip", strings.Fields(args)...) }
	ip(b.host, "link add br0 type bridge forward_delay 0")
	ip(b.host, "addr add 192.0.2.1/24 dev br0")
	ip(b.host, "addr add 2001:db8::1/64 dev br0 nodad")
	ip(b.host, "link set br0 up")
	for _, a := range ours {
		if mine, err := b.host.NS().Lease(a, time.Hour); err != nil || !mine {
			t.Fatal(mine, err)
		}
	}
	for i, lab := range []*netlab.Lab{b.victim, b.attacker} {
		addrs := [][]netip.Addr{victimAddrs, attackerAddrs}[i]
		netlab.Connect(t, b.host, netip.Prefix{}, lab, netip.PrefixFrom(addrs[0], 24))
		ip(lab, "addr add "+addrs[1].String()+"/64 dev eth0 nodad")
		ip(lab, "route add default via 192.0.2.1")
		ip(lab, "-6 route add default via 2001:db8::1")
		// The bridge counts as an interface of the host's, so its ends are eth1 and eth2.
		ip(b.host, "link set "+[]string{"eth1", "eth2"}[i]+" master br0")
	}
	return b
}

// bindings are those of honest containers.
func (b bridged) bindings(t *testing.T) []guard.Binding {
	t.Helper()
	wiring, err := netns.ReadWiring(b.host.NS())
	if err != nil {
		t.Fatal(err)
	}
	var all []guard.Binding
	for i, lab := range []*netlab.Lab{b.victim, b.attacker} {
		ports, err := wiring.Behind(lab.NS())
		if err != nil {
			t.Fatal(err)
		}
		for _, addr := range [][]netip.Addr{victimAddrs, attackerAddrs}[i] {
			port, ok := ports[addr]
			if !ok || !wiring.Has(port) {
				t.Fatalf("%s is behind no port; found %v", addr, ports)
			}
			all = append(all, guard.Binding{Port: port, Addr: addr})
		}
	}
	return all
}

func install(t *testing.T, b bridged) *guard.Guard {
	t.Helper()
	g, err := guard.Install(b.host.NS(), "ambassadord", ours, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Close() })
	return g
}

// serve greets whoever connects to our addresses on port 7000, until the test ends.
func serve(t *testing.T, b bridged) {
	t.Helper()
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	for _, a := range ours {
		l, err := b.host.NS().ListenTCP(netip.AddrPortFrom(a, 7000))
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = conn.Write([]byte("hello\n"))
				_ = conn.Close()
			}
		})
		t.Cleanup(func() { _ = l.Close() })
	}
}

// How long served waits.
const (
	patience = 10 * time.Second       // for what happens at once when it works
	silence  = 900 * time.Millisecond // for what must not happen: all of it is waited for
)

// served is how many of so many tries at once, from the address from, are greeted
// in time.
func served(lab *netlab.Lab, from, to netip.Addr, tries int, inTime time.Duration) int {
	var mu sync.Mutex
	var wg sync.WaitGroup
	count := 0
	for range tries {
		wg.Go(func() {
			var conn net.Conn
			err := lab.NS().Do(func() (err error) {
				d := net.Dialer{Timeout: inTime, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
				d.SetMultipathTCP(false)
				conn, err = d.Dial("tcp", netip.AddrPortFrom(to, 7000).String())
				return err
			})
			if err != nil {
				return
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(inTime))
			if n, _ := conn.Read(make([]byte, 8)); n > 0 {
				mu.Lock()
				count++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return count
}

func wantHonest(t *testing.T, b bridged) {
	t.Helper()
	// What the kernels still try for forged connections is not to hold these up.
	for _, lab := range []*netlab.Lab{b.host, b.victim, b.attacker} {
		lab.Run(t, "", "ip", "neigh", "flush", "all")
	}
	for i := range ours {
		if served(b.victim, victimAddrs[i], ours[i], 3, patience) != 3 || served(b.attacker, attackerAddrs[i], ours[i], 3, patience) != 3 {
			t.Errorf("an honest container does not get through to %s", ours[i])
		}
	}
}

// progname is the comment in which nft names the process that a table belongs to.
var progname = regexp.MustCompile(` # progname .*`)

// TestGolden holds the table as nft shows it.
func TestGolden(t *testing.T) {
	b := newBridged(t)
	before := b.host.Run(t, "", "nft", "list", "ruleset")
	g := install(t, b)
	if err := g.Bind([]guard.Binding{
		{Port: 1, Addr: victimAddrs[0]},
		{Port: 1, Addr: victimAddrs[1]},
		{Port: 1, Addr: victimAddrs[0]}, // twice is once
	}); err != nil {
		t.Fatal(err)
	}
	got := progname.ReplaceAllString(b.host.Run(t, "", "nft", "-nn", "list", "ruleset"), "")
	path := filepath.Join("testdata", "table.golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("-golden +got:\n%s", diff)
	}
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	if after := b.host.Run(t, "", "nft", "list", "ruleset"); after != before {
		t.Errorf("left behind:\n%s", after)
	}
}

// A container with NET_ADMIN takes the victim's addresses for its own; ARP, neighbour
// discovery and TCP are then the kernel's.
func TestTakenAddress(t *testing.T) {
	b := newBridged(t)
	serve(t, b)
	wantHonest(t, b)
	steal := func(inTime time.Duration) (stolen int) {
		for _, lab := range []*netlab.Lab{b.host, b.attacker} { // everybody asks anew who is where
			lab.Run(t, "", "ip", "neigh", "flush", "all")
		}
		for i := range ours {
			stolen += served(b.attacker, victimAddrs[i], ours[i], 50, inTime)
		}
		return stolen
	}
	b.attacker.Run(t, "", "ip", "addr", "add", victimAddrs[0].String()+"/24", "dev", "eth0")
	b.attacker.Run(t, "", "ip", "addr", "add", victimAddrs[1].String()+"/64", "dev", "eth0", "nodad")
	if steal(patience) == 0 {
		t.Fatal("without a guard the forgery fails too, so this test shows nothing")
	}

	g := install(t, b)
	if n := served(b.victim, victimAddrs[0], ours[0], 3, silence); n > 0 {
		t.Error("served an address that is not bound")
	}
	if err := g.Bind(b.bindings(t)); err != nil {
		t.Fatal(err)
	}
	b.host.Run(t, "", "ip", "neigh", "flush", "all")
	if n := steal(silence); n > 0 {
		t.Errorf("%d of 100 connections from a taken address were served", n)
	}
	wantHonest(t, b)

	// The victim's addresses move to the attacker: its port is theirs now.
	moved := b.bindings(t)
	port := moved[slices.IndexFunc(moved, func(b guard.Binding) bool { return b.Addr == attackerAddrs[0] })].Port
	for i := range moved {
		moved[i].Port = port
	}
	if err := g.Bind(moved); err != nil {
		t.Fatal(err)
	}
	b.host.Run(t, "", "ip", "neigh", "flush", "all")
	for i := range ours {
		if n := served(b.attacker, victimAddrs[i], ours[i], 3, patience); n != 3 {
			t.Errorf("%d of 3 connections to %s from the port that the address has moved to", n, ours[i])
		}
		if n := served(b.victim, victimAddrs[i], ours[i], 3, silence); n != 0 {
			t.Errorf("%d of 3 connections to %s from the port that it has left", n, ours[i])
		}
	}
}

// A container with NET_RAW makes every frame itself.
func TestRawPackets(t *testing.T) {
	forge := filepath.Join(t.TempDir(), "forge")
	if out, err := exec.Command("go", "build", "-o", forge, "../../e2e/internal/forge").CombinedOutput(); err != nil {
		t.Fatalf("build forge: %v: %s", err, out)
	}
	b := newBridged(t)
	serve(t, b)
	attack := func(count, wait string) string {
		return strings.TrimSpace(b.attacker.Run(t, "", forge, "-source", victimAddrs[0].String(),
			"-via", "192.0.2.1", "-n", count, "-wait", wait, "169.254.77.1:7000"))
	}
	if got := attack("50", "500ms"); strings.HasSuffix(got, "answered 0") {
		t.Fatalf("without a guard the forgery fails too (%s), so this test shows nothing", got)
	}
	g := install(t, b)
	if err := g.Bind(b.bindings(t)); err != nil {
		t.Fatal(err)
	}
	b.host.Run(t, "", "ip", "neigh", "flush", "all")
	if got := attack("1000", "1s"); got != "sent 1000 accepted 0 answered 0" {
		t.Error(got)
	}
	const mac = "02:66:6f:72:67:65" // the forger's
	if neighbours := b.host.Run(t, "", "ip", "neigh", "show", victimAddrs[0].String()); strings.Contains(neighbours, mac) {
		t.Errorf("the host believed forged ARP: %s", neighbours)
	}
	wantHonest(t, b)
}

func TestTableIsOurs(t *testing.T) {
	b := newBridged(t)
	g := install(t, b)
	if _, err := guard.Install(b.host.NS(), "ambassadord", ours, nil); !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.EPERM) {
		t.Errorf("a second guard: %v", err)
	}
	if err := b.host.NS().Do(func() error { return exec.Command("nft", "flush", "ruleset").Run() }); err != nil {
		t.Log("nft flush ruleset: ", err)
	}
	if got := b.host.Run(t, "", "nft", "list", "tables", "bridge"); !strings.Contains(got, "table bridge ambassadord") {
		t.Errorf("flushed by another: %q", got)
	}
	var many []guard.Binding
	for i := range 3000 {
		many = append(many, guard.Binding{Port: i + 1, Addr: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})},
			guard.Binding{Port: i + 1, Addr: netip.AddrFrom16([16]byte{0xfd, 14: byte(i >> 8), 15: byte(i)})})
	}
	if err := g.Bind(many); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(b.host.Run(t, "", "nft", "list", "set", "bridge", "ambassadord", "clients4"), "10.0."); got != 3000 {
		t.Errorf("%d of 3000 addresses", got)
	}
	if err := g.Bind(nil); err != nil {
		t.Fatal(err)
	}
}
