package keeper

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/claim"
	"github.com/ambassadord/ambassadord/internal/rights"
	"github.com/ambassadord/ambassadord/internal/rundir"
)

// child is the keeper's process as the daemon sees it. A nil child is none.
type child struct {
	conn  *net.UnixConn
	claim *rundir.Claim // nil if there could be none
	cmd   *exec.Cmd
	kept  []connection  // of a message, to be used again
	done  chan struct{} // closed when the process has ended
	err   error         // why; valid after done
}

// spawn starts command with one end of a new socket at its descriptor 3, and, unless that is
// nil, the file of claimed at 4, of which it is told by the flag --claim. It gets a session of
// its own (setsid(2)), so that a terminal's interrupt, which is meant for the daemon, passes
// it by. It takes claimed over, which is released when the process has ended, or on an error.
func spawn(ctx context.Context, command []string, claimed *rundir.Claim) (c *child, err error) {
	defer func() {
		if err != nil && claimed != nil {
			claimed.Release()
		}
	}()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "keeper"), os.NewFile(uintptr(pair[1]), "daemon")
	defer theirs.Close()
	defer ours.Close() // conn has a descriptor of its own
	conn, err := unixConn(ours)
	if err != nil {
		return nil, err
	}
	files := []*os.File{theirs}
	if claimed != nil {
		files = append(files, claimed.File())
		command = append(slices.Clone(command), "--claim", claimed.Name())
	}
	cmd := exec.CommandContext(context.WithoutCancel(ctx), command[0], command[1:]...) // a farewell ends it
	cmd.Args[0] = "ambassadord"                                                        // not the path, which may be /proc/self/exe
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.ExtraFiles = files
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		conn.Close()
		return nil, fmt.Errorf("start the process that keeps connections: %w", err)
	}
	if claimed != nil {
		claimed.HandedOver()
	}
	c = &child{conn: conn, claim: claimed, cmd: cmd, done: make(chan struct{})}
	go c.wait()
	return c, nil
}

func (c *child) wait() {
	defer close(c.done)
	c.err = c.cmd.Wait()
	c.conn.Close()
	if c.claim != nil {
		c.claim.Release()
	}
}

// ended is closed when the process has ended.
func (c *child) ended() <-chan struct{} {
	if c == nil {
		return nil
	}
	return c.done
}

// send tells of connections to keep and of those that have ended. A keeper that
// does not take it in time is of no use any more and is ended.
func (c *child) send(due []handover, released []uint64) {
	if err := c.sendAll(due, released); err != nil && !errors.Is(err, net.ErrClosed) {
		_ = c.cmd.Process.Kill() // it is our own child, and not reaped before done
		<-c.done
		c.err = errors.Join(err, c.err)
	}
}

func (c *child) sendAll(due []handover, released []uint64) error {
	for len(due) > 0 {
		n := min(len(due), perMessage)
		if err := c.sendKept(due[:n]); err != nil {
			return err
		}
		due = due[n:]
	}
	for len(released) > 0 {
		n := min(len(released), maxReleased)
		if err := c.write(message{Released: released[:n]}, nil); err != nil {
			return err
		}
		released = released[n:]
	}
	return nil
}

// sendKept hands over the descriptors of connections. One that has been closed
// meanwhile is skipped; its release follows and finds nothing.
func (c *child) sendKept(due []handover) error {
	m := message{Kept: c.kept[:0]}
	fds := make([]int, 0, 2*perMessage)
	defer func() { rights.Close(fds) }() // the message holds references of its own
	for _, h := range due {
		client, upstream, ok := h.conn.Duplicate()
		if !ok {
			continue
		}
		fds = append(fds, client, upstream)
		live := h.conn.Live()
		described := describe(h.number, live)
		if need := needOf(client, live.Source.Addr()); need != (claim.Need{}) {
			described.Need = &need
		}
		m.Kept = append(m.Kept, described)
	}
	if len(m.Kept) == 0 {
		return nil
	}
	defer clear(m.Kept)
	c.kept = m.Kept
	return c.write(m, unix.UnixRights(fds...))
}

func (c *child) write(m message, oob []byte) error {
	packet, err := m.encode()
	if err != nil {
		return err
	}
	if err := c.conn.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	_, _, err = c.conn.WriteMsgUnix(packet, oob, nil)
	return err
}

// dismiss says farewell and waits for the process to end.
func (c *child) dismiss() {
	if c == nil {
		return
	}
	if err := c.write(message{Farewell: true}, nil); err != nil {
		_ = c.cmd.Process.Kill()
	}
	timer := time.AfterFunc(patience, func() { _ = c.cmd.Process.Kill() })
	defer timer.Stop()
	<-c.done
}

// unixConn is file as a connection, which has a descriptor of its own.
func unixConn(file *os.File) (*net.UnixConn, error) {
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		conn.Close()
		return nil, fmt.Errorf("%s is a %T, not a Unix socket", file.Name(), conn)
	}
	return unixConn, nil
}
