//go:build integration

package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/balance"
	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/internal/netlab"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/filter"
	"github.com/ambassadord/ambassadord/netrules/filter/filtertest"
	"github.com/ambassadord/ambassadord/proxy"
	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/static"
)

// newcomerLab is an agent in mode redirect without an engine, and a namespace of a test's
// own that appears to it as the sandbox named key.
type newcomerLab struct {
	t       *testing.T
	agent   *agent
	as      *attachments
	lab     *netlab.Lab
	key     string
	backend string
	ctx     context.Context
	stop    func()       // ends the daemon, as SIGTERM does
	carried atomic.Int64 // connections
	last    atomic.Pointer[proxy.Record]
}

// labKind is how the labs of a test have their rules set.
var labKind = filter.IPTables

// TestWithRulesByNetlink runs the tests of newcomers once more, with the other way to set rules.
func TestWithRulesByNetlink(t *testing.T) {
	labKind = filter.NFT
	t.Cleanup(func() { labKind = filter.IPTables })
	for name, test := range map[string]func(*testing.T){
		"one that declares":              TestNewcomerOfOneThatDeclares,
		"one that declares nothing":      TestNewcomerOfOneThatDeclaresNothing,
		"claimed late":                   TestNewcomerThatIsClaimedLate,
		"another owner":                  TestNewcomerOfAnotherOwner,
		"one that dies":                  TestNewcomerThatDies,
		"stop before the owner is known": TestStopBeforeTheOwnerIsKnown,
		"outsiders":                      TestOutsidersOfAContainer,
		"one family":                     TestNewcomerServesOneFamily,
		"nothing":                        TestNewcomerServesNothing,
		"before loopback":                TestNewcomerBeforeLoopback,
		"before its declaration":         TestNewcomerBeforeItsDeclaration,
		"slow to accept":                 TestNewcomerThatIsSlowToAccept,
		"while the engine is away":       TestNewcomerWhileTheEngineIsAway,
		"untouched":                      TestUntouched,
		"prepared":                       TestNewcomerThatWasPrepared,
		"prepared for nobody":            TestNewcomerThatWasPreparedForNobody,
		"prepared, its owner is known":   TestPreparedAfterItsOwnerIsKnown,
		"prepared, declares nothing":     TestPreparedAfterItIsKnownToDeclareNothing,
		"prepared twice":                 TestPreparedTwice,
	} {
		t.Run(name, test)
	}
}

func newNewcomerLab(t *testing.T) *newcomerLab {
	t.Helper()
	rules, err := filter.Open(t.Context(), labKind)
	if err != nil {
		t.Fatal(err)
	}
	a := &agent{cfg: config.Default(), log: slog.New(slog.DiscardHandler), server: &proxy.Server{}, balancer: balance.New(balance.Config{}), rules: rules, readied: make(chan struct{})}
	close(a.readied)
	a.resolver = resolver.New(map[string]resolver.Source{resolver.SchemeStatic: static.Source{}}, resolver.Options{Log: a.log})
	a.cfg.Policy.AllowLoopback = true // which is where the backend is
	tuning, err := a.settings(a.cfg)
	if err != nil {
		t.Fatal(err)
	}
	a.tune(tuning)
	h := &newcomerLab{t: t, agent: a, as: newAttachments(a, config.Redirect), lab: netlab.New(t)}
	a.server.Done = func(r proxy.Record) { h.last.Store(&r); h.carried.Add(1) }
	folder := t.TempDir()
	h.as.newcomers.folders = []string{folder}
	h.key = filepath.Join(folder, "0123456789ab")
	h.backend = h.serve(nil, "127.0.0.1:0", "backend")

	ctx, cancel := context.WithCancel(context.Background())
	h.ctx = ctx
	resolving, cancelResolver := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = a.resolver.Run(resolving) })
	h.stop = sync.OnceFunc(func() {
		cancel()
		h.as.unhook()
		a.accepting.Wait()
		drain, stop := context.WithTimeout(context.Background(), 5*time.Second)
		defer stop()
		a.server.Drain(drain)
		h.as.release()
		cancelResolver()
		running.Wait()
	})
	t.Cleanup(h.stop)
	return h
}

