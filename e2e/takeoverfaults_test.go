//go:build integration

package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/dockertest"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/nft"
)

// launchPlain starts the daemon as it is shipped and does not wait for it to serve.
func launchPlain(t *testing.T, args ...string) *daemon {
	t.Helper()
	path, err := plainBinary()
	if err != nil {
		t.Fatal(err)
	}
	return launch(t, exec.Command(path, append(lenient(args), "--log-format", "json")...), nil)
}

// failed demands that the daemon ended by itself, with an error whose text has want.
func (d *daemon) failed(want string) {
	d.t.Helper()
	select {
	case <-d.done:
	case <-time.After(20 * time.Second):
		d.t.Fatal("the daemon still runs after 20 s; want it to end with an error")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err == nil || !strings.Contains(d.raw.String(), want) {
		d.t.Errorf("the daemon ended with %v and said %q; want an error with %q", d.err, d.raw.String(), want)
	}
}

// TestTakeoverThatFails has new daemons fail at every stage: the old one serves on, its
// live connections go on, and what it leads to is as it was.
func TestTakeoverThatFails(t *testing.T) {
	backend := serveIn(t, hostNamespace(t), "127.0.0.1:0", echo)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	deaf, err := net.Listen("unix", t.TempDir()+"/engine.sock") // accepts, and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer deaf.Close()
	for _, mode := range []string{"redirect", "listen", "host"} {
		t.Run(mode, func(t *testing.T) {
			address := map[string]string{"host": hostAddr4 + ":6379"}[mode]
			if address == "" {
				address = "127.0.0.1:6379"
			}
			old := startPlain(t, "run", "--mode", mode)
			c := declaring(t, map[int]string{6379: backend})
			serves := func() error {
				conn, err := tryDialIn(c.ns, address)
				if err != nil {
					return err
				}
				defer conn.Close()
				return pingPong(conn)
			}
			poll(t, 10*time.Second, "a first connection", serves)
			live := dialIn(t, c.ns, address)
			goesOn := func(when string) {
				t.Helper()
				for range 20 {
					if err := serves(); err != nil {
						t.Errorf("a new connection %s: %v", when, err)
					}
				}
				if err := pingPong(live); err != nil {
					t.Errorf("a live connection %s: %v", when, err)
				}
			}
			goesOn("at first")

			launchPlain(t, "run", "--mode", mode, "--takeover", "--drain-timeout", "-1s").failed("--drain-timeout must not be negative")
			goesOn("after a daemon with bad flags")

			launchPlain(t, "run", "--mode", mode, "--takeover", taken.Addr().String()+"="+backend).failed("address already in use")
			old.wait("why it was not taken over", 10*time.Second, func(l line) bool {
				return strings.Contains(l.str("msg"), "has not taken over") && strings.Contains(l.str("error"), "address already in use")
			})
			goesOn("after a daemon that could not listen")

			for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
				began := len(old.said("another daemon is taking over"))
				half := launchPlain(t, "run", "--mode", mode, "--takeover", "--docker-host", "unix://"+deaf.Addr().String())
				poll(t, 10*time.Second, "it has begun to take over", func() error {
					if len(old.said("another daemon is taking over")) == began {
						return fmt.Errorf("not yet")
					}
					return nil
				})
				goesOn("while a daemon takes over that knows nobody")
				if err := half.cmd.Process.Signal(signal); err != nil {
					t.Fatal(err)
				}
				<-half.done
				goesOn("after a daemon that got " + signal.String() + " half-way")
			}

			diagnose(t, []string{binary}).want("daemon", "ok", fmt.Sprintf("one is running: process %d (", old.cmd.Process.Pid), "") // it has its lock still
			next := startPlain(t, "run", "--mode", mode, "--takeover")
			goesOn("after a daemon that did take over")
			live.Close()
			old.ended(20 * time.Second)
			next.stop()
			if err := serves(); err == nil {
				t.Error("a connection is served although the last daemon has stopped")
			}
		})
	}
}

