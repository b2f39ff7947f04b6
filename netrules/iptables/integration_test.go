//go:build integration

package iptables

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/netlab"
	"github.com/ambassadord/ambassadord/netrules"
)

var families = []netrules.Family{netrules.IPv4, netrules.IPv6}

func mustApply(t *testing.T, r *Rules, lab *netlab.Lab, c netrules.Chain) []netrules.Change {
	t.Helper()
	changes, err := r.Apply(t.Context(), lab.NS(), c)
	if err != nil {
		t.Fatalf("%v (hint: %s)", err, hint.Of(err))
	}
	return changes
}

func mustRemove(t *testing.T, r *Rules, lab *netlab.Lab, f netrules.Family) Removed {
	t.Helper()
	removed, err := r.Remove(t.Context(), lab.NS(), f)
	if err != nil {
		t.Fatalf("%v (hint: %s)", err, hint.Of(err))
	}
	return removed
}

func mustDrop(t *testing.T, r *Rules, lab *netlab.Lab, f netrules.Family) {
	t.Helper()
	if err := r.DropTable(t.Context(), lab.NS(), f); err != nil {
		t.Fatal(err)
	}
}

func TestRedirectReachesTheListener(t *testing.T) {
	eachVariant(t, func(t *testing.T, r *Rules) {
		lab := netlab.New(t)
		for _, f := range families {
			serve(t, lab, loopback(f, listenPort), "listener")
			serve(t, lab, loopback(f, 7000), "undeclared")
			mustApply(t, r, lab, redirect(f, 6379, 5432))
			for _, port := range []int{6379, 5432} {
				line, conn, rd := greeted(t, lab, loopback(f, port))
				if want := fmt.Sprintf("listener %d\n", port); line != want {
					t.Errorf("%s port %d: %q, want %q", f, port, line, want)
				}
				echo(t, conn, rd, "hello")
			}
			if line, _, _ := greeted(t, lab, loopback(f, 7000)); !strings.HasPrefix(line, "undeclared") {
				t.Errorf("%s: a port nobody declared: %q", f, line)
			}
		}
		if line, _, _ := greeted(t, lab, "127.1.2.3:6379"); line != "listener 6379\n" {
			t.Errorf("another loopback address: %q", line)
		}
	})
}

func TestLinkReachesTheListener(t *testing.T) {
	eachVariant(t, func(t *testing.T, r *Rules) {
		us, client := netlab.New(t), netlab.New(t)
		netlab.Connect(t, us, netip.MustParsePrefix("192.0.2.1/24"), client, netip.MustParsePrefix("192.0.2.2/24"))
		netlab.Connect(t, us, netip.MustParsePrefix("2001:db8::1/64"), client, netip.MustParsePrefix("2001:db8::2/64"))
		for f, host := range map[netrules.Family]string{netrules.IPv4: "192.0.2.1", netrules.IPv6: "[2001:db8::1]"} {
			serve(t, us, fmt.Sprintf("%s:%d", host, listenPort), "link")
			serve(t, us, loopback(f, 7000), "own")
			mustApply(t, r, us, netrules.Link(f, listenPort))
			if changes := mustApply(t, r, us, netrules.Link(f, listenPort)); len(changes) > 0 {
				t.Errorf("%s: applied again: %v", f, changes)
			}
			if line, _, _ := greeted(t, client, host+":6379"); line != "link 6379\n" {
				t.Errorf("%s: %q", f, line)
			}
			if line, _, _ := greeted(t, us, loopback(f, 7000)); !strings.HasPrefix(line, "own") {
				t.Errorf("%s: our own traffic over lo: %q", f, line)
			}
		}
	})
}

// Docker's DNS server is at a loopback address, and its port may be declared.
func TestDockerDNSIsNotTouched(t *testing.T) {
	eachVariant(t, func(t *testing.T, r *Rules) {
		lab := netlab.New(t)
		lab.Run(t, dockerRestore, program(r, netrules.IPv4)+"-restore")
		serve(t, lab, "127.0.0.11:40053", "dns")
		serve(t, lab, loopback(netrules.IPv4, listenPort), "listener")
		mustApply(t, r, lab, redirect(netrules.IPv4, 53))
		if line, _, _ := greeted(t, lab, "127.0.0.11:53"); !strings.HasPrefix(line, "dns") {
			t.Errorf("Docker's DNS: %q", line)
		}
		if line, _, _ := greeted(t, lab, "127.0.0.1:53"); line != "listener 53\n" {
			t.Errorf("the declared port: %q", line)
		}
	})
}

