//go:build integration

package filter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/ambassadord/ambassadord/internal/netlab"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/filter/filtertest"
	"github.com/ambassadord/ambassadord/netrules/iptables"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const listenPort = 61000

// ways are all ways to set rules.
func ways(t *testing.T) map[string]Rules {
	t.Helper()
	all := map[string]Rules{}
	for _, v := range []iptables.Variant{iptables.NFT, iptables.Legacy} {
		rules, err := iptables.New(t.Context(), iptables.Prefer(v))
		if err != nil {
			t.Fatal(err)
		}
		all["iptables "+string(v)] = ByPrograms(rules)
	}
	var err error
	if all["netlink"], err = Open(t.Context(), NFT); err != nil {
		t.Fatal(err)
	}
	return all
}

func redirect(ports ...uint16) []netrules.Chain {
	var declared []netrules.Port
	for _, p := range ports {
		declared = append(declared, netrules.Port{Number: p, Comment: fmt.Sprintf("web (3f2a5c0e9b1d) label connect.%d", p)})
	}
	return []netrules.Chain{netrules.Redirect(netrules.IPv4, listenPort, declared), netrules.Redirect(netrules.IPv6, listenPort, declared)}
}

// scene is a namespace with our socket in it, which echoes.
type scene struct {
	*netlab.Lab
	ctx context.Context
}

func newScene(t *testing.T) *scene {
	t.Helper()
	lab := netlab.New(t)
	for _, addr := range []string{"127.0.0.1", "::1"} {
		listener, err := lab.NS().ListenTCP(netip.AddrPortFrom(netip.MustParseAddr(addr), listenPort))
		if err != nil {
			t.Fatal(err)
		}
		var serving sync.WaitGroup
		ended := make(chan struct{})
		serving.Go(func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				serving.Go(func() { _, _ = io.Copy(conn, conn) })
				// Without rules its client's end does not get here.
				serving.Go(func() { <-ended; conn.Close() })
			}
		})
		t.Cleanup(func() { listener.Close(); close(ended); serving.Wait() })
	}
	return &scene{lab, t.Context()}
}

func (s *scene) apply(t *testing.T, rules Rules, chains ...netrules.Chain) Applied {
	t.Helper()
	applied, err := rules.Apply(s.ctx, s.NS(), chains...)
	if err != nil {
		t.Fatal(err)
	}
	return applied
}

// dial dials a declared port by both families.
func (s *scene) dial(t *testing.T, port int) []net.Conn {
	t.Helper()
	return []net.Conn{s.Dial(t, fmt.Sprintf("127.0.0.1:%d", port)), s.Dial(t, fmt.Sprintf("[::1]:%d", port))}
}

func echo(t *testing.T, when string, conns []net.Conn) {
	t.Helper()
	for _, conn := range conns {
		_, err := io.WriteString(conn, "x")
		if err == nil {
			_, err = io.ReadFull(conn, make([]byte, 1))
		}
		if err != nil {
			t.Errorf("%s: %s: %v", when, conn.RemoteAddr(), err)
		}
	}
}

func (s *scene) refused(t *testing.T, when string, port int) {
	t.Helper()
	for _, addr := range []string{"127.0.0.1", "[::1]"} {
		if conn, err := s.TryDial(fmt.Sprintf("%s:%d", addr, port)); err == nil {
			conn.Close()
			t.Errorf("%s: a connection to %s port %d is served", when, addr, port)
		}
	}
}

// everything is all rules of a namespace in every packet filter, without counts.
func everything(t *testing.T, lab *netlab.Lab) string {
	t.Helper()
	var b strings.Builder
	b.WriteString(lab.Run(t, "", "nft", "list", "ruleset"))
	for _, f := range netrules.Families() {
		for line := range strings.Lines(netlab.SaveWith(t, lab.NS(), f.Command()+"-legacy-save")) {
			if strings.HasPrefix(line, "-A") || strings.Contains(line, "AMBASSADORD") {
				b.WriteString(line)
			}
		}
	}
	return b.String()
}