// serve answers name to every line, inside lab or, without one, here.
func (h *newcomerLab) serve(lab *netlab.Lab, addr, name string) string {
	h.t.Helper()
	var listener net.Listener
	var err error
	if lab == nil {
		listener, err = net.Listen("tcp", addr)
	} else {
		listener, err = lab.NS().ListenTCP(netip.MustParseAddrPort(addr))
	}
	if err != nil {
		h.t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				for lines := bufio.NewScanner(conn); lines.Scan(); {
					fmt.Fprintln(conn, name)
				}
			})
		}
	})
	h.t.Cleanup(func() { listener.Close(); serving.Wait() })
	return listener.Addr().String()
}

// follow makes the containers those that the engine has.
func (h *newcomerLab) follow(containers ...*dockerd.Container) {
	table := identity.Build(dockerd.NewSnapshot(containers...), h.agent.table.load(), "", nil, h.agent.resolver.Parse)
	h.agent.table.store(table)
	h.as.update(h.ctx, table)
}

// declaring is a container that declares port 7000; running it is in the sandbox.
func (h *newcomerLab) declaring(running bool) *dockerd.Container {
	c := &dockerd.Container{ID: "declares", Name: "declares", NetworkMode: "default", Labels: map[string]string{"connect.7000": h.backend}}
	if running {
		c.Running, c.PID, c.SandboxKey = true, os.Getpid(), h.key
	}
	return c
}

// bystander is a running container in the sandbox that declares nothing.
func (h *newcomerLab) bystander() *dockerd.Container {
	return &dockerd.Container{ID: "bystander", Name: "bystander", NetworkMode: "default", Running: true, PID: os.Getpid(), SandboxKey: h.key}
}

// mount makes the sandbox.
func (h *newcomerLab) mount() {
	h.t.Helper()
	// A mount takes a place of its own; a link leads there just as well.
	if err := h.lab.NS().WithFD(func(fd int) error {
		return os.Symlink(fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd), h.key)
	}); err != nil {
		h.t.Fatal(err)
	}
}

// appear makes the sandbox, and returns when it is prepared.
func (h *newcomerLab) appear() *newcomer {
	h.t.Helper()
	h.mount()
	h.prepared("7000")
	return h.nobodys()
}

// prepared waits until port is redirected in the sandbox.
func (h *newcomerLab) prepared(port string) {
	h.t.Helper()
	h.eventually("the rules for port "+port+" are there", func() bool {
		return strings.Contains(filtertest.Save(h.t, h.lab.NS(), netrules.IPv4), "--dport "+port) &&
			strings.Contains(filtertest.Save(h.t, h.lab.NS(), netrules.IPv6), "--dport "+port)
	})
}

// nobodys is what is served in the sandbox while nobody owns it.
func (h *newcomerLab) nobodys() *newcomer {
	h.as.newcomers.mu.Lock()
	defer h.as.newcomers.mu.Unlock()
	return h.as.newcomers.there[filepath.Base(h.key)]
}

func (h *newcomerLab) rules() string {
	return filtertest.Save(h.t, h.lab.NS(), netrules.IPv4) + filtertest.Save(h.t, h.lab.NS(), netrules.IPv6)
}

func (h *newcomerLab) eventually(what string, condition func() bool) {
	h.t.Helper()
	deadline := time.After(20 * time.Second)
	for !condition() {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-deadline:
			h.t.Fatalf("not in time: %s; the rules are\n%s", what, h.rules())
		}
	}
}

func (h *newcomerLab) wantAnswer(conn net.Conn, want string) {
	h.t.Helper()
	if _, err := fmt.Fprintln(conn, "who is it?"); err != nil {
		h.t.Fatal(err)
	}
	answer := make([]byte, len(want)+1)
	if n, err := conn.Read(answer); err != nil || string(answer[:n]) != want+"\n" {
		h.t.Fatalf("answer %q, %v; want %q", answer[:n], err, want)
	}
}

