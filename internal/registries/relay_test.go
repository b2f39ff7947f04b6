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

// relay passes what comes over TCP and UDP on to a server, and spoils the answers when it is
// told to.
type relay struct {
	addr    string
	backend string
	slow    atomic.Bool
	half    atomic.Int64 // of how many bytes an answer is; 0 for all of it
}

func newRelay(t testing.TB, backend string) *relay {
	t.Helper()
	r := &relay{backend: backend}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.addr = tcp.Addr().String()
	udp, err := net.ListenPacket("udp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	var (
		running sync.WaitGroup
		mu      sync.Mutex
		conns   = map[net.Conn]bool{}
		ended   bool
	)
	keep := func(c net.Conn) bool {
		mu.Lock()
		defer mu.Unlock()
		conns[c] = true
		return !ended
	}
	t.Cleanup(func() {
		tcp.Close()
		udp.Close()
		mu.Lock()
		ended = true
		for c := range conns {
			c.Close()
		}
		mu.Unlock()
		running.Wait()
	})
	running.Go(func() {
		for {
			client, err := tcp.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", r.backend)
			if err != nil || !keep(client) || !keep(server) {
				client.Close()
				continue
			}
			running.Go(func() { _, _ = io.Copy(server, client); server.Close() })
			running.Go(func() { r.answer(client, server); client.Close(); server.Close() })
		}
	})
	running.Go(func() {
		buffer := make([]byte, 4096)
		for {
			n, client, err := udp.ReadFrom(buffer)
			if err != nil {
				return
			}
			question := append([]byte(nil), buffer[:n]...)
			server, err := net.Dial("udp", r.backend)
			if err != nil || !keep(server) {
				continue
			}
			running.Go(func() {
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
	return r
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
