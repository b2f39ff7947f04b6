//go:build integration

package attach

import (
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
	"github.com/ambassadord/ambassadord/internal/handover"
	"github.com/ambassadord/ambassadord/internal/hold"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/internal/listenset"
	"github.com/ambassadord/ambassadord/internal/netlab"
	"github.com/ambassadord/ambassadord/internal/ociruntime"
	"github.com/ambassadord/ambassadord/internal/route"
	"github.com/ambassadord/ambassadord/internal/servertest"
	"github.com/ambassadord/ambassadord/internal/settings"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/filter"
	"github.com/ambassadord/ambassadord/netrules/filter/filtertest"
	"github.com/ambassadord/ambassadord/netrules/netns"
	"github.com/ambassadord/ambassadord/proxy"
	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/static"
)

// earlyLab is mode redirect without an engine, and a namespace of a test's own that appears to it
// as the sandbox named key.
type earlyLab struct {
	t       *testing.T
	mode    *Mode
	server  *proxy.Server
	targets *resolver.Resolver
	clients *identity.Latest
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

// TestWithRulesByNetlink runs the tests of early namespaces once more, with the other way to set rules.
func TestWithRulesByNetlink(t *testing.T) {
	labKind = filter.NFT
	t.Cleanup(func() { labKind = filter.IPTables })
	for name, test := range map[string]func(*testing.T){
		"one that declares":              TestEarlyNamespaceOfOneThatDeclares,
		"one that declares nothing":      TestEarlyNamespaceOfOneThatDeclaresNothing,
		"claimed late":                   TestEarlyNamespaceThatIsClaimedLate,
		"another owner":                  TestEarlyNamespaceOfAnotherOwner,
		"one that dies":                  TestEarlyNamespaceThatDies,
		"stop before the owner is known": TestStopBeforeTheOwnerIsKnown,
		"outsiders":                      TestOutsidersOfAContainer,
		"one family":                     TestEarlyNamespaceServesOneFamily,
		"nothing":                        TestEarlyNamespaceServesNothing,
		"before loopback":                TestEarlyNamespaceBeforeLoopback,
		"before its declaration":         TestEarlyNamespaceBeforeItsDeclaration,
		"slow to accept":                 TestEarlyNamespaceThatIsSlowToAccept,
		"while the engine is away":       TestEarlyNamespaceWhileTheEngineIsAway,
		"untouched":                      TestUntouched,
		"prepared":                       TestEarlyNamespaceThatWasPrepared,
		"prepared for nobody":            TestEarlyNamespaceThatWasPreparedForNobody,
		"prepared, its owner is known":   TestPreparedAfterItsOwnerIsKnown,
		"prepared, declares nothing":     TestPreparedAfterItIsKnownToDeclareNothing,
		"prepared twice":                 TestPreparedTwice,
	} {
		t.Run(name, test)
	}
}

func newEarlyLab(t *testing.T) *earlyLab {
	t.Helper()
	rules, err := filter.Open(t.Context(), labKind)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	ready := make(chan struct{})
	close(ready)
	h := &earlyLab{t: t, server: &proxy.Server{}, clients: &identity.Latest{}, lab: netlab.New(t)}
	h.targets = resolver.New(map[string]resolver.Source{resolver.SchemeStatic: static.Source{}}, resolver.Options{Log: log})
	cfg := config.Default()
	cfg.Policy.AllowLoopback = true // which is where the backend is
	reader := settings.Reader{Parse: h.targets.Parse}
	read, err := reader.Read(cfg)
	if err != nil {
		t.Fatal(err)
	}
	current := settings.NewCurrent(read)
	hold := &hold.Hold{Clients: h.clients, Settings: current}
	resolving, cancelResolver := context.WithCancel(context.Background())
	routes := route.New(resolving, route.Config{
		Targets: h.targets, Pools: balance.New(balance.Config{}), Settings: current, Clients: h.clients, Hold: hold, Log: log, Containers: true,
	})
	sockets := listenset.New(h.server, log)
	h.mode = newMode(&Config{
		Name: config.Redirect, Settings: current, Clients: h.clients, Routes: routes, Hold: hold, Sockets: sockets, Turn: new(handover.Turn),
		Rules: rules, Targets: h.targets, Engine: h.engine(), Runtimes: new(ociruntime.Runtimes), MustStay: func(*netns.Namespace) bool { return false },
		Ready: ready, Log: log,
	})
	h.server.Done = func(r proxy.Record) { h.last.Store(&r); h.carried.Add(1) }
	folder := t.TempDir()
	h.mode.early.folders = []string{folder}
	h.key = filepath.Join(folder, "0123456789ab")
	h.backend = h.serve(nil, "127.0.0.1:0", "backend")

	ctx, cancel := context.WithCancel(context.Background())
	h.ctx = ctx
	var running sync.WaitGroup
	running.Go(func() { _ = h.targets.Run(resolving) })
	h.stop = sync.OnceFunc(func() {
		cancel()
		remains := h.mode.Stop(false)
		sockets.Wait()
		drain, stop := context.WithTimeout(context.Background(), 5*time.Second)
		defer stop()
		h.server.Drain(drain)
		remains.Drained()
		cancelResolver()
		routes.Wait()
		running.Wait()
	})
	t.Cleanup(h.stop)
	return h
}

// engine is an engine of which nobody has asked anything, at a socket that is nobody's: it opens
// namespaces by their names.
func (h *earlyLab) engine() *dockerd.Watcher {
	h.t.Helper()
	watcher, err := dockerd.New(dockerd.Config{Endpoint: "unix://" + filepath.Join(h.t.TempDir(), "nobody.sock")})
	if err != nil {
		h.t.Fatal(err)
	}
	return watcher
}

// serve answers name to every line, inside lab or, without one, here.
func (h *earlyLab) serve(lab *netlab.Lab, addr, name string) string {
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
	return servertest.Named(h.t, listener, name).String()
}

// follow makes the containers those that the engine has.
func (h *earlyLab) follow(containers ...*dockerd.Container) {
	table := identity.Build(dockerd.NewSnapshot(containers...), h.clients.Load(), "", nil, h.targets.Parse)
	h.clients.Store(table)
	h.mode.Update(h.ctx, table)
}

// declaring is a container that declares port 7000; running it is in the sandbox.
func (h *earlyLab) declaring(running bool) *dockerd.Container {
	c := &dockerd.Container{ID: "declares", Name: "declares", NetworkMode: "default", Labels: map[string]string{"connect.7000": h.backend}}
	if running {
		c.Running, c.PID, c.SandboxKey = true, os.Getpid(), h.key
	}
	return c
}

// bystander is a running container in the sandbox that declares nothing.
func (h *earlyLab) bystander() *dockerd.Container {
	return &dockerd.Container{ID: "bystander", Name: "bystander", NetworkMode: "default", Running: true, PID: os.Getpid(), SandboxKey: h.key}
}

// mount makes the sandbox.
func (h *earlyLab) mount() {
	h.t.Helper()
	// A mount takes a place of its own; a link leads there just as well.
	if err := h.lab.NS().WithFD(func(fd int) error {
		return os.Symlink(fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd), h.key)
	}); err != nil {
		h.t.Fatal(err)
	}
}