func TestNewcomerOfOneThatDeclares(t *testing.T) {
	h := newNewcomerLab(t)
	h.follow(h.declaring(false))
	h.appear()
	early := h.lab.Dial(t, "127.0.0.1:7000")
	early6 := h.lab.Dial(t, "[::1]:7000")
	h.follow(h.declaring(true))
	h.wantAnswer(early, "backend")
	h.wantAnswer(early6, "backend")
	late := h.lab.Dial(t, "127.0.0.1:7000")
	h.wantAnswer(late, "backend")
	if h.nobodys() != nil {
		t.Error("the namespace is still nobody's")
	}
	for _, conn := range []net.Conn{early, early6, late} {
		conn.Close()
	}
	h.stop()
	if got := h.rules(); got != "" {
		t.Errorf("left behind:\n%s", got)
	}
}

func TestNewcomerOfOneThatDeclaresNothing(t *testing.T) {
	h := newNewcomerLab(t)
	h.serve(h.lab, "127.0.0.1:7000", "myself")
	h.follow(h.declaring(false))
	nc := h.appear()
	early := h.lab.Dial(t, "127.0.0.1:7000")
	h.follow(h.declaring(false), h.bystander())
	h.wantAnswer(early, "myself")
	<-nc.unhooked
	// The chain stays for the sake of what came through it, and goes with that. To
	// look again and again gives it the time to go too early.
	for range 20 {
		h.wantAnswer(early, "myself")
		if got := h.rules(); !strings.Contains(got, "--dport 7000") || strings.Contains(got, "-j AMBASSADORD") {
			t.Fatalf("while a connection lives, want the chain without its jump:\n%s", got)
		}
	}
	h.wantAnswer(h.lab.Dial(t, "127.0.0.1:7000"), "myself")
	early.Close()
	h.eventually("nothing is left", func() bool { return h.rules() == "" })
	<-nc.done
	if nc.ns != nil {
		t.Error("the namespace is still held")
	}
}

// Another container joins, and declares, while a connection that was let through
// lives.
func TestNewcomerThatIsClaimedLate(t *testing.T) {
	h := newNewcomerLab(t)
	h.serve(h.lab, "127.0.0.1:7000", "myself")
	h.follow(h.declaring(false))
	nc := h.appear()
	early := h.lab.Dial(t, "127.0.0.1:7000")
	h.follow(h.declaring(false), h.bystander())
	<-nc.unhooked
	joined := &dockerd.Container{ID: "joined", Name: "joined", Running: true, NetworkMode: "container:bystander",
		Labels: map[string]string{"connect.7001": h.backend}}
	h.follow(h.declaring(false), h.bystander(), joined)
	h.eventually("the port of the one that joined is redirected", func() bool {
		rules := h.rules()
		return strings.Count(rules, "--dport 7001") == 2 && strings.Count(rules, "-j AMBASSADORD") == 2 && !strings.Contains(rules, "--dport 7000")
	})
	h.wantAnswer(h.lab.Dial(t, "127.0.0.1:7001"), "backend")
	h.wantAnswer(early, "myself")
}

func TestNewcomerOfAnotherOwner(t *testing.T) {
	h := newNewcomerLab(t)
	h.serve(h.lab, "127.0.0.1:7001", "myself")
	other := &dockerd.Container{ID: "other", Name: "other", NetworkMode: "default", Labels: map[string]string{"connect.7001": h.backend}}
	h.follow(h.declaring(false), other)
	h.appear()
	mine, theirs := h.lab.Dial(t, "127.0.0.1:7000"), h.lab.Dial(t, "127.0.0.1:7001")
	h.follow(h.declaring(true), other)
	h.wantAnswer(mine, "backend")
	h.wantAnswer(theirs, "myself")
	mine.Close()
	theirs.Close()
	h.stop()
	// Had it been dialled before the rules were right, we would have met ourselves.
	if n := h.carried.Load(); n != 2 {
		t.Errorf("%d connections were carried, want 2", n)
	}
}

