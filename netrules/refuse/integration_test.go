//go:build integration

package refuse_test

import (
	"errors"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/ambassadord/ambassadord/internal/netlab"
	"github.com/ambassadord/ambassadord/netrules/refuse"
)

// TestPorts refuses ports at which somebody listens, for both families, and no others.
func TestPorts(t *testing.T) {
	lab := netlab.New(t)
	for _, address := range []string{"127.0.0.1:5432", "[::1]:5432", "127.0.0.1:6379", "127.0.0.11:5432"} {
		l, err := lab.NS().ListenTCP(netip.MustParseAddrPort(address))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
	}
	dial := func(address string) error {
		return lab.NS().Do(func() error {
			conn, err := net.Dial("tcp", address)
			if err == nil {
				conn.Close()
			}
			return err
		})
	}
	want := func(when string, refused bool, addresses ...string) {
		t.Helper()
		for _, address := range addresses {
			if err := dial(address); errors.Is(err, syscall.ECONNREFUSED) != refused || !refused && err != nil {
				t.Errorf("%s, %s: %v; want refused: %t", when, address, err, refused)
			}
		}
	}
	live := lab.Dial(t, "127.0.0.1:5432")
	p, err := refuse.Open(lab.NS())
	if err != nil {
		t.Fatal(err)
	}
	set := func(ports ...uint16) {
		t.Helper()
		if err := p.Set(ports); err != nil {
			t.Fatal(err)
		}
	}
	want("empty", false, "127.0.0.1:5432", "[::1]:5432", "127.0.0.1:6379")
	set(5432, 1)
	want("set", true, "127.0.0.1:5432", "[::1]:5432")
	want("set", false, "127.0.0.1:6379", "127.0.0.11:5432")
	if _, err := live.Write([]byte("goes on")); err != nil {
		t.Errorf("a connection of before: %v", err)
	}
	if err := lab.NS().Do(func() error { return exec.Command("nft", "flush", "ruleset").Run() }); err != nil {
		t.Fatal(err)
	}
	want("flushed by others", true, "127.0.0.1:5432")
	set(6379)
	want("replaced", false, "127.0.0.1:5432", "[::1]:5432")
	want("replaced", true, "127.0.0.1:6379")
	set(6379)
	set()
	want("emptied", false, "127.0.0.1:5432", "127.0.0.1:6379")
	set(5432)
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	want("closed", false, "127.0.0.1:5432", "[::1]:5432")
	var tables []byte
	err = lab.NS().Do(func() (err error) { tables, err = exec.Command("nft", "list", "tables").Output(); return err })
	if err != nil || strings.Contains(string(tables), refuse.Name) {
		t.Errorf("left are %s, %v", tables, err)
	}
}
