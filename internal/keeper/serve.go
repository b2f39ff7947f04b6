package keeper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"
	"unique"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/claim"
	"github.com/ambassadord/ambassadord/internal/rights"
	"github.com/ambassadord/ambassadord/proxy"
)

// Serve is the keeper's process: it holds what the daemon hands over through
// socket, which it takes over, until the daemon says farewell, or dies. Then it carries
// the connections on with server until the last has ended. While the daemon lives ctx is of no
// interest: who stops a service ends all of its processes, and the daemon has yet
// to drain. Afterwards its end starts a drain of that length.
//
// orphaned, which may be nil, is called when the daemon is dead and has left connections,
// before the first of their bytes is moved, with the rules that they need; what it returns is
// called with what is needed still.
func Serve(ctx context.Context, socket *os.File, server *proxy.Server, drain time.Duration, orphaned func(claim.Needs) (say func(claim.Needs)), log *slog.Logger) error {
	conn, err := unixConn(socket)
	socket.Close() // conn has a descriptor of its own
	if err != nil {
		return fmt.Errorf("the daemon's socket: %w", err)
	}
	defer conn.Close()
	h := held{files: files{log: log}}
	defer h.files.close()
	farewell, err := h.receive(conn, log)
	if err != nil || farewell || h.count == 0 {
		return err
	}
	log.Warn("the daemon is gone; its connections are carried on", "connections", h.count)
	needed := h.needs()
	if orphaned != nil {
		defer needed.tell(orphaned(needed.now()))()
	}
	h.resume(server, needed, log)
	h.drain(ctx, server, drain)
	log.Info("the last connection of a daemon that is gone has ended")
	return nil
}

// keptPair is a connection as the keeper holds it, which there are thousands of: what many
// have in common it has but once.
type keptPair struct {
	number   uint64 // the daemon's; 0 for no connection
	common   unique.Handle[sharedRoute]
	source   netip.AddrPort
	accepted int64 // nanoseconds since 1970
}

// sharedRoute is what connections from one container to one endpoint have in common.
type sharedRoute struct {
	client   proxy.Client
	port     uint16
	target   string
	endpoint proxy.Endpoint
	attempts int
	options  proxy.Options
	preface  string
	read     int
	need     claim.Need
}

func pairOf(c *connection) keptPair {
	var need claim.Need
	if c.Need != nil {
		need = *c.Need
	}
	return keptPair{
		number: c.Number,
		common: unique.Make(sharedRoute{c.Client, c.Port, c.Target, c.Endpoint, c.Attempts, c.Options, string(c.Preface), c.Read, need}),
		source: c.Source, accepted: c.Accepted.UnixNano(),
	}
}

// live is the connection again, but for its two ends.
func (p *keptPair) live() proxy.Live {
	c := p.common.Value()
	return proxy.Live{
		Route: proxy.Route{
			Client: c.client, Port: c.port, Target: c.target, Options: c.options, Preface: []byte(c.preface), Read: c.read,
		},
		Source: p.source, Endpoint: c.endpoint, Attempts: c.attempts, Accepted: time.Unix(0, p.accepted),
	}
}

// held is what the daemon has handed over.
type held struct {
	pairs []keptPair // by the place in their number, see slab
	count int
	files files
}

func (h *held) put(p keptPair, client, upstream int) {
	at := int(uint32(p.number))
	if at >= len(h.pairs) {
		h.pairs = slices.Grow(h.pairs, at+1-len(h.pairs))[:at+1]
	}
	h.remove(h.pairs[at].number)
	h.pairs[at] = p
	h.files.put(at, int32(client), int32(upstream))
	h.count++
}

// remove closes a connection, if it is there.
func (h *held) remove(number uint64) {
	at := int(uint32(number))
	if number == 0 || at >= len(h.pairs) || h.pairs[at].number != number {
		return
	}
	h.files.remove(at)
	h.pairs[at] = keptPair{}
	h.count--
}

// receive takes messages until the farewell, or until the daemon is gone.
func (h *held) receive(conn *net.UnixConn, log *slog.Logger) (farewell bool, err error) {
	packet, oob := make([]byte, maxMessage), make([]byte, room)
	for {
		n, fds, flags, err := rights.Receive(conn, packet, oob)
		switch {
		case errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET):
			return false, nil
		case err != nil:
			return false, fmt.Errorf("read from the daemon: %w", err)
		}
		m, err := decode(packet[:n])
		switch {
		case err != nil || flags&unix.MSG_TRUNC != 0 || len(fds) != 2*len(m.Kept):
			// It is ours that runs out of descriptors (MSG_CTRUNC), not the daemon's.
			log.Warn("connections could not be taken over; they would end with the daemon",
				"connections", len(m.Kept), "descriptors", len(fds), "error", err)
			rights.Close(fds)
			continue
		case m.Farewell:
			return true, nil
		}
		h.take(m, fds)
		log.Debug("kept", "connections", h.count)
	}
}

func (h *held) take(m message, fds []int) {
	for i, c := range m.Kept {
		h.put(pairOf(&c), fds[2*i], fds[2*i+1])
	}
	for _, number := range m.Released {
		h.remove(number)
	}
}

// needs are the rules that what is held needs.
func (h *held) needs() *needs {
	n := newNeeds()
	for _, p := range h.pairs {
		if p.number != 0 {
			n.add(p.common.Value().need)
		}
	}
	return n
}

// resume hands everything to server, and takes from needed what has ended.
func (h *held) resume(server *proxy.Server, needed *needs, log *slog.Logger) {
	pairs := h.pairs
	h.pairs, h.count = nil, 0
	defer h.files.close()
	for at, p := range pairs {
		if p.number == 0 {
			continue
		}
		live, need := p.live(), p.common.Value().need
		var err error
		if live.Client, live.Upstream, err = h.ends(at); err != nil {
			log.Warn("a connection could not be carried on", "client", live.Route.Client.Name, "error", err)
			needed.end(need)
			continue
		}
		server.Resume(live, func() { needed.end(need) })
	}
}

// ends takes both ends of a connection out of the files.
func (h *held) ends(at int) (client, upstream *net.TCPConn, err error) {
	one, other, err := h.files.take(at)
	if err != nil {
		return nil, nil, err
	}
	client, err = tcpConn(one)
	upstream, err2 := tcpConn(other)
	if err = errors.Join(err, err2); err == nil {
		return client, upstream, nil
	}
	for _, conn := range []*net.TCPConn{client, upstream} {
		if conn != nil {
			conn.Close()
		}
	}
	return nil, nil, err
}

// tcpConn takes fd over.
func tcpConn(fd int) (*net.TCPConn, error) {
	file := os.NewFile(uintptr(fd), "connection")
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		conn.Close()
		return nil, fmt.Errorf("descriptor %d is a %T, not a TCP connection", fd, conn)
	}
	return tcp, nil
}

// drain waits for the connections, and from the end of ctx on for timeout at most.
func (h *held) drain(ctx context.Context, server *proxy.Server, timeout time.Duration) {
	expired, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(timeout, cancel) })
	defer stop()
	server.Drain(expired)
}