func TestNewcomerThatDies(t *testing.T) {
	h := newNewcomerLab(t)
	h.follow(h.declaring(false))
	nc := h.appear()
	h.lab.Dial(t, "127.0.0.1:7000")
	if err := os.Remove(h.key); err != nil { // as the engine unmounts it
		t.Fatal(err)
	}
	select {
	case <-nc.done:
	case <-time.After(10 * time.Second):
		t.Fatal("it is not let go of")
	}
	if nc.ns != nil {
		t.Error("the namespace of a dead container is held")
	}
	h.stop()
	// Had it been let through, it would have been dialled where nobody is but us.
	if r := h.last.Load(); h.carried.Load() != 1 || proxy.ReasonOf(r.Err) != proxy.ClientGone || r.Endpoint.Addr.IsValid() {
		t.Errorf("%d connections were carried, the last %v; want one, that its client has left", h.carried.Load(), r)
	}
}

func TestStopBeforeTheOwnerIsKnown(t *testing.T) {
	h := newNewcomerLab(t)
	h.follow(h.declaring(false))
	h.appear()
	h.stop()
	if got := h.rules(); got != "" {
		t.Errorf("left behind:\n%s", got)
	}
}

func TestNobodyDeclaresAnything(t *testing.T) {
	h := newNewcomerLab(t)
	h.follow(&dockerd.Container{ID: "quiet", Name: "quiet", NetworkMode: "default"})
	h.as.newcomers.appeared(h.ctx, h.key, nil)
	h.follow(&dockerd.Container{ID: "quiet", Name: "quiet", NetworkMode: "default"})
	if h.nobodys() != nil {
		t.Error("a namespace is entered for nobody's sake")
	}
}

// A connection that was caught by the rule for a declaration of somebody else's is let
// through to the container itself, which may have made a rule that leads it to us again.
func TestNewcomerThatLeadsBack(t *testing.T) {
	for _, way := range []struct {
		name  string
		loops int
	}{{"goroutines", 0}, {"loops", 2}} {
		t.Run(way.name, func(t *testing.T) {
			h := newNewcomerLab(t)
			h.agent.server.Loops = way.loops
			records := make(chan proxy.Record, 1000)
			h.agent.server.Done = func(r proxy.Record) { h.carried.Add(1); records <- r }
			other := &dockerd.Container{ID: "other", Name: "other", NetworkMode: "default", Labels: map[string]string{"connect.7001": h.backend}}
			h.follow(h.declaring(false), other)
			h.appear()
			h.follow(h.declaring(true), other)
			h.eventually("it is its own", func() bool { return !strings.Contains(h.rules(), "--dport 7001") })
			h.lab.Run(t, "", "iptables", "-t", "nat", "-A", "OUTPUT", "-d", "127.0.0.1", "-p", "tcp", "--dport", "9999",
				"-j", "REDIRECT", "--to-ports", strconv.Itoa(firstListenPort))
			conn, err := h.lab.TryDial("127.0.0.1:9999") // which may be reset in the dial already
			if err == nil {
				_, err = conn.Read(make([]byte, 1))
			}
			if err == nil || errors.Is(err, io.EOF) {
				t.Errorf("it ended by %v; want a reset", err)
			}
			h.wantAnswer(h.lab.Dial(t, "127.0.0.1:7000"), "backend")
			h.stop()
			close(records)
			loops, all := 0, 0
			for r := range records {
				all++
				if proxy.ReasonOf(r.Err) == proxy.Loop {
					loops++
				}
			}
			if loops == 0 || all > 12 {
				t.Errorf("one connection became %d, of which %d say that it was a loop", all, loops)
			}
		})
	}
}