// TestLifeOfRules: whichever way they are set, declared ports lead to us and no others, what
// is added and taken back does so at once, connections outlive it all until Remove, and then
// nothing is left.
func TestLifeOfRules(t *testing.T) {
	for name, rules := range ways(t) {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			before := everything(t, s.Lab)
			if s.apply(t, rules, redirect(6379)...).Settled() {
				t.Error("it was in order before anything was there")
			}
			mark, err := rules.Mark(s.ctx, s.NS())
			if err != nil {
				t.Fatal(err)
			}
			if again := s.apply(t, rules, redirect(6379)...); !again.Settled() {
				t.Errorf("applied twice: %+v", again)
			}
			if same, err := rules.Mark(s.ctx, s.NS()); err != nil || same != mark {
				t.Errorf("the mark of what nobody has touched was %d, and is %d, %v", mark, same, err)
			}
			live := s.dial(t, 6379)
			echo(t, "at first", live)
			s.refused(t, "not declared", 7000)

			s.apply(t, rules, redirect(6379, 7000)...)
			if other, err := rules.Mark(s.ctx, s.NS()); err != nil || other == mark {
				t.Errorf("the mark after a change is the same, %v", err)
			}
			echo(t, "a port is added", slices.Concat(live, s.dial(t, 7000)))
			s.apply(t, rules, redirect(7000)...)
			s.refused(t, "no longer declared", 6379)
			echo(t, "its port is declared no longer", live)

			for range 2 {
				if err := rules.Unhook(s.ctx, s.NS()); err != nil {
					t.Fatal(err)
				}
				s.refused(t, "unhooked", 7000)
				echo(t, "unhooked", live)
			}
			s.apply(t, rules, redirect(6379)...)
			echo(t, "hooked again", slices.Concat(live, s.dial(t, 6379)))

			removed, err := rules.Remove(s.ctx, s.NS())
			if err != nil || len(removed[netrules.IPv4]) != 1 || len(removed[netrules.IPv6]) != 1 {
				t.Errorf("removed %v, %v", removed, err)
			}
			s.refused(t, "removed", 6379)
			if after := everything(t, s.Lab); after != before {
				t.Errorf("left behind:\n%s\nbefore:\n%s", after, before)
			}
			if removed, err := rules.Remove(s.ctx, s.NS()); err != nil || len(removed) > 0 {
				t.Errorf("removed twice: %v, %v", removed, err)
			}
		})
	}
}

