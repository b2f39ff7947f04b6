//go:build integration

package netns_test

import (
	"maps"
	"net"
	"net/netip"
	"testing"

	"github.com/ambassadord/ambassadord/internal/netlab"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

func TestListeningPorts(t *testing.T) {
	lab, other := netlab.New(t), netlab.New(t)
	for _, address := range []string{"127.0.0.1:6379", "[::1]:61000", "0.0.0.0:65535", "[::]:80"} {
		l, err := lab.NS().ListenTCP(netip.MustParseAddrPort(address))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
	}
	lab.Dial(t, "127.0.0.1:6379") // its own port is none to listen on
	got, err := lab.NS().ListeningPorts()
	if want := (map[uint16]bool{6379: true, 61000: true, 65535: true, 80: true}); err != nil || !maps.Equal(got, want) {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
	if got, err := other.NS().ListeningPorts(); err != nil || len(got) > 0 {
		t.Errorf("another namespace: %v, %v", got, err)
	}
}

func TestAccepted(t *testing.T) {
	lab := netlab.New(t)
	addresses := []string{"127.0.0.1:6379", "[::1]:6379", "127.0.0.1:6380", "127.0.0.2:6379"}
	want := map[string]map[netip.AddrPort]bool{}
	for _, address := range addresses {
		l, err := lab.NS().ListenTCP(netip.MustParseAddrPort(address))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		want[address] = map[netip.AddrPort]bool{}
		for range 2 { // which nobody calls Accept for
			conn := lab.Dial(t, address)
			want[address][netip.MustParseAddrPort(conn.LocalAddr().String())] = true
		}
	}
	for _, address := range addresses {
		sources, err := lab.NS().Accepted(netip.MustParseAddrPort(address))
		got := map[netip.AddrPort]bool{}
		for _, source := range sources {
			got[source] = true
		}
		if err != nil || len(sources) != 2 || !maps.Equal(got, want[address]) {
			t.Errorf("%s: accepted %v, %v; want %v", address, sources, err, want[address])
		}
	}
}

// TestEachSocket: listening, connected and UDP sockets, each in its protocol's list, until the function
// has enough; what failed is counted.
func TestEachSocket(t *testing.T) {
	lab := netlab.New(t)
	l, err := lab.NS().ListenTCP(netip.MustParseAddrPort("127.0.0.1:6379"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	lab.Dial(t, "127.0.0.1:6379")
	var udp net.Conn
	if err := lab.NS().Do(func() (err error) {
		udp, err = net.Dial("udp4", "127.0.0.1:8125")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	if _, err := udp.Write([]byte("nobody hears this")); err != nil {
		t.Fatal(err)
	}
	listens, connected := 0, 0
	if err := lab.NS().EachSocket("tcp", func(s netns.Socket) bool {
		if s.Listens && s.Local == netip.MustParseAddrPort("127.0.0.1:6379") && s.Remote.Port() == 0 {
			listens++
		}
		if s.Remote == netip.MustParseAddrPort("127.0.0.1:6379") && !s.Listens {
			connected++
		}
		return true
	}); err != nil || listens != 1 || connected != 1 {
		t.Errorf("%d listen, %d are connected (%v); want one each", listens, connected, err)
	}
	var all []netns.Socket
	if err := lab.NS().EachSocket("udp", func(s netns.Socket) bool { all = append(all, s); return true }); err != nil ||
		len(all) != 1 || all[0].Remote != netip.MustParseAddrPort("127.0.0.1:8125") || all[0].Listens {
		t.Errorf("UDP: %+v, %v; want one to port 8125", all, err)
	}
	calls := 0
	if err := lab.NS().EachSocket("tcp", func(netns.Socket) bool { calls++; return false }); err != nil || calls != 1 {
		t.Errorf("%d calls after it had enough (%v)", calls, err)
	}
	counters, err := lab.NS().Counters("Udp")
	if err != nil || counters["NoPorts"] != 1 {
		t.Errorf("NoPorts is %d (%v); want 1", counters["NoPorts"], err)
	}
}
