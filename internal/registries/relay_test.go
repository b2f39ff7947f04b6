//go:build integration

package registries

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// late is how late a slow server's answers come.
const late = 2 * time.Second

// relay passes what comes over TCP, UDP and Unix sockets on to a server, and spoils the answers
// when it is told to.
type relay struct {
	addr string
	slow atomic.Bool
	half atomic.Int64 // of how many bytes an answer is; 0 for all of it
	mute atomic.Bool  // no answer comes any more

	running sync.WaitGroup
	mu      sync.Mutex
	conns   map[net.Conn]bool
	ended   bool
}

func newRelay(t testing.TB, backend string) *relay {
	t.Helper()
	r := startRelay(t)
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.addr = tcp.Addr().String()
	udp, err := net.ListenPacket("udp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	r.serve(t, tcp, func() (net.Conn, error) { return net.Dial("tcp", backend) })
	r.serveUDP(t, udp, backend)
	return r
}

// startRelay passes nothing on yet. The test ends once all that it will serve has ended.
func startRelay(t testing.TB) *relay {
	r := &relay{}
	t.Cleanup(r.running.Wait) // after every end, for it is the first
	return r
}

// keep has c closed at the end, and reports false if that has come.
func (r *relay) keep(c net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conns == nil {
		r.conns = map[net.Conn]bool{}
	}
	r.conns[c] = true
	return !r.ended
}

// end closes a listener and every connection. What it passed on has ended once startRelay's
// cleanup returns.
func (r *relay) end(listener io.Closer) {
	listener.Close()
	r.mu.Lock()
	r.ended = true
	for c := range r.conns {
		c.Close()
	}
	r.mu.Unlock()
}

// serve passes on what connects to listener until the test ends.
func (r *relay) serve(t testing.TB, listener net.Listener, dial func() (net.Conn, error)) {
	t.Cleanup(func() { r.end(listener) })
	r.running.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := dial()
			if err != nil {
				client.Close()
				continue
			}
			if !r.keep(client) || !r.keep(server) {
				client.Close()
				server.Close()
				continue
			}
			r.running.Go(func() { _, _ = io.Copy(server, client); server.Close() })
			r.running.Go(func() { r.answer(client, server); client.Close(); server.Close() })
		}
	})
}

func (r *relay) serveUDP(t testing.TB, udp net.PacketConn, backend string) {
	t.Cleanup(func() { r.end(udp) })
	r.running.Go(func() {
		buffer := make([]byte, 4096)
		for {
			n, client, err := udp.ReadFrom(buffer)
			if err != nil {
				return
			}
			question := append([]byte(nil), buffer[:n]...)
			server, err := net.Dial("udp", backend)
			if err != nil || !r.keep(server) {
				continue
			}
			r.running.Go(func() {
				defer server.Close()
				_, _ = server.Write(question)
				_ = server.SetReadDeadline(time.Now().Add(5 * time.Second))
				answer := make([]byte, 4096)
				n, err := server.Read(answer)
				if err != nil {
					return
				}
				r.delay()
				if half := r.half.Load(); half != 0 {
					n /= 2
				}
				_, _ = udp.WriteTo(answer[:n], client)
			})
		}
	})
}

func (r *relay) delay() {
	if r.slow.Load() {
		<-time.After(late)
	}
}

// answer passes on what server says, each piece as late as the others.
func (r *relay) answer(client, server net.Conn) {
	type piece struct {
		bytes []byte
		due   time.Time
	}
	pieces := make(chan piece, 1024)
	var writing sync.WaitGroup
	defer writing.Wait()
	writing.Go(func() {
		var sent int64
		for p := range pieces {
			if wait := time.Until(p.due); wait > 0 {
				<-time.After(wait)
			}
			if r.mute.Load() {
				continue
			}
			if half := r.half.Load(); half != 0 && sent+int64(len(p.bytes)) > half {
				_, _ = client.Write(p.bytes[:max(0, min(int64(len(p.bytes)), half-sent))])
				client.Close()
				server.Close()
				continue
			}
			sent += int64(len(p.bytes))
			_, _ = client.Write(p.bytes)
		}
	})
	defer close(pieces)
	for {
		buffer := make([]byte, 16<<10)
		n, err := server.Read(buffer)
		if err != nil {
			return
		}
		due := time.Now()
		if r.slow.Load() {
			due = due.Add(late)
		}
		pieces <- piece{buffer[:n], due}
	}
}
