package preparer

import (
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
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/advance"
)

// ErrDenied says that the process may not have real-time priority.
var ErrDenied = errors.New("real-time priority is not allowed")

// patience is how long the process may take to take a message, or to end.
const patience = 5 * time.Second

// Preparer is the daemon's side.
type Preparer struct {
	// Command starts the process. It finds its socket at its descriptor 3.
	Command []string
	// Appeared is called, from one goroutine, with the path of each container's network
	// namespace: those that are there, and each new one. made is what is prepared in there,
	// nil if nothing is.
	Appeared func(path string, made *Made)
	// Watching is called when the process watches, and Spent when its priority has been taken
	// away for a while, for it had much to do.
	Watching, Spent func()

	mu    sync.Mutex
	ports []uint16 // the last that Declare was called with
	conn  *net.UnixConn
}

// Made is what was prepared in a namespace: sockets, on which nobody accepts yet, and rules
// that lead there.
type Made struct {
	Listening map[netrules.Family]*net.TCPListener
	Listen    uint16         // their port
	Rules     *advance.Rules // nil where the kernel has no means for them
	Took      time.Duration
}

// Close undoes it.
func (m *Made) Close() {
	for _, l := range m.Listening {
		_ = l.Close()
	}
	if m.Rules != nil {
		_ = m.Rules.Close()
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
func (v *Preparer) Declare(ports []uint16) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.ports != nil && slices.Equal(ports, v.ports) {
		return
	}
	v.ports = append([]uint16{}, ports...)
	v.order()
}

// order sends what was declared, if there is somebody to take it. v.mu is held.
func (v *Preparer) order() {
	if v.conn == nil || v.ports == nil {
		return
	}
	packet, err := encode(order{Ports: v.ports})
	if err == nil {
		err = v.conn.SetWriteDeadline(time.Now().Add(patience))
	}
	if err == nil {
		_, err = v.conn.Write(packet)
	}
	if err != nil {
		_ = v.conn.Close() // which ends Run
		v.conn = nil
	}
}

// Run runs the process until ctx ends, and then returns nil. It begins to watch with the first
// Declare. Where that may not have the priority, the error is ErrDenied. It may be called again
// after an error.
func (v *Preparer) Run(ctx context.Context) error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "preparer"), os.NewFile(uintptr(pair[1]), "daemon")
	defer func() { _ = theirs.Close() }()
	conn, err := connection(ours)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	cmd := exec.CommandContext(context.WithoutCancel(ctx), v.Command[0], v.Command[1:]...) // the end of conn ends it
	cmd.Args[0] = "ambassadord"                                                            // not the path, which may be /proc/self/exe
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // a terminal's interrupt is meant for the daemon
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the process that prepares network namespaces: %w", err)
	}
	_ = theirs.Close()
	v.mu.Lock()
	v.conn = conn
	v.order()
	v.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	err = v.follow(conn)
	stop()
	v.mu.Lock()
	v.conn = nil
	v.mu.Unlock()
	_ = conn.Close()
	late := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() }) // our own child, not reaped yet
	defer late.Stop()
	ended := cmd.Wait()
	if ctx.Err() != nil {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("the process that prepares network namespaces has ended: %w", errors.Join(errors.New(cmd.ProcessState.String()), ended))
	}
	return err
}

// follow acts on what the process says, until it ends or says that it cannot go on.
func (v *Preparer) follow(conn *net.UnixConn) error {
	buffer, oob := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(3*4))
	for {
		n, oobn, _, _, err := conn.ReadMsgUnix(buffer, oob)
		if err != nil || n == 0 {
			return nil
		}
		fds := rights(oob[:oobn])
		var r report
		if err := json.Unmarshal(buffer[:n], &r); err != nil || len(fds) != r.descriptors() {
			closeAll(fds)
			return fmt.Errorf("an answer with %d descriptors that is none: %w", len(fds), err)
		}
		switch {
		case r.Denied:
			return fmt.Errorf("%w: %s", ErrDenied, r.Failure)
		case r.Failure != "":
			return hint.Wrap(errors.New(r.Failure), r.Hint)
		case r.Watching:
			v.Watching()
		case r.Spent:
			v.Spent()
		default:
			v.Appeared(r.Path, made(&r, fds))
		}
	}
}

// made is what r tells of; nil if that is nothing.
func made(r *report, fds []int) *Made {
	if len(fds) == 0 {
		return nil
	}
	m := &Made{Listening: map[netrules.Family]*net.TCPListener{}, Listen: r.Listen, Took: time.Duration(r.Took)}
	if r.Rules {
		m.Rules = advance.Adopt(fds[len(fds)-1], asPorts(r.Ports))
		fds = fds[:len(fds)-1]
	}
	for i, f := range []netrules.Family{netrules.IPv4, netrules.IPv6}[:len(fds)] {
		if l := listener(fds[i]); l != nil {
			m.Listening[f] = l
		}
	}
	if m.Listening[netrules.IPv4] == nil {
		m.Close()
		return nil
	}
	return m
}

// listener takes over fd.
func listener(fd int) *net.TCPListener {
	file := os.NewFile(uintptr(fd), "listener")
	defer func() { _ = file.Close() }() // the listener has a descriptor of its own
	l, err := net.FileListener(file)
	if err != nil {
		return nil
	}
	return l.(*net.TCPListener)
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