// TestOldDaemonEndsAmidTakeover ends the old daemon when the new one has its sockets and
// does not accept yet, for its engine is slow: the new one serves all the same.
func TestOldDaemonEndsAmidTakeover(t *testing.T) {
	backend := serveIn(t, hostNamespace(t), "127.0.0.1:0", echo)
	for name, test := range map[string]struct {
		signal syscall.Signal
		drain  string // what the old daemon waits at most
		gapped bool   // whether nobody serves for a while
	}{
		"told to stop":                      {syscall.SIGTERM, "20s", false},
		"told to stop, and out of patience": {syscall.SIGTERM, "100ms", true},
		"killed":                            {syscall.SIGKILL, "20s", true},
	} {
		t.Run(name, func(t *testing.T) {
			engine, release := slowEngine(t)
			old := launchPlain(t, "run", "--mode", "redirect", "--drain-timeout", test.drain)
			old.wait("ready", 20*time.Second, func(l line) bool { return l.str("msg") == "ready" })
			c := declaring(t, map[int]string{6379: backend})
			serves := func() error {
				conn, err := tryDialIn(c.ns, "127.0.0.1:6379")
				if err != nil {
					return err
				}
				defer conn.Close()
				return pingPong(conn)
			}
			poll(t, 10*time.Second, "a first connection", serves)
			next := launchPlain(t, "run", "--mode", "redirect", "--takeover", "--docker-host", engine)
			old.wait("the takeover", 10*time.Second, func(l line) bool { return l.str("msg") == "another daemon is taking over" })
			if err := old.cmd.Process.Signal(test.signal); err != nil {
				t.Fatal(err)
			}
			if test.gapped {
				<-old.done
			} else {
				old.wait("that it goes on", 10*time.Second, func(l line) bool {
					return strings.Contains(l.str("msg"), "stopping as soon as the daemon that takes over accepts")
				})
				for range 20 {
					if err := serves(); err != nil {
						t.Errorf("while the new daemon is not there yet: %v", err)
					}
				}
			}
			release()
			next.wait("ready", 30*time.Second, func(l line) bool { return l.str("msg") == "ready" })
			poll(t, 10*time.Second, "a connection by the new daemon", serves)
			if !test.gapped {
				old.ended(20 * time.Second)
			}
			next.stop()
			if err := wantChains(c, 0, 0); err != nil {
				t.Error(err)
			}
		})
	}
}

// slowEngine is the engine behind a socket that answers nobody before release is called.
func slowEngine(t *testing.T) (host string, release func()) {
	t.Helper()
	dir, err := os.MkdirTemp("", "slow") // a socket's path is at most 108 bytes long
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "engine.sock")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	released := make(chan struct{})
	release = sync.OnceFunc(func() { close(released) })
	t.Cleanup(release)
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer client.Close()
				<-released
				engine, err := net.Dial("unix", "/var/run/docker.sock")
				if err != nil {
					return
				}
				defer engine.Close()
				go func() { _, _ = io.Copy(engine, client); engine.Close() }()
				_, _ = io.Copy(client, engine)
			}()
		}
	}()
	return "unix://" + path, release
}

// said are the lines with that message.
func (d *daemon) said(msg string) (lines []line) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range d.lines {
		if l.str("msg") == msg {
			lines = append(lines, l)
		}
	}
	return lines
}

