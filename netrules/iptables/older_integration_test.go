//go:build integration

package iptables

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/netlab"
	"github.com/ambassadord/ambassadord/netrules"
)

// hostAddrs are those of mode host, clientAddrs those by which a client lab reaches us.
var (
	hostAddrs   = map[netrules.Family]string{netrules.IPv4: "169.254.7.7", netrules.IPv6: "fd00:7::7"}
	clientAddrs = map[netrules.Family][2]string{netrules.IPv4: {"192.0.2.1/24", "192.0.2.2/24"}, netrules.IPv6: {"2001:db8::1/64", "2001:db8::2/64"}}
)

// scene is where a chain is applied, and from where which address is dialled to be
// translated by it.
type scene struct {
	us, client *netlab.Lab
	addr       netip.Addr
	chain      netrules.Chain
}

// scenes are those of each mode.
func scenes(t *testing.T, f netrules.Family) map[string]*scene {
	t.Helper()
	all := map[string]*scene{}
	inside := netlab.New(t)
	all["redirect"] = &scene{us: inside, client: inside, addr: loopbackOf(f), chain: redirect(f, 6379, 5432)}
	for _, mode := range []string{"link", "host"} {
		us, client := netlab.New(t), netlab.New(t)
		ends := clientAddrs[f]
		netlab.Connect(t, us, netip.MustParsePrefix(ends[0]), client, netip.MustParsePrefix(ends[1]))
		addr := netip.MustParsePrefix(ends[0]).Addr()
		s := &scene{us: us, client: client, addr: addr, chain: netrules.Link(f, listenPort)}
		if mode == "host" {
			s.addr = netip.MustParseAddr(hostAddrs[f])
			s.chain = netrules.Host(f, s.addr, listenPort)
			prefix := netip.PrefixFrom(s.addr, s.addr.BitLen()).String()
			us.Run(t, "", "ip", "addr", "add", prefix, "dev", "lo", "nodad")
			client.Run(t, "", "ip", "route", "add", prefix, "via", addr.String())
			// As the engine has every connection of a host tracked.
			program, from := "iptables", "172.17.0.0/16"
			if f == netrules.IPv6 {
				program, from = "ip6tables", "fd00:17::/64"
			}
			us.Run(t, "", program, "-t", "nat", "-A", "POSTROUTING", "-s", from, "!", "-o", "docker0", "-j", "MASQUERADE")
		}
		all[mode] = s
	}
	return all
}

