package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/backoff"
)

// splice copies both ways until both are done, and closes both connections. The
// end of one stream is passed on as the end of that stream alone (half-close,
// RFC 9293 §3.6); a reset of one connection is passed on as a reset of the other,
// after all that came before it. A direction that is over already is left alone.
// When ctx ends both are reset and ctx's cause is the error; likewise when a limit
// is passed.
func splice(ctx context.Context, client, upstream *net.TCPConn, over ended, bounds limits) (up, down int64, err error) {
	p := &pair{client: client, upstream: upstream, stall: firstPositive(bounds.Stall, defaultStall)}
	p.running.Store(2)
	bounds.Stall = 0
	if bounds != (limits{}) {
		p.timers = &timers{limits: bounds, client: client, upstream: upstream, idleFor: idleFor, cut: p.cut}
	}
	p.up.init(p, &p.down, client, upstream, over.up)
	p.down.init(p, &p.up, upstream, client, over.down)
	stop := context.AfterFunc(ctx, func() { p.cut(context.Cause(ctx)) })
	p.timers.start()
	upDone := make(chan struct{})
	go copyUp(&p.up, upDone)
	p.down.run()
	<-upDone
	stop()
	p.timers.stop()

	if err = p.settle(nil); err != nil {
		for _, conn := range []*net.TCPConn{client, upstream} {
			flush(conn, p.stall) // nothing, where that has been done
			reset(conn)
		}
		return p.up.bytes, p.down.bytes, err
	}
	client.Close()
	upstream.Close()
	return p.up.bytes, p.down.bytes, nil
}

// ended is which directions are over.
type ended struct{ up, down bool }

// copyUp is named so that a stack dump says which way a goroutine copies; down
// is splice itself.
func copyUp(up *direction, done chan<- struct{}) {
	defer close(done)
	up.run()
}

// pair is a client's connection and the endpoint's.
type pair struct {
	client, upstream *net.TCPConn
	up, down         direction
	running          atomic.Int32  // directions that have not ended
	stall            time.Duration // as in limits
	timers           *timers       // nil without limits

	mu      sync.Mutex
	settled bool
	cause   error // nil for a clean end
}

// settle says why the splice ends, unless that has been said; it returns what has.
func (p *pair) settle(cause error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.settleLocked(cause)
}

func (p *pair) settleLocked(cause error) error {
	if !p.settled {
		p.settled, p.cause = true, cause
	}
	return p.cause
}

// cut ends both connections at once, unless they have ended cleanly. Whoever settles
// later waits until both are closed: the splice has not ended before.
func (p *pair) cut(cause error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.settleLocked(cause) != nil {
		reset(p.client)
		reset(p.upstream)
	}
}

// left settles that the peer of conn has broken the connection.
func (p *pair) left(conn *net.TCPConn, err error) {
	if conn == p.client {
		_ = p.settle(Fail(ClientGone, fmt.Errorf("the client broke the connection: %w", plain(err))))
		return
	}
	_ = p.settle(Fail(EndpointGone, fmt.Errorf("the endpoint broke the connection: %w", plain(err))))
}

// plain strips the addresses of an operation error: the log line has them.
func plain(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

// run copies until src ends, and passes that on. Then, for as long as the other
// direction lasts, it watches src for a reset, which nobody else would see when the
// other direction has nothing to write.
func (d *direction) run() {
	if !d.finished.Load() {
		broken, err := d.copy()
		switch {
		case broken == d.dst && gone(d.dst):
			// Nobody reads what src sends. What dst sent before has reached us before
			// its reset did; the other direction copies that, and then finds the reset.
			d.pair.left(d.dst, err)
			return
		case broken != nil && !gone(broken):
			d.pair.left(broken, err)
			d.pair.cut(err)
			return
		case broken != nil:
			d.srcBroke(err)
			return
		}
	}
	if d.pair.running.Add(-1) == 0 {
		_ = d.dst.SetReadDeadline(longAgo) // the other direction's watch is over
		return
	}
	d.pair.timers.halfClosed()
	if d.watch() {
		d.srcBroke(unix.ECONNRESET)
	}
}

// srcBroke passes a reset of src on, after the bytes that came before it: they have
// been acknowledged to src's peer, which would find them lost otherwise.
func (d *direction) srcBroke(err error) {
	d.pair.left(d.src, err)
	if !d.stalled {
		flush(d.dst, d.pair.stall)
	}
	reset(d.dst)
}

// watch waits until src is reset, which it reports, or the splice is over.
func (d *direction) watch() bool {
	err := d.srcRaw.Read(func(fd uintptr) bool {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		return err != nil || info.State == tcpClose
	})
	// When we have ended our stream as well, the state says nothing.
	return err == nil && !d.opposite.finished.Load()
}

// flush waits until the peer's kernel has all that was written to conn: closing
// with a reset throws away what waits to be sent. It gives up on a peer that takes
// nothing for patience.
func flush(conn *net.TCPConn, patience time.Duration) {
	const shortest, longest = 200 * time.Microsecond, 50 * time.Millisecond
	least, moved := -1, time.Now()
	pauses := backoff.Backoff{Base: shortest, Max: longest}
	for {
		waiting, err := unacknowledged(conn)
		if err != nil || waiting == 0 || gone(conn) {
			return
		}
		if least < 0 || waiting < least {
			least, moved = waiting, time.Now()
			pauses.Reset()
		}
		if time.Since(moved) > patience {
			return
		}
		time.Sleep(pauses.Next())
	}
}