// TestChangingOver: whoever has set rules before, by whatever way, after an Apply they are
// there by one way alone, and connections that came by the others go on. So they do when the
// daemon changes back.
func TestChangingOver(t *testing.T) {
	all := ways(t)
	for from, first := range all {
		for to, second := range all {
			if from == to {
				continue
			}
			t.Run(from+" to "+to, func(t *testing.T) {
				s := newScene(t)
				before := everything(t, s.Lab)
				s.apply(t, first, redirect(6379)...)
				live := s.dial(t, 6379)
				for _, f := range netrules.Families() {
					elsewhere, err := second.Elsewhere(s.NS(), f)
					if err != nil || !slices.Equal(elsewhere, []string{"AMBASSADORD"}) {
						t.Errorf("%s: elsewhere: %v, %v", f, elsewhere, err)
					}
					states, err := second.ReadElsewhere(s.ctx, s.NS(), f)
					if err != nil || len(states) != 1 || len(states[0].Ours()) != 1 {
						t.Errorf("%s: read elsewhere: %v, %v", f, states, err)
					}
				}
				s.apply(t, second, redirect(6379)...)
				echo(t, "after the change", live)
				echo(t, "after the change, a new one", s.dial(t, 6379))
				for _, f := range netrules.Families() {
					if here, err := second.Chains(s.NS(), f); err != nil || len(here) != 1 {
						t.Errorf("%s: here: %v, %v", f, here, err)
					}
					for name, other := range all {
						if name == to {
							continue
						}
						if left, err := other.Chains(s.NS(), f); err != nil || len(left) > 0 {
							t.Errorf("%s: left of %s: %v, %v", f, name, left, err)
						}
					}
					if elsewhere, err := second.Elsewhere(s.NS(), f); err != nil || len(elsewhere) > 0 {
						t.Errorf("%s: still elsewhere: %v, %v", f, elsewhere, err)
					}
				}
				if again := s.apply(t, second, redirect(6379)...); !again.Settled() {
					t.Errorf("applied twice: %+v", again)
				}

				// What the first has left goes with a Remove, or an Unhook, of the second.
				if _, err := second.Remove(s.ctx, s.NS()); err != nil {
					t.Fatal(err)
				}
				s.apply(t, first, redirect(6379)...)
				live = s.dial(t, 6379)
				if err := second.Unhook(s.ctx, s.NS()); err != nil {
					t.Fatal(err)
				}
				s.refused(t, "unhooked by the other", 6379)
				echo(t, "unhooked by the other", live)
				removed, err := second.Remove(s.ctx, s.NS())
				if err != nil || len(removed[netrules.IPv4]) != 1 || len(removed[netrules.IPv6]) != 1 {
					t.Errorf("removed %v, %v", removed, err)
				}
				if after := everything(t, s.Lab); after != before {
					t.Errorf("left behind:\n%s\nbefore:\n%s", after, before)
				}
			})
		}
	}
}

// Without any program, what iptables has set is found and removed all the same, but for the
// legacy filter, which says so.
func TestChangingOverWithoutPrograms(t *testing.T) {
	all := ways(t)
	for _, from := range []string{"iptables nf_tables", "iptables legacy"} {
		t.Run(from, func(t *testing.T) {
			s := newScene(t)
			before := everything(t, s.Lab)
			s.apply(t, all[from], redirect(6379)...)
			live := s.dial(t, 6379)
			path := []string{t.TempDir()}
			t.Run("without", func(t *testing.T) {
				t.Setenv("PATH", path[0])
				if choice := Choose(Auto); choice.Kind != NFT {
					t.Errorf("chosen: %+v", choice)
				}
				rules, err := Open(s.ctx, Auto)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := rules.ReadElsewhere(s.ctx, s.NS(), netrules.IPv4); !errors.Is(err, ErrUnread) {
					t.Errorf("read without programs: %v", err)
				}
				_, err = rules.Apply(s.ctx, s.NS(), redirect(6379)...)
				if legacy := from == "iptables legacy"; legacy != (err != nil) {
					t.Errorf("apply: %v", err)
				}
				echo(t, "after the change", slices.Concat(live, s.dial(t, 6379)))
				_, err = rules.Remove(s.ctx, s.NS())
				if legacy := from == "iptables legacy"; legacy != (err != nil) {
					t.Errorf("remove: %v", err)
				}
			})
			after := everything(t, s.Lab)
			if from == "iptables legacy" {
				if strings.Contains(after, "table ip ambassadord") || !strings.Contains(after, "-A AMBASSADORD") {
					t.Errorf("there is:\n%s", after)
				}
				return
			}
			if after != before {
				t.Errorf("left behind:\n%s\nbefore:\n%s", after, before)
			}
		})
	}
}

// TestOthersComeAfter: what others translate, and set later, comes after ours.
func TestOthersComeAfter(t *testing.T) {
	for name, rules := range ways(t) {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			s.apply(t, rules, redirect(6379)...)
			for _, f := range netrules.Families() {
				program := f.Command()
				if strings.Contains(name, "legacy") {
					program += "-legacy"
				}
				s.Run(t, "", program, "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "--dport", "6379", "-j", "REDIRECT", "--to-ports", "1")
			}
			echo(t, "beside rules of another's", s.dial(t, 6379))
		})
	}
}