// TestTakeoverWithOtherFlags goes from every mode to every other one, under live
// connections: what the new one does not serve is let go of, rules included. From listen
// to redirect the kernel has not tracked them before, and our rules let them be.
func TestTakeoverWithOtherFlags(t *testing.T) {
	backend := serveIn(t, hostNamespace(t), "127.0.0.1:0", echo)
	addresses := map[string]string{"redirect": "127.0.0.1:6379", "listen": "127.0.0.1:6379", "host": hostAddr4 + ":6379"}
	for from, before := range addresses {
		for to, after := range addresses {
			if from == to {
				continue
			}
			t.Run(from+" to "+to, func(t *testing.T) {
				old := startPlain(t, "run", "--mode", from, "127.0.0.1:16379="+backend, "127.0.0.1:16380="+backend)
				c := declaring(t, map[int]string{6379: backend})
				works := func(address string) error {
					conn, err := tryDialIn(c.ns, address)
					if err != nil {
						return err
					}
					defer conn.Close()
					return pingPong(conn)
				}
				poll(t, 10*time.Second, "a first connection", func() error { return works(before) })
				live := dialIn(t, c.ns, before)
				if err := pingPong(live); err != nil {
					t.Fatal(err)
				}
				next := startPlain(t, "run", "--mode", to, "--takeover", "127.0.0.1:16379="+backend, "127.0.0.1:16381="+backend)
				for range 50 { // while it changes over
					if before == after {
						if err := works(after); err != nil {
							t.Errorf("a new connection after the change: %v", err)
						}
					}
				}
				poll(t, 10*time.Second, "a connection the new way", func() error { return works(after) })
				if err := pingPong(live); err != nil {
					t.Errorf("a live connection after the change: %v", err)
				}
				poll(t, 20*time.Second, "the rules that lead nowhere are gone", func() error {
					return wantJumps(c, map[string]int{"redirect": 1}[to], map[string]int{"host": 1}[to])
				})
				if err := pingPong(live); err != nil {
					t.Errorf("a live connection after the rules have gone: %v", err)
				}
				// In the background too, and where no rules go they say nothing about it.
				poll(t, 10*time.Second, "port 16380, which only the old one had, is let go of", func() error {
					conn, err := net.Dial("tcp", "127.0.0.1:16380")
					if err != nil {
						return nil
					}
					conn.Close()
					return fmt.Errorf("it takes a connection")
				})
				for _, port := range []string{"16379", "16381"} {
					conn, err := net.Dial("tcp", "127.0.0.1:"+port)
					if err != nil {
						t.Errorf("port %s of the command line: %v", port, err)
						continue
					}
					conn.Close()
				}
				live.Close()
				old.ended(20 * time.Second)
				poll(t, 20*time.Second, "the old daemon's chains are gone", func() error {
					return wantChains(c, map[string]int{"redirect": 1}[to], map[string]int{"host": 1}[to])
				})
				next.stop()
			})
		}
	}
}

// wantJumps demands that so many jumps to our chain are in a container's namespace, and in
// the host's.
func wantJumps(c client, inside, host int) error { return wantLines(c, "-j AMBASSADORD", inside, host) }

// wantChains does the same for chains.
func wantChains(c client, inside, host int) error { return wantLines(c, ":AMBASSADORD", inside, host) }

func wantLines(c client, text string, inside, host int) error {
	count := func() (int, error) {
		out, err := exec.Command("iptables-save", "-t", "nat").Output()
		if err != nil {
			return 0, err
		}
		own, err := new(nft.Rules).Read(context.Background(), nil, netrules.IPv4)
		lines := string(out)
		for _, chain := range own.Chains {
			lines += ":" + chain.Name + "\n"
			for _, args := range chain.Rules {
				lines += netrules.RuleText(chain.Name, args) + "\n"
			}
		}
		return strings.Count(lines, text), err
	}
	here, err := count()
	if err != nil {
		return err
	}
	there := 0
	if err := c.ns.Do(func() (err error) { there, err = count(); return err }); err != nil {
		return err
	}
	if here != host || there != inside {
		return fmt.Errorf("%q is %d times in the container and %d times on the host; want %d and %d", text, there, here, inside, host)
	}
	return nil
}

