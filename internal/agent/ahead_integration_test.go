//go:build integration

package agent

import (
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/preparer"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/advance"
)

// occupied takes all places of l, so that iptables is waited for until free is called, or the
// test ends.
func occupied(t *testing.T, l *lanes) (free func()) {
	t.Helper()
	for range cap(l.usual) {
		l.usual <- struct{}{}
	}
	free = sync.OnceFunc(func() {
		for range cap(l.usual) {
			<-l.usual
		}
	})
	t.Cleanup(free)
	return free
}

// dialled waits until port is redirected, to iptables' or to our own rules.
func (h *newcomerLab) dialled(port string) {
	h.t.Helper()
	h.eventually("port "+port+" is redirected", func() bool {
		conn, err := h.lab.TryDial("127.0.0.1:" + port)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// declares is a container that does not run, and declares port.
func (h *newcomerLab) declares(name, network, port string) *dockerd.Container {
	return &dockerd.Container{ID: name, Name: name, NetworkMode: network, Labels: map[string]string{"connect." + port: h.backend}}
}

// What is declared while iptables is waited for does not wait for it.
func TestNewcomerDoesNotWaitForIptables(t *testing.T) {
	h := newNewcomerLab(t)
	free := occupied(t, h.as.newcomers.lanes)
	h.follow(h.declaring(false))
	h.mount()
	h.dialled("7000")
	early := h.lab.Dial(t, "127.0.0.1:7000")
	h.follow(h.declaring(false), h.declares("other", "default", "7001"))
	h.lab.Dial(t, "127.0.0.1:7001") // at once
	if rules := h.rules(); strings.Contains(rules, "AMBASSADORD") {
		t.Errorf("iptables was not waited for:\n%s", rules)
	}
	free()
	h.follow(h.declaring(true), h.declares("other", "default", "7001"))
	h.wantAnswer(early, "backend")
	h.eventually("iptables has caught up", func() bool {
		return !strings.Contains(h.lab.Run(t, "", "nft", "list", "tables", "inet"), advance.Table)
	})
	h.wantAnswer(h.lab.Dial(t, "127.0.0.1:7000"), "backend")
}

// Nor what those declare who are to join, one after the other.
func TestJoinersDoNotWaitForIptables(t *testing.T) {
	h := newNewcomerLab(t)
	h.follow(h.declaring(true))
	h.mount()
	h.dialled("7000")
	h.prepared("7000")
	free := occupied(t, h.as.lanes)
	ahead := func(port string) {
		t.Helper()
		h.eventually("port "+port+" is redirected in advance", func() bool {
			return strings.Contains(h.lab.Run(t, "", "nft", "list", "table", "inet", advance.Table), port)
		})
	}
	first, second := h.declares("first", "container:declares", "7001"), h.declares("second", "container:declares", "7002")
	h.follow(h.declaring(true), first)
	h.eventually("there are rules in advance", func() bool {
		return strings.Contains(h.lab.Run(t, "", "nft", "list", "tables", "inet"), advance.Table)
	})
	ahead("7001")
	h.follow(h.declaring(true), first, second)
	ahead("7002")
	free()
	h.prepared("7002")
}

// What was prepared in advance is gone on with, and added to before anything else is done.
func TestNewcomerThatWasPrepared(t *testing.T) {
	h := newNewcomerLab(t)
	four, err := h.lab.NS().ListenTCP(netip.MustParseAddrPort("127.0.0.1:61005"))
	if err != nil {
		t.Fatal(err)
	}
	rules, err := advance.Redirect(h.lab.NS(), []netrules.Family{netrules.IPv4}, 61005, nil)
	if err != nil {
		t.Fatal(err)
	}
	h.follow(h.declaring(false))
	made := &preparer.Made{Listening: map[netrules.Family]*net.TCPListener{netrules.IPv4: four}, Listen: 61005, Rules: rules}
	h.as.newcomers.stop() // nothing else is to see it
	h.as.newcomers.watching.Wait()
	h.mount()
	h.as.newcomers.appeared(h.ctx, h.key, made)
	early := h.lab.Dial(t, "127.0.0.1:7000") // at once
	h.follow(h.declaring(true))
	h.wantAnswer(early, "backend")
}
