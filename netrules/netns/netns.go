// Package netns holds network namespaces by descriptor and runs code inside them.
//
// A network namespace belongs to an OS thread, and Go moves goroutines between
// threads at will. So code for another namespace runs through [Namespace.Do]: on
// an OS thread of its own that goes back to where it came from, or dies. Keep
// such code to the socket call or the exec that needs it: a goroutine started
// there runs elsewhere. A socket belongs to the namespace it was made in for
// good, whatever uses it later.
//
// A namespace lives as long as somebody holds it: a process, a mount, a socket,
// or a Namespace of this package that is not closed. See network_namespaces(7).
package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"sync/atomic"

	vnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/selfconnect"
)

// ErrNotNamespace says that a file is not a network namespace. Docker's folder
// has such files for a moment: each is made first and mounted over next.
var ErrNotNamespace = errors.New("not a network namespace")

// ID tells network namespaces apart, whatever path they were found by. The
// kernel may give the ID of a namespace that is gone to a new one; while a
// Namespace is open, its ID is its own.
type ID struct {
	Dev, Inode uint64
}

// String returns the ID as /proc/PID/ns/net shows it, "net:[INODE]".
func (id ID) String() string { return fmt.Sprintf("net:[%d]", id.Inode) }

// Namespace is an open network namespace. Its methods may be called concurrently.
type Namespace struct {
	file    *os.File
	path    string
	id      ID
	visitor *atomic.Int64 // the thread that is inside by Visit, 0 after that; nil outside of one
}

// Open opens the network namespace at path, such as /run/docker/netns/NAME or
// /proc/PID/ns/net. It fails with ErrNotNamespace if the file is something else.
func Open(path string) (*Namespace, error) {
	// O_NONBLOCK: the path might be a named pipe, which would hold us up.
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	n := &Namespace{file: file, path: path}
	if err := n.WithFD(n.identify); err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("open network namespace %s: %w", path, err)
	}
	return n, nil
}

// Current opens the network namespace of the calling thread. For a goroutine
// that is not locked to a thread that is the one of the process.
func Current() (*Namespace, error) { return Open("/proc/thread-self/ns/net") }

func (n *Namespace) identify(fd int) error {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return os.NewSyscallError("fstatfs", err)
	}
	// Asking a file of another kind for its namespace type could do anything: the
	// number means something else to it. So the file system comes first.
	if fs.Type != unix.NSFS_MAGIC {
		return ErrNotNamespace
	}
	kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
	if err != nil {
		return os.NewSyscallError("ioctl NS_GET_NSTYPE", err)
	}
	if kind != unix.CLONE_NEWNET {
		return ErrNotNamespace
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	n.id = ID{Dev: st.Dev, Inode: st.Ino}
	return nil
}

// ID returns the namespace's identity, comparable with ==.
func (n *Namespace) ID() ID { return n.id }

// IDOrOwn returns the ID of ns, or of the calling thread's own network namespace if ns is nil.
func IDOrOwn(ns *Namespace) (ID, error) {
	if ns != nil {
		return ns.ID(), nil
	}
	own, err := Current()
	if err != nil {
		return ID{}, err
	}
	defer own.Close()
	return own.ID(), nil
}

// Path returns the path the namespace was opened by. It may be gone by now.
func (n *Namespace) Path() string { return n.path }

// Name names a namespace, which may be nil, in an error or a line.
func (n *Namespace) Name() string {
	if n == nil {
		return "our own network namespace"
	}
	return "network namespace " + n.path
}

// Close lets go of the namespace.
func (n *Namespace) Close() error { return n.file.Close() }

// Again opens the namespace a second time, for somebody else to close.
func (n *Namespace) Again() (*Namespace, error) {
	var again *Namespace
	err := n.WithFD(func(fd int) (err error) {
		again, err = Open(fmt.Sprintf("/proc/self/fd/%d", fd))
		return err
	})
	if err != nil {
		return nil, err
	}
	again.path = n.path // which says more
	return again, nil
}

// WithFD calls fn with the namespace's descriptor, which stays open until fn
// returns even if the namespace is closed meanwhile.
func (n *Namespace) WithFD(fn func(fd int) error) error {
	raw, err := n.file.SyscallConn()
	if err != nil {
		return err
	}
	var fnErr error
	if err := raw.Control(func(fd uintptr) { fnErr = fn(int(fd)) }); err != nil {
		return os.ErrClosed // the only way for it to fail
	}
	return fnErr
}

// PanicError is what Do panics with when its function did.
type PanicError struct {
	Value any    // what the function panicked with
	Stack []byte // where
}

// Error returns the value and the stack it came from.
func (p *PanicError) Error() string { return fmt.Sprintf("%v\n\n%s", p.Value, p.Stack) }

// visitOutcome is how a function run by Do ended.
type visitOutcome struct {
	err    error
	panics *PanicError
	goexit bool
}

// Do runs fn inside the namespace, on an OS thread that runs nothing else
// meanwhile, waits for it and returns its error. A thread that cannot go back to
// its own namespace afterwards is thrown away.
//
// If fn panics, Do panics in the caller's goroutine with a *[PanicError]; if fn
// calls runtime.Goexit, as a failing test does, so does Do. A nil namespace is the
// process's own: there fn is just called.
func (n *Namespace) Do(fn func() error) error {
	if n == nil || n.entered() {
		return fn()
	}
	done := make(chan visitOutcome, 1)
	go n.offMain(fn, done)
	out := <-done
	if out.panics != nil {
		panic(out.panics)
	}
	if out.goexit {
		runtime.Goexit()
	}
	return out.err
}