func TestApplyIsIdempotentAndRepairs(t *testing.T) {
	eachVariant(t, func(t *testing.T, r *Rules) {
		lab := netlab.New(t)
		for _, f := range families {
			chain := redirect(f, 6379, 5432)
			if planned, err := r.Plan(t.Context(), lab.NS(), chain); err != nil || len(planned) == 0 {
				t.Fatalf("plan %v, %v", planned, err)
			}
			mustApply(t, r, lab, chain)
			want := save(t, r, lab, f)
			for range 2 {
				if changes := mustApply(t, r, lab, chain); len(changes) > 0 {
					t.Errorf("%s: nothing to do, yet: %v", f, changes)
				}
			}
			prog := program(r, f)
			jump := []string{"OUTPUT", "-m", "comment", "--comment", "ambassadord", "-j", "AMBASSADORD"}
			for name, drift := range map[string][][]string{
				"jump twice more":  {append([]string{"-I"}, jump...), append([]string{"-A"}, jump...)},
				"jump gone":        {append([]string{"-D"}, jump...)},
				"jump by hand":     {{"-A", "OUTPUT", "-j", "AMBASSADORD"}, {"-A", "PREROUTING", "-g", "AMBASSADORD"}},
				"one rule gone":    {{"-D", "AMBASSADORD", "2"}},
				"a rule too many":  {{"-I", "AMBASSADORD", "2", "-j", "RETURN"}},
				"all but the mark": {{"-D", "AMBASSADORD", "2"}, {"-D", "AMBASSADORD", "2"}},
			} {
				for _, args := range drift {
					lab.Run(t, "", prog, append([]string{"-t", "nat"}, args...)...)
				}
				if changes := mustApply(t, r, lab, chain); len(changes) == 0 {
					t.Errorf("%s %s: no change", f, name)
				}
				if diff := cmp.Diff(want, save(t, r, lab, f)); diff != "" {
					t.Errorf("%s %s: -want +got:\n%s", f, name, diff)
				}
			}
			// Fewer ports: the chain follows.
			mustApply(t, r, lab, redirect(f, 6379))
			if got := save(t, r, lab, f); strings.Contains(got, "5432") || !strings.Contains(got, "6379") {
				t.Errorf("%s: after a port went:\n%s", f, got)
			}
		}
	})
}

const dockerRestore = `*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:DOCKER_OUTPUT - [0:0]
:DOCKER_POSTROUTING - [0:0]
-A OUTPUT -d 127.0.0.11/32 -j DOCKER_OUTPUT
-A POSTROUTING -d 127.0.0.11/32 -j DOCKER_POSTROUTING
-A DOCKER_OUTPUT -d 127.0.0.11/32 -p tcp -m tcp --dport 53 -j DNAT --to-destination 127.0.0.11:40053
-A DOCKER_OUTPUT -d 127.0.0.11/32 -p udp -m udp --dport 53 -j DNAT --to-destination 127.0.0.11:40054
-A DOCKER_POSTROUTING -s 127.0.0.11/32 -p tcp -m tcp --sport 40053 -j SNAT --to-source :53
-A DOCKER_POSTROUTING -s 127.0.0.11/32 -p udp -m udp --sport 40054 -j SNAT --to-source :53
COMMIT
`

const foreign = `*nat
:MINE - [0:0]
-A PREROUTING -m comment --comment "it's \"mine\", not -j AMBASSADORD" -j MINE
-A OUTPUT -p tcp -m tcp --dport 9 -m comment --comment ambassadord -j RETURN
-A MINE -p tcp -m tcp --dport 8080 -j REDIRECT --to-ports 80
COMMIT
*filter
:OTHER - [0:0]
-A INPUT -j OTHER
-A OTHER -p icmp -j ACCEPT
COMMIT
`

