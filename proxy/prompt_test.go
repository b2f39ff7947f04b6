package proxy

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// TestFirstBytesCompleteTheHandshake: where the client has spoken before its connection
// is accepted, the endpoint gets its bytes with the segment that makes the connection.
func TestFirstBytesCompleteTheHandshake(t *testing.T) {
	if !ways.prompt {
		return // a router that takes its time makes the client's bytes late
	}
	came := make(chan uint32, 1)
	server := &Server{}
	l := newLab(t, server, to(backend(t, func(c *net.TCPConn) {
		_, _ = io.ReadFull(c, make([]byte, 1))
		came <- segments(t, c)
		_, _ = c.Write([]byte("y"))
		_, _ = io.Copy(io.Discard, c)
	})))
	gate := make(chan struct{})
	release := sync.OnceFunc(func() { close(gate) })
	t.Cleanup(release)
	for _, loop := range server.loops {
		loop.post(func() { <-gate })
	}
	conn := l.dial()
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	release()
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if n := <-came; n != 2 {
		t.Errorf("the first byte came with segment %d, the SYN included; want 2", n)
	}
}

// TestEndpointSpeaksFirst: an endpoint hears of a client that has yet to speak at once,
// not by the kernel's delayed acknowledgement, after 200 ms.
func TestEndpointSpeaksFirst(t *testing.T) {
	const delayed = 200 * time.Millisecond
	var took time.Duration
	for range 5 { // a busy machine may be slow now and then
		l := newLab(t, &Server{}, to(backend(t, func(c *net.TCPConn) {
			_, _ = c.Write([]byte("x"))
			_, _ = io.Copy(io.Discard, c)
		})))
		began := time.Now()
		if _, err := io.ReadFull(l.dial(), make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if took = time.Since(began); took < delayed {
			return
		}
	}
	t.Errorf("the endpoint's first byte took %s; want less than %s", took, delayed)
}