// Here runs fn inside the namespace on the calling goroutine's own thread, to which that is
// locked, and which is not the process's first: for who has a thread that is not to wait for
// another. If the error is ErrAstray, the thread is still inside, and has to end.
func (n *Namespace) Here(fn func() error) error {
	home, err := vnetns.Get()
	if err != nil {
		return fmt.Errorf("note own network namespace: %w", err)
	}
	defer func() { _ = home.Close() }()
	enter := func(fd int) error { return os.NewSyscallError("setns", vnetns.Set(vnetns.NsHandle(fd))) }
	if err := n.WithFD(enter); err != nil {
		return fmt.Errorf("enter network namespace %s: %w", n.path, err)
	}
	err = fn()
	if back := vnetns.Set(home); back != nil {
		return fmt.Errorf("%w %s: %w", ErrAstray, n.path, back)
	}
	return err
}

// ErrAstray says that a thread could not come back.
var ErrAstray = errors.New("cannot leave network namespace")

// offMain runs inside on any thread but the process's first. Go cannot end that
// one, and /proc/self is its view: while it were away, /proc/self/ns/net and
// /proc/net would be another namespace's for everybody.
func (n *Namespace) offMain(fn func() error, done chan<- visitOutcome) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if unix.Gettid() != unix.Getpid() {
		n.inside(fn, done)
		return
	}
	// This goroutine keeps the first thread to itself, so another one gets another.
	elsewhere := make(chan visitOutcome, 1)
	go n.inside(fn, elsewhere)
	done <- <-elsewhere
}

func (n *Namespace) inside(fn func() error, done chan<- visitOutcome) {
	var out visitOutcome
	// Sent last of all: when Do returns, the thread is back home or bound to die.
	defer func() { done <- out }()

	runtime.LockOSThread()
	home, err := vnetns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		out.err = fmt.Errorf("note own network namespace: %w", err)
		return
	}
	defer func() { _ = home.Close() }()
	enter := func(fd int) error { return os.NewSyscallError("setns", vnetns.Set(vnetns.NsHandle(fd))) }
	if err := n.WithFD(enter); err != nil {
		runtime.UnlockOSThread()
		out.err = fmt.Errorf("enter network namespace %s: %w", n.path, err)
		return
	}
	defer func() {
		// A goroutine that ends locked takes its thread with it.
		if vnetns.Set(home) == nil {
			runtime.UnlockOSThread()
		}
	}()
	out.goexit = true // unless what follows gets to the end
	defer func() {
		if v := recover(); v != nil {
			out.goexit = false
			out.panics = &PanicError{Value: v, Stack: debug.Stack()}
		}
	}()
	out.err = fn()
	out.goexit = false
}

// Visit is Do for several steps: fn gets the namespace as it is inside, and each Do of that is a
// call and no more, since the thread is there already. To enter costs two changes of threads, a
// look at /proc and two system calls, and to attach a container takes a dozen steps. The terms of
// fn of Do hold for all of fn here. In other goroutines, and when Visit has returned, inside is
// the namespace as any other.
func (n *Namespace) Visit(fn func(inside *Namespace) error) error {
	if n == nil || n.entered() {
		return fn(n)
	}
	return n.Do(func() error {
		inside := &Namespace{file: n.file, path: n.path, id: n.id, visitor: new(atomic.Int64)}
		inside.visitor.Store(int64(unix.Gettid()))
		// Another goroutine may have the thread after this one.
		defer inside.visitor.Store(0)
		return fn(inside)
	})
}

// entered reports whether the calling thread is in the namespace, by a Visit that goes on. That
// thread runs nothing else, so its number is as good as the goroutine's.
func (n *Namespace) entered() bool {
	return n.visitor != nil && n.visitor.Load() == int64(unix.Gettid())
}

// ListenTCP listens on addr inside the namespace. The socket is plain TCP: MPTCP,
// Go's default, would keep the data path from splicing. The listener keeps the
// namespace alive until it is closed.
func (n *Namespace) ListenTCP(addr netip.AddrPort) (*net.TCPListener, error) {
	// Naming the family keeps package net from probing, once for the whole
	// process, what this namespace happens to support.
	network := "tcp6"
	if addr.Addr().Unmap().Is4() {
		network, addr = "tcp4", netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
	}
	var listener *net.TCPListener
	err := n.Do(func() error {
		var lc net.ListenConfig
		lc.SetMultipathTCP(false)
		l, err := lc.Listen(context.Background(), network, addr.String())
		if err != nil {
			return err
		}
		listener = l.(*net.TCPListener)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("listen in network namespace %s: %w", n.path, err)
	}
	return listener, nil
}

// DialTCP connects to addr from inside the namespace. The socket is plain TCP, as
// that of ListenTCP, and keeps the namespace alive until it is closed.
func (n *Namespace) DialTCP(ctx context.Context, addr netip.AddrPort) (*net.TCPConn, error) {
	network := "tcp6"
	if addr.Addr().Unmap().Is4() {
		network, addr = "tcp4", netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
	}
	var conn *net.TCPConn
	err := n.Do(func() error {
		var d net.Dialer // given one address and no name, it starts no goroutine that makes a socket
		d.SetMultipathTCP(false)
		c, err := selfconnect.DialContext(ctx, &d, network, addr.String())
		if err != nil {
			return err
		}
		conn = c.(*net.TCPConn)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("dial in network namespace %s: %w", n.path, err)
	}
	return conn, nil
}