func TestRemoveRestoresExactly(t *testing.T) {
	eachVariant(t, func(t *testing.T, r *Rules) {
		for name, before := range map[string]string{
			"empty":       "",
			"empty table": "*nat\nCOMMIT\n",
			"docker":      dockerRestore,
			"foreign":     foreign,
			"filter only": "*filter\n-A INPUT -j ACCEPT\nCOMMIT\n",
		} {
			t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
				for _, f := range families {
					lab := netlab.New(t)
					if before != "" {
						text := before
						if f == netrules.IPv6 {
							text = strings.NewReplacer("127.0.0.11/32", "fd00::b/128", "127.0.0.11:", "[fd00::b]:",
								"icmp", "ipv6-icmp").Replace(before)
						}
						lab.Run(t, text, program(r, f)+"-restore")
					}
					hadTable := strings.Contains(before, "*nat")
					want := save(t, r, lab, f)
					state, err := r.Read(t.Context(), lab.NS(), f)
					if err != nil {
						t.Fatal(err)
					}
					if hadTable && name != "empty table" && !state.Exists || !hadTable && state.Exists {
						t.Errorf("%s: table exists: %v", f, state.Exists)
					}
					if got := save(t, r, lab, f); got != want {
						t.Errorf("%s: reading changed\n%s\nto\n%s", f, want, got)
					}
					exists := state.Exists
					mustApply(t, r, lab, redirect(f, 6379))
					mustApply(t, r, lab, redirect(f, 6379, 5432))
					removed := mustRemove(t, r, lab, f)
					if diff := cmp.Diff(Removed{Chains: []string{"AMBASSADORD"}, MadeTable: !exists}, removed); diff != "" {
						t.Errorf("%s: -want +got:\n%s", f, diff)
					}
					if removed.MadeTable {
						mustDrop(t, r, lab, f)
						if r.Variant() == Legacy {
							// The kernel keeps it; it must be as empty as can be.
							want = strings.Join([]string{"*nat", ":PREROUTING ACCEPT [0:0]", ":INPUT ACCEPT [0:0]",
								":OUTPUT ACCEPT [0:0]", ":POSTROUTING ACCEPT [0:0]", "COMMIT\n"}, "\n") + want
						}
					}
					if diff := cmp.Diff(want, save(t, r, lab, f)); diff != "" {
						t.Errorf("%s: -before +after:\n%s", f, diff)
					}
					if again := mustRemove(t, r, lab, f); again.Chains != nil || again.MadeTable {
						t.Errorf("%s: removed twice: %+v", f, again)
					}
				}
			})
		}
	})
}

// ourEmptyChain is a built-in chain that we have made, as nft lists it.
var ourEmptyChain = regexp.MustCompile(`\n?\tchain OUTPUT \{\n\t\tcomment "ambassadord: this chain was made by us"\n[^\n]*\n\t\}\n`)

func TestDropTableLeavesWhatIsNotEmpty(t *testing.T) {
	r, err := New(t.Context(), Prefer(NFT))
	if err != nil {
		t.Fatal(err)
	}
	for name, foreign := range map[string]string{
		"rule":   "add rule ip nat OUTPUT tcp dport 1 accept",
		"chain":  "add chain ip nat MINE",
		"policy": "add chain ip nat OUTPUT { policy drop; }",
		"set":    "add set ip nat mine { type ipv4_addr; }",
	} {
		t.Run(name, func(t *testing.T) {
			lab := netlab.New(t)
			mustApply(t, r, lab, redirect(netrules.IPv4, 6379))
			mustRemove(t, r, lab, netrules.IPv4)
			lab.Run(t, foreign+"\n", "nft", "-f", "-")
			want := lab.Run(t, "", "nft", "list", "ruleset")
			mustDrop(t, r, lab, netrules.IPv4)
			if name == "chain" || name == "set" { // nothing of theirs is in our chain, which goes
				want = ourEmptyChain.ReplaceAllString(want, "")
			}
			if diff := cmp.Diff(want, lab.Run(t, "", "nft", "list", "ruleset")); diff != "" {
				t.Errorf("-before +after:\n%s", diff)
			}
		})
	}
	t.Run("added after the look", func(t *testing.T) {
		lab := netlab.New(t)
		lab.Run(t, "", "iptables-nft", "-t", "nat", "-A", "OUTPUT", "-j", "ACCEPT")
		want := netlab.SaveWith(t, lab.NS(), "iptables-nft-save")
		err := lab.NS().Do(func() error { return r.v4.byNetlink().deleteEmpty([]string{"OUTPUT"}) })
		if !errors.Is(err, unix.EBUSY) {
			t.Errorf("deleting a chain in use: %v", err)
		}
		if diff := cmp.Diff(want, netlab.SaveWith(t, lab.NS(), "iptables-nft-save")); diff != "" {
			t.Errorf("-before +after:\n%s", diff)
		}
	})
}