// TestFlushed: a live connection goes on when somebody flushes the nat table, or ours, and so
// do new ones once the rules are applied again.
func TestFlushed(t *testing.T) {
	for name, rules := range ways(t) {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			s.apply(t, rules, redirect(6379)...)
			live := s.dial(t, 6379)
			for _, f := range netrules.Families() {
				if strings.Contains(name, "legacy") {
					s.Run(t, "", f.Command()+"-legacy", "-t", "nat", "-F")
				} else {
					s.Run(t, "", f.Command(), "-t", "nat", "-F")
				}
			}
			echo(t, "after a flush of nat", live)
			s.apply(t, rules, redirect(6379)...)
			echo(t, "applied again", slices.Concat(live, s.dial(t, 6379)))
			s.Run(t, "", "nft", "flush", "ruleset")
			if !strings.Contains(name, "legacy") {
				if applied := s.apply(t, rules, redirect(6379)...); applied.Settled() {
					t.Error("nothing was to be repaired after a flush of the whole rule set")
				}
			}
			if name == "netlink" {
				unpin, err := rules.Pin(s.NS())
				if err != nil {
					t.Fatal(err)
				}
				defer unpin()
				live = s.dial(t, 6379)
				for _, harm := range []string{"flush table ip ambassadord", "flush ruleset"} {
					s.Run(t, "", "nft", harm)
					s.refused(t, harm, 7000)
					echo(t, "pinned, after "+harm, live)
					s.apply(t, rules, redirect(6379)...)
					echo(t, "pinned, after "+harm+" and a repair", slices.Concat(live, s.dial(t, 6379)))
				}
				s.Run(t, "", "nft", "flush", "ruleset")
				s.apply(t, rules, redirect(6379)...)
			}
			// What is sent meanwhile is translated by nobody, so there is no saying of live ones.
			echo(t, "after a flush of the whole rule set, and a repair", s.dial(t, 6379))
			if text := filtertest.Save(t, s.NS(), netrules.IPv4); !strings.Contains(name, "legacy") && strings.Count(text, "-j AMBASSADORD") != 1 {
				t.Errorf("there is:\n%s", text)
			}
		})
	}
}

// TestMarkOfAnApply: what an Apply says is the mark of what it has made, is, until somebody changes
// anything; and it says none rather than one under which it has not looked.
func TestMarkOfAnApply(t *testing.T) {
	rules := ways(t)["netlink"]
	s := newScene(t)
	mark := func() uint64 {
		t.Helper()
		mark, err := rules.Mark(s.ctx, s.NS())
		if err != nil {
			t.Fatal(err)
		}
		return mark
	}
	for _, when := range []string{"at first", "in order", "a port more"} {
		ports := []uint16{6379}
		if when == "a port more" {
			ports = append(ports, 7000)
		}
		if applied := s.apply(t, rules, redirect(ports...)...); applied.Mark == 0 || applied.Mark != mark() {
			t.Errorf("%s: the mark is %d, and was to be %d", when, mark(), applied.Mark)
		}
	}
	// Others change rules all the time: ours are set all the same.
	ended, stopped := make(chan struct{}), make(chan struct{})
	end := sync.OnceFunc(func() { close(ended); <-stopped })
	defer end()
	go func() {
		defer close(stopped)
		for {
			select {
			case <-ended:
				return
			default:
				s.Run(t, "", "nft", "add table ip others; delete table ip others")
			}
		}
	}()
	for i := range 20 {
		s.apply(t, rules, redirect(6379, 8000+uint16(i))...)
	}
	end()
	last := s.apply(t, rules, redirect(6379)...)
	s.Run(t, "", "nft", "add table ip others")
	if last.Mark == mark() {
		t.Error("the mark is the same after a change of somebody's")
	}
}