// appear makes the sandbox, and returns when it is prepared.
func (h *earlyLab) appear() *earlyNamespace {
	h.t.Helper()
	h.mount()
	h.prepared("7000")
	return h.unowned()
}

// prepared waits until port is redirected in the sandbox.
func (h *earlyLab) prepared(port string) {
	h.t.Helper()
	h.eventually("the rules for port "+port+" are there", func() bool {
		return strings.Contains(filtertest.Save(h.t, h.lab.NS(), netrules.IPv4), "--dport "+port) &&
			strings.Contains(filtertest.Save(h.t, h.lab.NS(), netrules.IPv6), "--dport "+port)
	})
}

// unowned is what is served in the sandbox while its owner is not known.
func (h *earlyLab) unowned() *earlyNamespace {
	h.mode.early.mu.Lock()
	defer h.mode.early.mu.Unlock()
	return h.mode.early.there[filepath.Base(h.key)]
}

func (h *earlyLab) rules() string {
	return filtertest.Save(h.t, h.lab.NS(), netrules.IPv4) + filtertest.Save(h.t, h.lab.NS(), netrules.IPv6)
}

func (h *earlyLab) eventually(what string, condition func() bool) {
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

func (h *earlyLab) wantAnswer(conn net.Conn, want string) {
	h.t.Helper()
	if _, err := fmt.Fprintln(conn, "who is it?"); err != nil {
		h.t.Fatal(err)
	}
	answer := make([]byte, len(want)+1)
	if n, err := conn.Read(answer); err != nil || string(answer[:n]) != want+"\n" {
		h.t.Fatalf("answer %q, %v; want %q", answer[:n], err, want)
	}
}

func TestEarlyNamespaceOfOneThatDeclares(t *testing.T) {
	h := newEarlyLab(t)
	h.follow(h.declaring(false))
	h.appear()
	early := h.lab.Dial(t, "127.0.0.1:7000")
	early6 := h.lab.Dial(t, "[::1]:7000")
	h.follow(h.declaring(true))
	h.wantAnswer(early, "backend")
	h.wantAnswer(early6, "backend")
	late := h.lab.Dial(t, "127.0.0.1:7000")
	h.wantAnswer(late, "backend")
	if h.unowned() != nil {
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

func TestEarlyNamespaceOfOneThatDeclaresNothing(t *testing.T) {
	h := newEarlyLab(t)
	h.serve(h.lab, "127.0.0.1:7000", "myself")
	h.follow(h.declaring(false))
	e := h.appear()
	early := h.lab.Dial(t, "127.0.0.1:7000")
	h.follow(h.declaring(false), h.bystander())
	h.wantAnswer(early, "myself")
	<-e.life.unhooked
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
	<-e.life.done
	if e.ns != nil {
		t.Error("the namespace is still held")
	}
}

// Another container joins, and declares, while a connection that was let through
// lives.
func TestEarlyNamespaceThatIsClaimedLate(t *testing.T) {
	h := newEarlyLab(t)
	h.serve(h.lab, "127.0.0.1:7000", "myself")
	h.follow(h.declaring(false))
	e := h.appear()
	early := h.lab.Dial(t, "127.0.0.1:7000")
	h.follow(h.declaring(false), h.bystander())
	<-e.life.unhooked
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

func TestEarlyNamespaceOfAnotherOwner(t *testing.T) {
	h := newEarlyLab(t)
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

func TestEarlyNamespaceThatDies(t *testing.T) {
	h := newEarlyLab(t)
	h.follow(h.declaring(false))
	e := h.appear()
	h.lab.Dial(t, "127.0.0.1:7000")
	if err := os.Remove(h.key); err != nil { // as the engine unmounts it
		t.Fatal(err)
	}
	select {
	case <-e.life.done:
	case <-time.After(10 * time.Second):
		t.Fatal("it is not let go of")
	}
	if e.ns != nil {
		t.Error("the namespace of a dead container is held")
	}
	h.stop()
	// Had it been let through, it would have been dialled where nobody is but us.
	if r := h.last.Load(); h.carried.Load() != 1 || proxy.ReasonOf(r.Err) != proxy.ClientGone || r.Endpoint.Addr.IsValid() {
		t.Errorf("%d connections were carried, the last %v; want one, that its client has left", h.carried.Load(), r)
	}
}

func TestStopBeforeTheOwnerIsKnown(t *testing.T) {
	h := newEarlyLab(t)
	h.follow(h.declaring(false))
	h.appear()
	h.stop()
	if got := h.rules(); got != "" {
		t.Errorf("left behind:\n%s", got)
	}
}

func TestNobodyDeclaresAnything(t *testing.T) {
	h := newEarlyLab(t)
	h.follow(&dockerd.Container{ID: "quiet", Name: "quiet", NetworkMode: "default"})
	h.mode.early.appeared(h.ctx, h.key, nil)
	h.follow(&dockerd.Container{ID: "quiet", Name: "quiet", NetworkMode: "default"})
	if h.unowned() != nil {
		t.Error("a namespace is entered for nobody's sake")
	}
}

// A connection that was caught by the rule for a declaration of somebody else's is let
// through to the container itself, which may have made a rule that leads it to us again.
func TestEarlyNamespaceThatLeadsBack(t *testing.T) {
	for _, way := range []struct {
		name  string
		loops int
	}{{"goroutines", 0}, {"loops", 2}} {
		t.Run(way.name, func(t *testing.T) {
			h := newEarlyLab(t)
			h.server.Loops = way.loops
			records := make(chan proxy.Record, 1000)
			h.server.Done = func(r proxy.Record) { h.carried.Add(1); records <- r }
			other := &dockerd.Container{ID: "other", Name: "other", NetworkMode: "default", Labels: map[string]string{"connect.7001": h.backend}}
			h.follow(h.declaring(false), other)
			h.appear()
			h.follow(h.declaring(true), other)
			h.eventually("it is its own", func() bool { return !strings.Contains(h.rules(), "--dport 7001") })
			h.lab.Run(t, "", "iptables", "-t", "nat", "-A", "OUTPUT", "-d", "127.0.0.1", "-p", "tcp", "--dport", "9999",
				"-j", "REDIRECT", "--to-ports", strconv.Itoa(netrules.FirstListenPort))
			conn, err := h.lab.TryDial("127.0.0.1:9999") // which may be reset in the dial already
			if err == nil {
				_, err = conn.Read(make([]byte, 1))
			}
			if err == nil || errors.Is(err, io.EOF) {
				t.Errorf("it ended by %v; want a reset", err)
			}
			conn = h.lab.Dial(t, "127.0.0.1:7000")
			h.wantAnswer(conn, "backend")
			conn.Close() // or the end would wait for it
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
	h := newEarlyLab(t)
	outside := netlab.New(t)
	netlab.Connect(t, h.lab, netip.MustParsePrefix("10.77.0.1/24"), outside, netip.MustParsePrefix("10.77.0.2/24"))
	records := make(chan proxy.Record, 100)
	h.server.Done = func(r proxy.Record) { records <- r }
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
		"-j", "DNAT", "--to-destination", netip.AddrPortFrom(netrules.Loopback(netrules.IPv4), netrules.FirstListenPort).String())
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
func (h *earlyLab) awayEngine() {
	h.t.Helper()
	watcher := h.engine()
	h.mode.Engine, h.mode.Hold.Engine = watcher, watcher
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = watcher.Run(ctx) })
	h.t.Cleanup(func() { cancel(); running.Wait() })
	h.eventually("the engine is found to be away", func() bool { return watcher.Away() != nil })
}

// While the engine is away nobody knows whose a namespace is, so that it is not given up, nor
// is what was dialled in there sent to the container itself.
func TestEarlyNamespaceWhileTheEngineIsAway(t *testing.T) {
	h := newEarlyLab(t)
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
	case <-time.After(OwnerPatience + time.Second):
	}
	if h.unowned() == nil || !strings.Contains(h.rules(), "-j AMBASSADORD") {
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
func TestEarlyNamespaceWhileTheEngineStaysAway(t *testing.T) {
	h := newEarlyLab(t)
	h.awayEngine()
	records := make(chan proxy.Record, 10)
	h.server.Done = func(r proxy.Record) { records <- r }
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
	if took := time.Since(began); took > OwnerPatience/2 {
		t.Errorf("it was held for %v", took)
	}
	if h.unowned() == nil {
		t.Error("the namespace was given up")
	}
}