func TestConnectionsSurviveUnhook(t *testing.T) {
	eachVariant(t, func(t *testing.T, r *Rules) {
		for _, f := range families {
			lab := netlab.New(t)
			before := save(t, r, lab, f)
			serve(t, lab, loopback(f, listenPort), "listener")
			mustApply(t, r, lab, redirect(f, 6379))
			_, conn, rd := greeted(t, lab, loopback(f, 6379))
			echo(t, conn, rd, "before")
			for want := range 2 { // once hooked, once no more
				changes, err := r.Unhook(t.Context(), lab.NS(), f)
				if err != nil || len(changes) != 1-want {
					t.Errorf("%s: unhook: %v, %v", f, changes, err)
				}
				echo(t, conn, rd, "after")
			}
			if _, err := lab.TryDial(loopback(f, 6379)); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("%s: a new connection after the jump went: %v", f, err)
			}
			// Back again, as after a drain that was called off.
			if changes := mustApply(t, r, lab, redirect(f, 6379)); len(changes) != 1 {
				t.Errorf("%s: hooked again: %v", f, changes)
			}
			echo(t, conn, rd, "again")
			if _, err := r.Unhook(t.Context(), lab.NS(), f); err != nil {
				t.Fatal(err)
			}
			echo(t, conn, rd, "last")
			if err := conn.Close(); err != nil {
				t.Error(err)
			}
			if removed := mustRemove(t, r, lab, f); !removed.MadeTable {
				t.Errorf("%s: the mark is missing", f)
			}
			mustDrop(t, r, lab, f)
			if after := save(t, r, lab, f); r.Variant() == NFT && after != before {
				t.Errorf("%s: before\n%s\nafter\n%s", f, before, after)
			}
		}
	})
}

// Where others' rules keep the kernel translating, Remove breaks nothing either.
func TestConnectionsSurviveRemoveBesideDocker(t *testing.T) {
	eachVariant(t, func(t *testing.T, r *Rules) {
		lab := netlab.New(t)
		lab.Run(t, dockerRestore, program(r, netrules.IPv4)+"-restore")
		serve(t, lab, loopback(netrules.IPv4, listenPort), "listener")
		mustApply(t, r, lab, redirect(netrules.IPv4, 6379))
		_, conn, rd := greeted(t, lab, loopback(netrules.IPv4, 6379))
		echo(t, conn, rd, "before")
		mustRemove(t, r, lab, netrules.IPv4)
		echo(t, conn, rd, "after")
		if _, err := lab.TryDial(loopback(netrules.IPv4, 6379)); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("a new connection after the rules went: %v", err)
		}
	})
}

func TestNamespacesConcurrently(t *testing.T) {
	eachVariant(t, func(t *testing.T, r *Rules) {
		var wg sync.WaitGroup
		for i := range 20 {
			lab, port := netlab.New(t), uint16(2000+i)
			wg.Go(func() {
				for _, f := range families {
					if _, err := r.Apply(t.Context(), lab.NS(), redirect(f, port)); err != nil {
						t.Error(err)
						return
					}
					state, err := r.Read(t.Context(), lab.NS(), f)
					if err != nil {
						t.Error(err)
						return
					}
					if changes := netrules.Plan(redirect(f, port), state); len(changes) > 0 {
						t.Errorf("namespace %d %s got another's rules: %v", i, f, changes)
					}
					if removed, err := r.Remove(t.Context(), lab.NS(), f); err != nil || !removed.MadeTable {
						t.Errorf("%+v, %v", removed, err)
					}
					if err := r.DropTable(t.Context(), lab.NS(), f); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
	})
}

// lockWait sets how long to wait for the iptables lock, in whole seconds of at least one.
func lockWait(d time.Duration) Option { return func(s *settings) { s.lockWait = d } }

// Another program that never lets go of the lock must not hold us up for good.
func TestLockWaitIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "xtables.lock")
	t.Setenv("XTABLES_LOCKFILE", path) // not the machine's own
	lock, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lock.Close() }()
	r, err := New(t.Context(), Prefer(Legacy), lockWait(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	lab := netlab.New(t)
	mustApply(t, r, lab, redirect(netrules.IPv4, 6379))
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	for name, call := range map[string]func(context.Context) error{
		"apply": func(ctx context.Context) error {
			_, err := r.Apply(ctx, lab.NS(), redirect(netrules.IPv4, 5432))
			return err
		},
		"remove": func(ctx context.Context) error {
			_, err := r.Remove(ctx, lab.NS(), netrules.IPv4)
			return err
		},
	} {
		start := time.Now()
		err := call(t.Context())
		if took := time.Since(start); err == nil || took > 5*time.Second {
			t.Errorf("%s: %v after %v", name, err, took)
		}
		if !strings.Contains(hint.Of(err), "lock") {
			t.Errorf("%s: %v (hint: %q)", name, err, hint.Of(err))
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if err := call(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s with a deadline: %v", name, err)
		}
		cancel()
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	mustRemove(t, r, lab, netrules.IPv4)
}
