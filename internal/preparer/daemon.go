package preparer

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/rights"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/advance"
)

// ErrDenied says that the process may not have real-time priority.
var ErrDenied = errors.New("real-time priority is not allowed")

const (
	// patience is how long the process may take to end.
	patience = 5 * time.Second
	// lastWords is how long it may take, when Run is to end, to tell of each thing that it has made.
	lastWords = time.Second
	// queue is for how many bytes of orders there is room.
	queue = 1 << 20
)

// Preparer is the daemon's side of the process.
type Preparer struct {
	// Command starts the process. It finds its socket at its descriptor 3.
	Command []string
	// Appeared is called, from one goroutine, with the path of each container's network
	// namespace: those that are there, and each new one. made is what is prepared in there,
	// nil if nothing is.
	Appeared func(path string, made *Made)
	// Watching is called when the process watches. why is nil if that has real-time priority;
	// else it is nice -10. Spent is called when its priority has been taken away for a while,
	// for it had much to do.
	Watching func(why error)
	Spent    func()
	// Unprepared is called when nothing could be prepared in a namespace, and why.
	Unprepared func(path string, err error)
	// Lost is called when what was prepared has not arrived: there was no descriptor free.
	Lost func(error)

	reaping sync.WaitGroup

	mu    sync.Mutex
	ports []uint16 // the last that Declare was called with
	conn  *net.UnixConn
}

// Made is what was prepared in a namespace: sockets, on which nobody accepts yet, and rules
// that lead there.
type Made struct {
	Listening map[netrules.Family]*net.TCPListener
	Listen    uint16 // their port
	Rules     *advance.Rules
	Took      time.Duration
}

// Close undoes it. A nil Made is nothing.
func (m *Made) Close() {
	if m == nil {
		return
	}
	_ = m.Rules.Close() // first: they lead to the sockets
	for _, l := range m.Listening {
		_ = l.Close()
	}
}

// Families are those of the sockets.
func (m *Made) Families() []netrules.Family {
	all := []netrules.Family{netrules.IPv4}
	if m.Listening[netrules.IPv6] != nil {
		all = append(all, netrules.IPv6)
	}
	return all
}

// Declare says which ports are to be redirected in what appears from now on.
func (p *Preparer) Declare(ports []uint16) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ports != nil && slices.Equal(ports, p.ports) {
		return
	}
	p.ports = append([]uint16{}, ports...)
	p.order()
}

// order sends what was declared, if there is somebody to take it. A process that has not taken
// so many orders hangs, and is not waited for. p.mu is held.
func (p *Preparer) order() {
	if p.conn == nil || p.ports == nil {
		return
	}
	packet, err := encode(order{Ports: p.ports})
	if err == nil {
		err = sendNow(p.conn, packet)
	}
	if err != nil {
		_ = p.conn.Close() // which ends Run
		p.conn = nil
	}
}

// sendNow sends packet, or fails if there is no room for it.
func sendNow(conn *net.UnixConn, packet []byte) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = unix.Sendmsg(int(fd), packet, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	})
	return cmp.Or(err, failed)
}

// Run runs the process until ctx ends, and then returns nil once that has told of all that it
// has made. It begins to watch with the first Declare. Where it may not have the priority, the
// error is ErrDenied. It may be called again after an error. Wait waits for what it leaves behind.
func (p *Preparer) Run(ctx context.Context) error {
	conn, cmd, err := p.start(ctx)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.conn = conn
	p.order()
	p.mu.Unlock()
	stop := context.AfterFunc(ctx, func() {
		_ = conn.CloseWrite() // which has it end
		_ = conn.SetReadDeadline(time.Now().Add(lastWords))
	})
	err = p.follow(ctx, conn)
	stop()
	p.mu.Lock()
	p.conn = nil
	p.mu.Unlock()
	_ = conn.Close()
	ended := make(chan error, 1)
	p.reaping.Go(func() {
		late := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() }) // our own child, not reaped yet
		defer late.Stop()
		ended <- cmd.Wait()
	})
	if ctx.Err() != nil {
		return nil
	}
	if err == nil {
		var how error
		select {
		case how = <-ended:
		case <-ctx.Done(): // Wait waits for it
			return nil
		}
		err = fmt.Errorf("the process that prepares network namespaces has ended: %w", errors.Join(errors.New(cmd.ProcessState.String()), how))
	}
	return err
}

// Wait waits until every process has ended, which is killed if it takes long.
func (p *Preparer) Wait() { p.reaping.Wait() }

