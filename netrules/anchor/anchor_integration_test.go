//go:build integration

package anchor

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/netlab"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/iptables"
	"github.com/ambassadord/ambassadord/netrules/owned"
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
			for i := range 3 { // again and again is the same as once
				if changed, err := Set(lab.NS()); err != nil || changed != (i == 0) {
					t.Fatalf("set for the time %d: changed %v, %v", i+1, changed, err)
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

// TestSetAgain: the anchor is put back whatever somebody has done to it, and what is as it
// should be is let be: each transaction is one that others are told of.
func TestSetAgain(t *testing.T) {
	lab := netlab.New(t)
	for _, tt := range []struct {
		harm    string
		changed bool
	}{
		{"", true},
		{"", false},
		{"flush ruleset", true},
		{"delete table inet ambassadord", true},
		{"flush table inet ambassadord", true},
		{"flush chain inet ambassadord keep-tracking", true},
		{"flush chain inet ambassadord keep-tracking; add rule inet ambassadord keep-tracking accept", true},
		{"add rule inet ambassadord keep-tracking counter", false},
		{"add chain inet ambassadord more; add rule inet ambassadord more jump keep-tracking", false},
		{"delete table inet ambassadord; add table inet ambassadord; add chain inet ambassadord keep-tracking { type filter hook input priority 0; }", true},
		{"add table ip others; add chain ip others forward", false},
	} {
		if tt.harm != "" {
			lab.Run(t, "", "nft", tt.harm)
		}
		before := generation(t, lab)
		if changed, err := Set(lab.NS()); err != nil || changed != tt.changed {
			t.Errorf("after %q: changed %v, %v; want %v", tt.harm, changed, err, tt.changed)
		}
		if after := generation(t, lab); (after != before) != tt.changed {
			t.Errorf("after %q: generation %d, and then %d", tt.harm, before, after)
		}
		if text := lab.Run(t, "", "nft", "--debug=netlink", "list", "ruleset"); !strings.Contains(text, "ct load state") {
			t.Errorf("after %q no rule asks for connection tracking:\n%s", tt.harm, text)
		}
	}
	// Many rules in our chain are not read.
	var many strings.Builder
	for range 20_000 {
		many.WriteString("add rule inet ambassadord keep-tracking accept\n")
	}
	lab.Run(t, many.String(), "nft", "-f", "-")
	began := time.Now()
	if _, err := Set(lab.NS()); err != nil || time.Since(began) > time.Second/2 {
		t.Errorf("with many rules in our chain: %v after %s", err, time.Since(began))
	}
}

func generation(t *testing.T, lab *netlab.Lab) uint64 {
	t.Helper()
	mark, err := iptables.Generation(lab.NS())
	if err != nil {
		t.Fatal(err)
	}
	return mark
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

// TestDropLeavesWhatIsSomebodyElses: a table by our name that belongs to a process is none of
// ours, and says so.
func TestDropLeavesWhatIsSomebodyElses(t *testing.T) {
	lab := netlab.New(t)
	theirs, err := owned.Make(lab.NS(), nftables.TableFamilyINet, Table, 0)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		t.Skip("this kernel has no tables that belong to a process:", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := Drop(lab.NS()); !errors.Is(err, ErrForeign) || hint.Of(err) == "" {
		t.Errorf("Drop: %v (hint %q); want that it is another's, and what to do", err, hint.Of(err))
	}
	if err := theirs.Close(); err != nil {
		t.Fatal(err)
	}
	if err := Drop(lab.NS()); err != nil {
		t.Errorf("Drop of none: %v", err)
	}
}