// TestOldDaemonLetsGo looks at a daemon that has handed over and has one connection left.
func TestOldDaemonLetsGo(t *testing.T) {
	backend := serveIn(t, hostNamespace(t), "127.0.0.1:0", echo)
	old := startPlain(t, "run", "--mode", "redirect", "--dial-timeout", "1s")
	pid := old.cmd.Process.Pid
	var clients []client
	for range 3 {
		clients = append(clients, declaring(t, map[int]string{6379: backend}))
		old.attached(clients[len(clients)-1].name)
	}
	live := dialIn(t, clients[0].ns, "127.0.0.1:6379")
	if err := pingPong(live); err != nil {
		t.Fatal(err)
	}
	next := startPlain(t, "run", "--mode", "redirect", "--takeover")
	wantNothingHeld(t, pid, 1)
	if listening := listeningSockets(t, pid); listening != 0 {
		t.Errorf("the old daemon still has %d listening sockets", listening)
	}
	if err := pingPong(live); err != nil {
		t.Errorf("the live connection: %v", err)
	}
	// It is no defect that both run.
	out, err := exec.Command(binary, "doctor", "--mode", "redirect").CombinedOutput()
	if !strings.Contains(string(out), "one is running") || strings.Contains(string(out), "daemon that is gone") {
		t.Errorf("doctor (%v) says\n%s", err, out)
	}
	if err := old.cmd.Process.Signal(syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	live.Close() // or the keeper would carry it on
	<-old.done
	old.mu.Lock()
	dump := old.raw.String()
	old.mu.Unlock()
	for _, work := range []string{"attach.(*attachment).run", "daemon.(*follower).run", "control.(*Server).Serve", "attach.runEarly"} {
		if n := strings.Count(dump, work+"("); n > 0 {
			t.Errorf("%d goroutines of the old daemon are still in %s", n, work)
		}
	}
	next.stop()
}

// listeningSockets counts those of a process.
func listeningSockets(t *testing.T, pid int) int {
	t.Helper()
	out, err := exec.Command("ss", "-Hltnp").CombinedOutput()
	if err != nil {
		t.Fatalf("ss: %v: %s", err, out)
	}
	return strings.Count(string(out), fmt.Sprintf("pid=%d,", pid))
}

// TestLastOneTidiesUp stops the new daemon first: what the old one carries goes on, and
// when that is over no rule is left.
func TestLastOneTidiesUp(t *testing.T) {
	backend := serveIn(t, hostNamespace(t), "127.0.0.1:0", echo)
	for mode, address := range map[string]string{"redirect": "127.0.0.1:6379", "host": hostAddr4 + ":6379"} {
		t.Run(mode, func(t *testing.T) {
			old := startPlain(t, "run", "--mode", mode)
			c := declaring(t, map[int]string{6379: backend})
			poll(t, 10*time.Second, "a first connection", func() error {
				conn, err := tryDialIn(c.ns, address)
				if err != nil {
					return err
				}
				defer conn.Close()
				return pingPong(conn)
			})
			live := dialIn(t, c.ns, address)
			if err := pingPong(live); err != nil {
				t.Fatal(err)
			}
			next := startPlain(t, "run", "--mode", mode, "--takeover")
			next.stop()
			if err := pingPong(live); err != nil {
				t.Errorf("a live connection of the old daemon, after the new one has stopped: %v", err)
			}
			if status, stdout, stderr := ambassadord(t, "rules", "remove"); status != 0 || !strings.Contains(stdout, "connections that a daemon that has handed over carries") {
				t.Errorf("rules remove: exit %d, %q, %q; want 0, and for whom rules stay", status, stdout, stderr)
			}
			if err := pingPong(live); err != nil {
				t.Errorf("a live connection of the old daemon, after rules remove: %v", err)
			}
			if err := wantJumps(c, 0, 0); err != nil {
				t.Error(err)
			}
			live.Close()
			old.ended(20 * time.Second)
			if err := wantChains(c, 0, 0); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestHandoverTimeout bounds what the old daemon carries on, and a signal does.
func TestHandoverTimeout(t *testing.T) {
	backend := serveIn(t, hostNamespace(t), "127.0.0.1:0", echo)
	for name, c := range map[string]struct {
		args    []string
		signals []syscall.Signal
	}{
		"by the clock":      {args: []string{"--handover-timeout", "1s"}},
		"by a signal":       {args: []string{"--drain-timeout", "500ms"}, signals: []syscall.Signal{syscall.SIGTERM}},
		"by another signal": {args: []string{"--drain-timeout", "1h"}, signals: []syscall.Signal{syscall.SIGTERM, syscall.SIGINT}},
	} {
		t.Run(name, func(t *testing.T) {
			old := startPlain(t, append([]string{"run", "127.0.0.1:16379=" + backend}, c.args...)...)
			live := dialIn(t, hostNamespace(t), "127.0.0.1:16379")
			if err := pingPong(live); err != nil {
				t.Fatal(err)
			}
			next := startPlain(t, "run", "127.0.0.1:16379="+backend, "--takeover")
			old.wait("it has handed over", 10*time.Second, func(l line) bool { return l.str("msg") == "handed over" })
			for _, signal := range c.signals { // two of a kind at once are one
				if err := old.cmd.Process.Signal(signal); err != nil {
					t.Fatal(err)
				}
			}
			old.ended(10 * time.Second)
			if err := pingPong(live); err == nil {
				t.Error("the connection of a daemon that has ended goes on")
			}
			next.stop()
		})
	}
}

// TestSecondSignal ends a daemon that drains: connections are reset, and rules removed.
func TestSecondSignal(t *testing.T) {
	backend := serveIn(t, hostNamespace(t), "127.0.0.1:0", echo)
	d := startPlain(t, "run", "--mode", "redirect", "--drain-timeout", "1h")
	c := declaring(t, map[int]string{6379: backend})
	d.attached(c.name)
	live := dialIn(t, c.ns, "127.0.0.1:6379")
	if err := pingPong(live); err != nil {
		t.Fatal(err)
	}
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		if err := pingPong(live); err != nil {
			t.Fatalf("before %s: %v", signal, err)
		}
		if err := d.cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		d.wait("it is stopping", 10*time.Second, func(l line) bool { return l.str("msg") == "stopping" })
	}
	d.ended(10 * time.Second)
	d.connection(c.name, 6379, func(l line) bool { return l.str("reason") == "drain_timeout" })
	if err := wantChains(c, 0, 0); err != nil {
		t.Error(err)
	}
}

// TestStartsDuringTakeovers starts containers, whose first instruction dials, while one
// daemon takes over from the other.
func TestStartsDuringTakeovers(t *testing.T) {
	backend := serveIn(t, hostNamespace(t), "127.0.0.1:0", echo)
	d := startPlain(t, "run", "--mode", "redirect", "--log-level", "debug")
	option := clientOption(t)
	over := make(chan error, 1)
	const lanes, count = 3, 45
	go func() {
		var starting sync.WaitGroup
		var failed atomic.Pointer[error]
		for lane := range lanes {
			starting.Go(func() {
				for i := lane; i < count && failed.Load() == nil; i += lanes {
					out, err := exec.Command("docker", "run", "--rm", "-l", "connect.6379="+backend, option, dockertest.Image(t),
						"/client", "-within", "0", "127.0.0.1:6379").CombinedOutput()
					if err != nil {
						err = fmt.Errorf("container %d, by %s: %w: %s", i, time.Now().UTC().Format("15:04:05.000"), err, out)
						failed.Store(&err)
					}
				}
			})
		}
		starting.Wait()
		if err := failed.Load(); err != nil {
			over <- *err
			return
		}
		over <- nil
	}()
	rounds := 0
	for done := false; !done; rounds++ {
		next := startPlain(t, "run", "--mode", "redirect", "--log-level", "debug", "--takeover")
		d.ended(20 * time.Second)
		d = next
		select {
		case err := <-over:
			if err != nil {
				t.Error(err)
			}
			done = true
		default:
		}
	}
	d.stop()
	t.Logf("%d containers in %d takeovers", count, rounds)
}