// start starts the process.
func (p *Preparer) start(ctx context.Context) (*net.UnixConn, *exec.Cmd, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	_ = unix.SetsockoptInt(pair[0], unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, queue) // else there is less room
	ours, theirs := os.NewFile(uintptr(pair[0]), "preparer"), os.NewFile(uintptr(pair[1]), "daemon")
	defer func() { _ = theirs.Close() }()
	conn, err := connection(ours)
	if err != nil {
		return nil, nil, err
	}
	cmd := exec.CommandContext(context.WithoutCancel(ctx), p.Command[0], p.Command[1:]...) // the end of conn ends it
	cmd.Args[0] = "ambassadord"                                                            // not the path, which may be /proc/self/exe
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // a terminal's interrupt is meant for the daemon
	if err := cmd.Start(); err != nil {
		_ = conn.Close()
		return nil, nil, fmt.Errorf("start the process that prepares network namespaces: %w", err)
	}
	return conn, cmd, nil
}

// follow acts on what the process says, until it ends or says that it cannot go on.
func (p *Preparer) follow(ctx context.Context, conn *net.UnixConn) error {
	buffer, oob := make([]byte, maxMessage), make([]byte, rights.Room(mostDescriptors))
	for {
		if ctx.Err() != nil { // the last words may be many
			_ = conn.SetReadDeadline(time.Now().Add(lastWords))
		}
		n, fds, flags, err := rights.Receive(conn, buffer, oob)
		if err != nil {
			return nil
		}
		var r preparerReport
		if err := json.Unmarshal(buffer[:n], &r); err != nil {
			rights.Close(fds)
			return fmt.Errorf("an answer of the process that prepares network namespaces that is none: %w", err)
		}
		switch {
		case r.Denied:
			return fmt.Errorf("%w: %s", ErrDenied, r.Failure)
		case r.Watching && r.Nice:
			p.Watching(fmt.Errorf("%w: %s", ErrDenied, r.Failure))
		case r.Watching:
			p.Watching(nil)
		case r.Failure != "":
			return hint.Wrap(errors.New(r.Failure), r.Hint)
		case r.Spent:
			p.Spent()
		case len(r.There) > 0:
			for _, path := range r.There {
				p.Appeared(path, nil)
			}
		default:
			made, err := receive(&r, fds, flags&unix.MSG_CTRUNC != 0)
			if err != nil {
				p.Lost(err)
			}
			if r.Unprepared != "" {
				p.Unprepared(r.Path, errors.New(r.Unprepared))
			}
			p.Appeared(r.Path, made)
		}
	}
}

// receive is what r tells of, with fds; nil if that is nothing, or has not arrived. truncated
// says that this process has no room for more descriptors, so that the kernel has closed some.
func receive(r *preparerReport, fds []int, truncated bool) (*Made, error) {
	if len(fds) != r.descriptors() {
		rights.Close(fds)
		if truncated {
			return nil, fmt.Errorf("receive descriptors: %w", unix.EMFILE)
		}
		return nil, fmt.Errorf("%d descriptors came, where it says %d", len(fds), r.descriptors())
	}
	if len(fds) == 0 {
		return nil, nil
	}
	last := len(fds) - 1
	m := &Made{
		Listening: map[netrules.Family]*net.TCPListener{}, Listen: r.Listen, Took: time.Duration(r.Took),
		Rules: advance.Adopt(fds[last], asPorts(r.Ports)),
	}
	var failed error
	for i, fd := range fds[:last] {
		l, err := listener(fd)
		if err != nil {
			failed = cmp.Or(failed, err)
			continue
		}
		m.Listening[netrules.Families()[i]] = l
	}
	if failed != nil {
		m.Close()
		return nil, failed
	}
	return m, nil
}

// listener takes over fd.
func listener(fd int) (*net.TCPListener, error) {
	file := os.NewFile(uintptr(fd), "listener")
	defer func() { _ = file.Close() }() // the listener has a descriptor of its own
	l, err := net.FileListener(file)
	if err != nil {
		return nil, fmt.Errorf("receive a socket: %w", err)
	}
	return l.(*net.TCPListener), nil
}

// connection is socket as one that the runtime waits for.
func connection(socket *os.File) (*net.UnixConn, error) {
	defer func() { _ = socket.Close() }() // the connection has a descriptor of its own
	conn, err := net.FileConn(socket)
	if err != nil {
		return nil, err
	}
	c, ok := conn.(*net.UnixConn)
	if !ok {
		_ = conn.Close()
		return nil, fmt.Errorf("it is a %T", conn)
	}
	return c, nil
}