func loopbackOf(f netrules.Family) netip.Addr {
	if f == netrules.IPv6 {
		return netip.IPv6Loopback()
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

func (s *scene) at(port uint16) netip.AddrPort { return netip.AddrPortFrom(s.addr, port) }

// pair is a connection with both its ends, so that either can speak first.
type pair struct{ client, server net.Conn }

// pair connects to a port that we serve ourselves, or with listen to one that is
// translated to there.
func (s *scene) pair(t *testing.T, dial uint16, listener *net.TCPListener) pair {
	t.Helper()
	p := pair{client: s.client.Dial(t, s.at(dial).String())}
	if err := listener.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	server, err := listener.Accept()
	if err != nil {
		t.Fatalf("port %d: %v", dial, err)
	}
	t.Cleanup(func() { _ = server.Close() })
	if err := server.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	p.server = server
	return p
}

func (s *scene) listen(t *testing.T, port uint16) *net.TCPListener {
	t.Helper()
	l, err := s.us.NS().ListenTCP(s.at(port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// says has from say something that to hears.
func says(from, to net.Conn) error {
	if _, err := io.WriteString(from, "x"); err != nil {
		return err
	}
	_, err := io.ReadFull(to, make([]byte, 1))
	return err
}

// talks has both ends speak, the client first or last.
func (p pair) talks(clientFirst bool) error {
	ends := [][2]net.Conn{{p.client, p.server}, {p.server, p.client}}
	if !clientFirst {
		slices.Reverse(ends)
	}
	for range 2 {
		for _, e := range ends {
			if err := says(e[0], e[1]); err != nil {
				return err
			}
		}
	}
	return nil
}

// TestOlderConnectionsGoOn: a connection to a port that is older than the rule for that
// port goes on, whoever speaks first, idle and busy ones; and new ones are translated.
func TestOlderConnectionsGoOn(t *testing.T) {
	eachVariant(t, func(t *testing.T, r *Rules) {
		for _, f := range families {
			for mode, s := range scenes(t, f) {
				t.Run(f.String()+"-"+mode, func(t *testing.T) {
					own, ours := s.listen(t, 6379), s.listen(t, listenPort)
					older := map[bool]pair{}
					for _, clientFirst := range []bool{true, false} {
						older[clientFirst] = s.pair(t, 6379, own)
						if err := older[clientFirst].talks(clientFirst); err != nil {
							t.Fatal(err)
						}
					}
					mustApply(t, r, s.us, s.chain)
					for clientFirst, p := range older {
						if err := p.talks(clientFirst); err != nil {
							t.Errorf("a connection that is older than the rule, client first %v: %v", clientFirst, err)
						}
					}
					newer := s.pair(t, 6379, ours)
					if err := newer.talks(true); err != nil {
						t.Errorf("a new connection: %v", err)
					}
					// Set anew, the rules are younger than both.
					mustRemove(t, r, s.us, f)
					mustApply(t, r, s.us, s.chain)
					for clientFirst, p := range older {
						if err := p.talks(clientFirst); err != nil {
							t.Errorf("one that is older than the rules set anew, client first %v: %v", clientFirst, err)
						}
					}
				})
			}
		}
	})
}

// TestForgottenConnectionsOfAHostGoOn: the engine has the kernel forget a container's
// connections when its networks change.
func TestForgottenConnectionsOfAHostGoOn(t *testing.T) {
	eachVariant(t, func(t *testing.T, r *Rules) {
		for _, f := range families {
			t.Run(f.String(), func(t *testing.T) {
				s := scenes(t, f)["host"]
				ours := s.listen(t, listenPort)
				mustApply(t, r, s.us, s.chain)
				translated := s.pair(t, 6379, ours)
				for range 2 {
					if err := translated.talks(true); err != nil {
						t.Fatal(err)
					}
					s.us.ForgetConnections(t)
				}
			})
		}
	})
}

// TestEveryOpeningIsTranslated: SYNs with ECN's flags and with data of TCP Fast Open open a
// connection as well.
func TestEveryOpeningIsTranslated(t *testing.T) {
	eachVariant(t, func(t *testing.T, r *Rules) {
		for _, f := range families {
			for mode, s := range scenes(t, f) {
				t.Run(f.String()+"-"+mode, func(t *testing.T) {
					ours := s.listen(t, listenPort)
					mustApply(t, r, s.us, s.chain)
					for _, kind := range []struct{ ecn, fastOpen string }{{"0", "0"}, {"1", "0"}, {"3", "0"}, {"1", "0x607"}} {
						for _, lab := range []*netlab.Lab{s.us, s.client} {
							for name, value := range map[string]string{"tcp_ecn": kind.ecn, "tcp_fastopen": kind.fastOpen} {
								if err := setSysctl(lab, name, value); err != nil && name == "tcp_ecn" && value == "3" {
									return // a kernel without AccECN
								} else if err != nil {
									t.Fatal(err)
								}
							}
						}
						if kind.fastOpen == "0" {
							if err := s.pair(t, 6379, ours).talks(true); err != nil {
								t.Errorf("%+v: %v", kind, err)
							}
							continue
						}
						if err := s.fastOpen(ours); err != nil {
							t.Errorf("%+v: %v", kind, err)
						}
					}
				})
			}
		}
	})
}

// TestOlderRulesAreReplaced: what versions before have left in a namespace, which matched
// any packet, an Apply replaces, and connections that came by it go on.
func TestOlderRulesAreReplaced(t *testing.T) {
	eachVariant(t, func(t *testing.T, r *Rules) {
		for _, f := range families {
			for mode, s := range scenes(t, f) {
				if mode == "host" {
					continue // its rule is as it was
				}
				t.Run(f.String()+"-"+mode, func(t *testing.T) {
					old := s.chain
					old.Rules = slices.Clone(old.Rules)
					for i := range old.Rules {
						old.Rules[i].Spec = asBefore(old.Rules[i].Spec)
					}
					own, ours := s.listen(t, 6379), s.listen(t, listenPort)
					older := s.pair(t, 6379, own)
					mustApply(t, r, s.us, old)
					if text := save(t, r, s.us, f); strings.Contains(text, "SYN") || !strings.Contains(text, "-j "+old.Name) {
						t.Fatalf("not as an older version has it:\n%s", text)
					}
					translated := s.pair(t, 5432, ours)
					changes := mustApply(t, r, s.us, s.chain)
					text := save(t, r, s.us, f)
					for line := range strings.Lines(text) {
						if strings.Contains(line, "--to-") && !strings.Contains(line, "--tcp-flags FIN,SYN,RST,ACK SYN") {
							t.Errorf("after %v there is still: %s", changes, line)
						}
					}
					if strings.Count(text, "-j "+old.Name) != 1 {
						t.Errorf("want one jump:\n%s", text)
					}
					for what, p := range map[string]pair{"that came by the old rule": translated, "older than either": older} {
						if err := p.talks(true); err != nil {
							t.Errorf("a connection %s: %v", what, err)
						}
					}
				})
			}
		}
	})
}

// asBefore is a rule as versions wrote it that translated any packet.
func asBefore(spec []string) []string {
	at := slices.Index(spec, "--tcp-flags")
	if at < 0 {
		return spec
	}
	return slices.Concat(spec[:at], spec[at+3:])
}

// setSysctl sets one of net.ipv4 in a lab.
func setSysctl(lab *netlab.Lab, name, value string) error {
	return lab.NS().Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0) })
}

// fastOpen sends data with its SYN, and wants it to arrive at listener.
func (s *scene) fastOpen(listener *net.TCPListener) error {
	domain, to := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: 6379, Addr: [4]byte(s.addr.AsSlice())})
	if s.addr.Is6() {
		domain, to = unix.AF_INET6, &unix.SockaddrInet6{Port: 6379, Addr: s.addr.As16()}
	}
	return s.client.NS().Do(func() error {
		fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		if err := unix.Sendto(fd, []byte("fast"), unix.MSG_FASTOPEN, to); err != nil {
			return fmt.Errorf("connect with data: %w", err)
		}
		if err := listener.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
			return err
		}
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		if _, err := io.ReadFull(conn, make([]byte, len("fast"))); err != nil {
			return err
		}
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			return err
		}
		const synData = 32 // TCPI_OPT_SYN_DATA
		if info.Options&synData == 0 {
			return errors.New("the data did not go with the SYN, so this was no test")
		}
		return nil
	})
}
