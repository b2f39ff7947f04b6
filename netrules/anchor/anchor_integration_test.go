//go:build integration

package anchor

import (
	"io"
	"net"
	"net/netip"
	"testing"

	"github.com/google/nftables"

	"github.com/ambassadord/ambassadord/internal/netlab"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/iptables"
)

// TestConnectionsSurviveAFlush has a translated connection carry bytes right after
// somebody flushed the nat table.
func TestConnectionsSurviveAFlush(t *testing.T) {
	rules, err := iptables.New(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []netrules.Family{netrules.IPv4, netrules.IPv6} {
		t.Run(f.String(), func(t *testing.T) {
			lab := netlab.New(t, netlab.Loopback6(true))
			loopback, command := netip.AddrFrom4([4]byte{127, 0, 0, 1}), "iptables"
			if f == netrules.IPv6 {
				loopback, command = netip.IPv6Loopback(), "ip6tables"
			}
			listener, err := lab.NS().ListenTCP(netip.AddrPortFrom(loopback, 61000))
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			go func() {
				for {
					conn, err := listener.Accept()
					if err != nil {
						return
					}
					go func() { defer conn.Close(); _, _ = io.Copy(conn, conn) }()
				}
			}()
			before := netlab.Save(t, lab.NS(), f)
			for range 3 { // again and again is the same as once
				if err := Set(lab.NS()); err != nil {
					t.Fatal(err)
				}
			}
			if after := netlab.Save(t, lab.NS(), f); after != before {
				t.Errorf("iptables sees the anchor:\n%s\nbefore:\n%s", after, before)
			}
			if _, err := rules.Apply(t.Context(), lab.NS(), netrules.Redirect(f, 61000, []netrules.Port{{Number: 6379}})); err != nil {
				t.Fatal(err)
			}
			conn := lab.Dial(t, netip.AddrPortFrom(loopback, 6379).String())
			echo(t, conn, "before the flush")
			lab.Run(t, "", command, "-t", "nat", "-F")
			echo(t, conn, "after the flush")
			for range 2 {
				if err := Drop(lab.NS()); err != nil {
					t.Fatal(err)
				}
			}
			lab.Do(t, func() error {
				conn, err := nftables.New()
				if err != nil {
					return err
				}
				tables, err := conn.ListTablesOfFamily(nftables.TableFamilyINet)
				if len(tables) > 0 {
					t.Errorf("%d tables are left after Drop", len(tables))
				}
				return err
			})
		})
	}
}

func echo(t *testing.T, conn net.Conn, when string) {
	t.Helper()
	if _, err := io.WriteString(conn, "x"); err != nil {
		t.Fatalf("%s: %v", when, err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Fatalf("%s: %v", when, err)
	}
}
