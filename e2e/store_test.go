//go:build integration

package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/rights"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// unit is a stand-in for a service manager: it keeps the descriptors that are put into
// its store, and starts the daemon with them, as systemd does (sd_notify(3)).
type unit struct {
	t      *testing.T
	socket string

	mu    sync.Mutex
	names []string
	files map[string]*os.File
	told  []string
}

func newUnit(t *testing.T) *unit {
	t.Helper()
	u := &unit{t: t, socket: filepath.Join(t.TempDir(), "notify"), files: map[string]*os.File{}}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: u.socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); u.receive(conn) }()
	t.Cleanup(func() {
		conn.Close()
		<-done
		for _, f := range u.files {
			f.Close()
		}
	})
	return u
}

func (u *unit) receive(conn *net.UnixConn) {
	b, oob := make([]byte, 4096), make([]byte, rights.Room(16))
	for {
		n, fds, _, err := rights.Receive(conn, b, oob)
		if err != nil {
			return
		}
		u.take(string(b[:n]), fds)
	}
}

func (u *unit) take(text string, fds []int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	lines := strings.Split(text, "\n")
	u.told = append(u.told, lines[0])
	name := ""
	for _, l := range lines {
		if rest, ok := strings.CutPrefix(l, "FDNAME="); ok {
			name = rest
		}
	}
	for _, fd := range fds {
		if u.files[name] != nil { // systemd keeps one of equal descriptors, too
			rights.Close([]int{fd})
			continue
		}
		u.files[name] = os.NewFile(uintptr(fd), name)
		u.names = append(u.names, name)
	}
	if lines[0] == "FDSTOREREMOVE=1" && u.files[name] != nil {
		u.files[name].Close()
		delete(u.files, name)
		u.names = slices.DeleteFunc(u.names, func(n string) bool { return n == name })
	}
}

// start starts the daemon with what is in the store.
func (u *unit) start(args ...string) *daemon {
	u.t.Helper()
	path, err := plainBinary()
	if err != nil {
		u.t.Fatal(err)
	}
	// Only the process itself knows its number, which LISTEN_PID has to say.
	cmd := exec.Command("sh", append([]string{"-c", `LISTEN_PID=$$ exec "$@"`, "sh", path}, append(lenient(args), "--log-format", "json")...)...)
	u.mu.Lock()
	for _, name := range u.names {
		file := u.duplicate(name) // the daemon may have it taken out while it is being started
		defer file.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, file)
	}
	env := []string{
		"NOTIFY_SOCKET=" + u.socket, fmt.Sprintf("LISTEN_FDS=%d", len(u.names)), "LISTEN_FDNAMES=" + strings.Join(u.names, ":"),
	}
	u.mu.Unlock()
	d := launch(u.t, cmd, env)
	d.wait("ready", 20*time.Second, func(l line) bool { return l.str("msg") == "ready" })
	return d
}

func (u *unit) duplicate(name string) *os.File {
	u.t.Helper()
	fd, err := unix.FcntlInt(u.files[name].Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		u.t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), name)
}

// stored waits until so many descriptors are in the store.
func (u *unit) stored(want int) {
	u.t.Helper()
	poll(u.t, 10*time.Second, fmt.Sprintf("%d descriptors are in the store", want), func() error {
		u.mu.Lock()
		defer u.mu.Unlock()
		if len(u.names) != want {
			return fmt.Errorf("there are %q", u.names)
		}
		return nil
	})
}

// barrier waits until the manager has taken whatever it has been sent (sd_notify_barrier(3)).
func (u *unit) barrier() {
	u.t.Helper()
	conn, err := net.Dial("unixgram", u.socket)
	if err != nil {
		u.t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("BARRIER=1")); err != nil {
		u.t.Fatal(err)
	}
	u.said("BARRIER=1") // the messages of one socket come in order
}

// said waits until the manager was told something.
func (u *unit) said(what string) {
	u.t.Helper()
	poll(u.t, 10*time.Second, "the manager is told "+what, func() error {
		u.mu.Lock()
		defer u.mu.Unlock()
		if !slices.Contains(u.told, what) {
			return fmt.Errorf("it was told %q", u.told)
		}
		return nil
	})
}

// TestDescriptorStore restarts the daemon as systemctl restart does: between the old one
// and the new one there is none, and nobody is refused.
func TestDescriptorStore(t *testing.T) {
	for _, mode := range []string{"redirect", "listen"} {
		for _, killed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, killed: %t", mode, killed), func(t *testing.T) {
				backend := serveIn(t, hostNamespace(t), "127.0.0.1:0", echo)
				u := newUnit(t)
				args := []string{"run", "--mode", mode, "--keep-rules", "127.0.0.1:16379=" + backend}
				d := u.start(args...)
				u.said("READY=1")
				c := declaring(t, map[int]string{6379: backend})
				works := func(ns *netns.Namespace, address string) error {
					conn, err := tryDialIn(ns, address)
					if err != nil {
						return err
					}
					defer conn.Close()
					return pingPong(conn)
				}
				poll(t, 10*time.Second, "a first connection", func() error { return works(c.ns, "127.0.0.1:6379") })
				// Of ::1 there may be one that was opened before the engine turned IPv6 off, so
				// nobody knows how many there are until all are there.
				d.attached(c.name)
				u.barrier()
				u.mu.Lock()
				all := len(u.names)
				u.mu.Unlock()
				if all < 2 {
					t.Fatalf("the store has %q; want the fixed listener and the container's", u.names)
				}

				if killed {
					d.kill()
				} else {
					d.stop()
					u.said("STOPPING=1")
				}
				u.stored(all)
				waiting := dialIn(t, c.ns, "127.0.0.1:6379")            // nobody is there to accept it,
				fixed := dialIn(t, hostNamespace(t), "127.0.0.1:16379") // and nobody is refused
				d = u.start(args...)
				for _, conn := range []*net.TCPConn{waiting, fixed} {
					if err := pingPong(conn); err != nil {
						t.Errorf("a connection that was made while no daemon ran: %v", err)
					}
				}
				if err := works(c.ns, "127.0.0.1:6379"); err != nil {
					t.Errorf("a new connection: %v", err)
				}
				waiting.Close()
				fixed.Close()
				if repaired := d.said("repaired the rules of a container"); len(repaired) > 0 {
					t.Errorf("the rules were not in order: %v", repaired)
				}
				d.stop()
				exec.Command(binary, "rules", "remove").Run()

				// What is stopped for good leaves nothing in the store.
				d = u.start("run", "--mode", mode)
				poll(t, 20*time.Second, "the port that is not asked for any more is closed", func() error {
					if conn, err := net.Dial("tcp", "127.0.0.1:16379"); err == nil {
						conn.Close()
						return fmt.Errorf("it is open")
					}
					return nil
				})
				if err := works(c.ns, "127.0.0.1:6379"); err != nil {
					poll(t, 10*time.Second, "served again", func() error { return works(c.ns, "127.0.0.1:6379") })
				}
				d.stop()
				u.stored(0)
			})
		}
	}
}

// TestSocketActivation gives the daemon a socket that the manager has opened.
func TestSocketActivation(t *testing.T) {
	backend := serveIn(t, hostNamespace(t), "127.0.0.1:0", echo)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	file, err := listener.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	u := newUnit(t)
	u.files["redis"], u.names = file, []string{"redis"}
	conn := dialIn(t, hostNamespace(t), address) // before there is a daemon
	d := u.start("run", address+"="+backend)
	if err := pingPong(conn); err != nil {
		t.Error(err)
	}
	conn.Close()
	d.stop()
}
