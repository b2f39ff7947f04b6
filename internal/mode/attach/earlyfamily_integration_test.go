//go:build integration

package attach

import (
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"

	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/netlab"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/filter/filtertest"
	"github.com/ambassadord/ambassadord/proxy"
)

// A container that serves a port at one address of localhost alone, which others declare. A
// client goes on to the other address where it is refused, and not where it is reset.
func TestEarlyNamespaceServesOneFamily(t *testing.T) {
	for _, c := range []struct{ name, serves, dials string }{
		{"IPv4, dialled by IPv6", "127.0.0.1:7000", "[::1]:7000"},
		{"IPv6, dialled by IPv4", "[::1]:7000", "127.0.0.1:7000"},
		{"IPv4", "127.0.0.1:7000", "127.0.0.1:7000"},
		{"IPv6", "[::1]:7000", "[::1]:7000"},
		{"another address", "127.0.0.2:7000", "127.0.0.2:7000"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, known := range []struct {
				name string
				// the containers of the engine, once it is known whose the namespace is
				containers func(h *earlyLab) []*dockerd.Container
			}{
				{"declares nothing", func(h *earlyLab) []*dockerd.Container {
					return []*dockerd.Container{h.declaring(false), h.bystander()}
				}},
				{"declares another port", func(h *earlyLab) []*dockerd.Container {
					owner := h.bystander()
					owner.Labels = map[string]string{"connect.7001": h.backend}
					return []*dockerd.Container{h.declaring(false), owner}
				}},
			} {
				t.Run(known.name, func(t *testing.T) {
					h := newEarlyLab(t)
					h.serve(h.lab, c.serves, "myself")
					h.follow(h.declaring(false))
					h.appear()
					early := h.lab.Dial(t, c.dials)
					h.follow(known.containers(h)...)
					h.wantAnswer(early, "myself")
				})
			}
		})
	}
}

// Where nobody serves the port it is reset, and the log says all that was dialled.
func TestEarlyNamespaceServesNothing(t *testing.T) {
	for _, c := range []struct {
		name  string
		dials string
		six   bool
		tried int
	}{
		{"IPv6", "[::1]:7000", true, 2},
		{"IPv4", "127.0.0.1:7000", true, 2},
		{"no IPv6", "127.0.0.1:7000", false, 1},
		{"another address", "127.0.0.2:7000", true, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newEarlyLab(t)
			h.lab = netlab.New(t, netlab.Loopback6(c.six))
			records := make(chan proxy.Record, 10)
			h.server.Done = func(r proxy.Record) { records <- r }
			h.follow(h.declaring(false))
			h.mount()
			h.eventually("it is redirected", func() bool { return h.redirected(c.dials) })
			early := h.lab.Dial(t, c.dials)
			h.follow(h.declaring(false), h.bystander())
			if _, err := early.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
				t.Errorf("it ended by %v; want a reset", err)
			}
			if r := <-records; proxy.ReasonOf(r.Err) != proxy.DialFailed || r.Attempts != c.tried {
				t.Errorf("%d attempts, %v; want %d that failed", r.Attempts, r.Err, c.tried)
			}
		})
	}
}

// redirected reports whether address leads to our socket already.
func (h *earlyLab) redirected(address string) bool {
	return strings.Contains(filtertest.Save(h.t, h.lab.NS(), netrules.FamilyOf(netip.MustParseAddrPort(address).Addr())), "--dport 7000")
}
