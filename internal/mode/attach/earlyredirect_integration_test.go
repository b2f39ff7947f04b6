//go:build integration

package attach

import (
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/netlab"
	"github.com/ambassadord/ambassadord/internal/preparer"
	"github.com/ambassadord/ambassadord/internal/ruleslots"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/advance"
)

// occupied takes all n usual slots, so that iptables is waited for until free is called, or the
// test ends.
func occupied(t *testing.T, slots *ruleslots.Slots, n int) (free func()) {
	t.Helper()
	var leave []func()
	for range n {
		leave = append(leave, slots.Enter(nil))
	}
	free = sync.OnceFunc(func() {
		for _, leave := range leave {
			leave()
		}
	})
	t.Cleanup(free)
	return free
}

// dialled waits until port is redirected, to iptables' or to our own rules.
func (h *earlyLab) dialled(port string) {
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
func (h *earlyLab) declares(name, network, port string) *dockerd.Container {
	return &dockerd.Container{ID: name, Name: name, NetworkMode: network, Labels: map[string]string{"connect." + port: h.backend}}
}

// What is declared while iptables is waited for does not wait for it.
func TestEarlyNamespaceDoesNotWaitForIptables(t *testing.T) {
	h := newEarlyLab(t)
	free := occupied(t, h.mode.early.slots, 8)
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

// Nor what containers declare that are to join, one after the other.
func TestJoinersDoNotWaitForIptables(t *testing.T) {
	h := newEarlyLab(t)
	h.mount()
	h.follow(h.declaring(true))
	h.dialled("7000")
	h.prepared("7000")
	free := occupied(t, h.mode.slots, 4)
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

// makes prepares the sandbox as the process does that prepares: ports lead to listen.
func (h *earlyLab) makes(listen uint16, ports ...uint16) *preparer.Made {
	h.t.Helper()
	made := &preparer.Made{Listening: map[netrules.Family]*net.TCPListener{}, Listen: listen}
	for _, f := range netrules.Families() {
		listener, err := h.lab.NS().ListenTCP(netip.AddrPortFrom(netrules.Loopback(f), listen))
		if err != nil {
			h.t.Fatal(err)
		}
		made.Listening[f] = listener
	}
	declared := make([]netrules.Port, len(ports))
	for i, port := range ports {
		declared[i].Number = port
	}
	var err error
	if made.Rules, err = advance.Redirect(h.lab.NS(), netrules.Families(), listen, declared); err != nil {
		h.t.Fatal(err)
	}
	return made
}

// unwatched has nobody but the test tell of the sandbox.
func (h *earlyLab) unwatched() {
	h.mode.early.stop()
	h.mode.early.watching.Wait()
}

// wantNoEarlyRules waits until there are no rules in advance.
func (h *earlyLab) wantNoEarlyRules() {
	h.t.Helper()
	h.eventually("the rules in advance are gone", func() bool {
		return !strings.Contains(h.lab.Run(h.t, "", "nft", "list", "tables", "inet"), advance.Table)
	})
}

// What was prepared in advance is gone on with, and added to before anything else is done.
func TestEarlyNamespaceThatWasPrepared(t *testing.T) {
	h := newEarlyLab(t)
	h.follow(h.declaring(false))
	h.unwatched()
	h.mount()
	h.mode.early.appeared(h.ctx, h.key, h.makes(61005))
	early := h.lab.Dial(t, "127.0.0.1:7000") // at once
	h.follow(h.declaring(true))
	h.wantAnswer(early, "backend")
	h.wantNoEarlyRules()
}

// What was prepared before a container declared anything stays for one that does, and is let go of when
// the namespace is gone, although the engine says nothing.
func TestEarlyNamespaceThatWasPreparedForNobody(t *testing.T) {
	h := newEarlyLab(t)
	h.follow()
	h.unwatched()
	h.mount()
	h.mode.early.appeared(h.ctx, h.key, h.makes(61005))
	if rules := h.rules(); strings.Contains(rules, "AMBASSADORD") {
		t.Errorf("there are rules for nothing:\n%s", rules)
	}
	h.follow(h.declaring(false))
	early := h.lab.Dial(t, "127.0.0.1:7000")
	h.follow(h.declaring(true))
	h.wantAnswer(early, "backend")

	h = newEarlyLab(t)
	h.follow()
	h.unwatched()
	h.mount()
	h.mode.early.appeared(h.ctx, h.key, h.makes(61005))
	e := h.unowned()
	if err := os.Remove(h.key); err != nil { // as the engine unmounts it
		t.Fatal(err)
	}
	<-e.life.done
	h.wantNoEarlyRules()
}

// The process's word may come after the engine's. What was dialled meanwhile is served.
func TestPreparedAfterItsOwnerIsKnown(t *testing.T) {
	h := newEarlyLab(t)
	h.serve(h.lab, "127.0.0.1:7001", "myself")
	h.follow(h.declaring(false))
	h.unwatched()
	h.mount()
	made := h.makes(61005, 7000, 7001)
	mine, own := h.lab.Dial(t, "127.0.0.1:7000"), h.lab.Dial(t, "127.0.0.1:7001")
	h.follow(h.declaring(true))
	h.prepared("7000") // by the owner's attachment, which had to do without
	h.mode.early.appeared(h.ctx, h.key, made)
	h.wantAnswer(mine, "backend")
	h.wantAnswer(own, "myself")
	h.wantNoEarlyRules()
	h.wantAnswer(h.lab.Dial(t, "127.0.0.1:7000"), "backend")
	h.wantAnswer(h.lab.Dial(t, "127.0.0.1:7001"), "myself")
	if rules := h.rules(); !strings.Contains(rules, "-j AMBASSADORD") {
		t.Errorf("the owner's rules are unhooked:\n%s", rules)
	}
}

// Likewise where the container that has the namespace declares nothing.
func TestPreparedAfterItIsKnownToDeclareNothing(t *testing.T) {
	h := newEarlyLab(t)
	h.serve(h.lab, "127.0.0.1:7000", "myself")
	h.follow(h.declaring(false))
	h.unwatched()
	h.mount()
	made := h.makes(61005, 7000)
	early := h.lab.Dial(t, "127.0.0.1:7000")
	h.follow(h.declaring(false), h.bystander())
	h.mode.early.appeared(h.ctx, h.key, made)
	h.wantAnswer(early, "myself")
	h.wantAnswer(h.lab.Dial(t, "127.0.0.1:7000"), "myself")
	h.wantAnswer(early, "myself")
	early.Close()
	h.wantNoEarlyRules()
	h.eventually("it is let go of", func() bool { return h.unowned() == nil })
}

// Told of one twice, nothing of what is served in there ends.
func TestPreparedTwice(t *testing.T) {
	h := newEarlyLab(t)
	h.follow()
	h.unwatched()
	h.mount()
	made := h.makes(61005, 7000)
	h.mode.early.appeared(h.ctx, h.key, nil)
	early := h.lab.Dial(t, "127.0.0.1:7000")
	h.follow(h.declaring(false)) // serves what is kept in mind, with rules of its own
	h.prepared("7000")
	h.mode.early.appeared(h.ctx, h.key, made)
	h.mode.early.appeared(h.ctx, h.key, nil)
	h.follow(h.declaring(true))
	h.wantAnswer(early, "backend")
	h.mode.early.appeared(h.ctx, h.key, nil)
	h.follow(h.declaring(true))
	h.wantNoEarlyRules()
	h.wantAnswer(h.lab.Dial(t, "127.0.0.1:7000"), "backend")
}

// What is prepared for nobody is bounded: the oldest is let go of.
func TestPreparedForNobodyIsBounded(t *testing.T) {
	h := newEarlyLab(t)
	h.follow()
	h.unwatched()
	h.mode.early.most = 1
	h.mount()
	h.mode.early.appeared(h.ctx, h.key, h.makes(61005))
	first, firstLab := h.unowned(), h.lab
	h.lab, h.key = netlab.New(t), h.key[:len(h.key)-1]+"c"
	h.mount()
	h.mode.early.appeared(h.ctx, h.key, h.makes(61005))
	<-first.life.done
	if left := firstLab.Run(t, "", "nft", "list", "ruleset"); left != "" {
		t.Errorf("left behind: %s", left)
	}
	h.follow(h.declaring(false))
	h.lab.Dial(t, "127.0.0.1:7000") // the younger one is kept
}