// What rules in a container lead to our socket there from outside is not the container's.
func TestOutsidersOfAContainer(t *testing.T) {
	h := newNewcomerLab(t)
	outside := netlab.New(t)
	netlab.Connect(t, h.lab, netip.MustParsePrefix("10.77.0.1/24"), outside, netip.MustParsePrefix("10.77.0.2/24"))
	records := make(chan proxy.Record, 100)
	h.agent.server.Done = func(r proxy.Record) { records <- r }
	h.mount()
	h.follow(h.declaring(true))
	// The families are set at the same time, and it is IPv4 that is dialled.
	h.eventually("it is served", func() bool { return strings.Contains(filtertest.Save(h.t, h.lab.NS(), netrules.IPv4), "--dport 7000") })
	// An address of its own, beside loopback ones, is the container's.
	h.lab.Do(t, func() error {
		conn, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(10, 77, 0, 1)}}).Dial("tcp", "127.0.0.1:7000")
		if err != nil {
			return err
		}
		h.wantAnswer(conn, "backend")
		return conn.Close()
	})
	if r := <-records; r.Err != nil {
		t.Errorf("%+v", r)
	}
	h.lab.Run(t, "", "sh", "-c", "for i in /proc/sys/net/ipv4/conf/*/route_localnet; do echo 1 >$i; done")
	h.lab.Run(t, "", "iptables", "-t", "nat", "-A", "PREROUTING", "-p", "tcp", "--dport", "7000",
		"-j", "DNAT", "--to-destination", netip.AddrPortFrom(loopback(netrules.IPv4), firstListenPort).String())
	conn, err := outside.TryDial("10.77.0.1:7000") // likewise
	if err == nil {
		_, err = conn.Read(make([]byte, 1))
		conn.Close()
	}
	if err == nil || errors.Is(err, io.EOF) {
		t.Errorf("it ended by %v; want a reset", err)
	}
	r := <-records
	if text := fmt.Sprint(r.Err); proxy.ReasonOf(r.Err) != proxy.UnknownClient || !strings.Contains(text, "10.77.0.2") {
		t.Errorf("what comes from outside ended by %v", r.Err)
	}
}

// awayEngine makes the engine one that is away.
func (h *newcomerLab) awayEngine() {
	h.t.Helper()
	watcher, err := dockerd.New(dockerd.Config{Endpoint: "unix://" + filepath.Join(h.t.TempDir(), "nobody.sock")})
	if err != nil {
		h.t.Fatal(err)
	}
	h.agent.docker = watcher
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = watcher.Run(ctx) })
	h.t.Cleanup(func() { cancel(); running.Wait() })
	h.eventually("the engine is found to be away", func() bool { return watcher.Away() != nil })
}

// While the engine is away nobody knows whose a namespace is, so that it is not given up, nor
// is what was dialled in there sent to the container itself.
func TestNewcomerWhileTheEngineIsAway(t *testing.T) {
	h := newNewcomerLab(t)
	h.awayEngine()
	h.follow(h.declaring(false))
	h.appear()
	early := h.lab.Dial(t, "127.0.0.1:7000")
	if err := early.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	answered := make(chan error, 1)
	go func() {
		_, err := early.Read(make([]byte, 1))
		answered <- err
	}()
	select {
	case err := <-answered:
		t.Fatalf("it ended by %v, want it held", err)
	case <-time.After(ownerPatience + time.Second):
	}
	if h.nobodys() == nil || !strings.Contains(h.rules(), "-j AMBASSADORD") {
		t.Fatal("the namespace was given up")
	}
	h.follow(h.declaring(true))
	if _, err := fmt.Fprintln(early, "who is it?"); err != nil {
		t.Fatal(err)
	}
	if err := <-answered; err != nil {
		t.Errorf("when its owner was known it ended by %v", err)
	}
}

// The option timeout bounds how long a connection is held for that.
func TestNewcomerWhileTheEngineStaysAway(t *testing.T) {
	h := newNewcomerLab(t)
	h.awayEngine()
	records := make(chan proxy.Record, 10)
	h.agent.server.Done = func(r proxy.Record) { records <- r }
	c := h.declaring(false)
	c.Labels["connect.7000.timeout"] = "100ms"
	h.follow(c)
	h.appear()
	began := time.Now()
	h.lab.Dial(t, "127.0.0.1:7000")
	r := <-records
	if text := fmt.Sprint(r.Err); proxy.ReasonOf(r.Err) != proxy.UnknownClient || !strings.Contains(text, "the engine has not said") || !strings.Contains(text, "nobody.sock") {
		t.Errorf("it ended by %v; want that the engine is away", r.Err)
	}
	if took := time.Since(began); took > ownerPatience/2 {
		t.Errorf("it was held for %v", took)
	}
	if h.nobodys() == nil {
		t.Error("the namespace was given up")
	}
}
