package proxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/proxy/internal/socket"
	"github.com/ambassadord/ambassadord/proxy/internal/sockettest"
)

// carrier carries a connection; a relay, or what it is compared with.
type carrier func(client, upstream *net.TCPConn)

func byRelay(client, upstream *net.TCPConn) {
	between(context.Background(), client, upstream, limits{})
}

// between has a relay of a loop of its own carry a connection with these limits, and resets it
// when ctx ends. It returns when that has ended.
func between(ctx context.Context, client, upstream *net.TCPConn, bounds limits) Record {
	done := make(chan Record, 1)
	server := &Server{Done: func(r Record) { done <- r }}
	server.init()
	server.enter()
	r := &relay{route: &Route{}, verdict: &unjudged{}, more: &more{bounds: bounds, leave: func() {}}}
	if !server.relay(r, client, upstream, time.Now()) {
		panic("no descriptor is left")
	}
	defer context.AfterFunc(ctx, func() { r.loop.post(func() { r.cut(context.Cause(ctx)) }) })()
	record := <-done
	server.Drain(context.Background())
	return record
}

// copyRelay is the plain way: io.Copy, which is splice(2) as well.
func copyRelay(client, upstream *net.TCPConn) {
	var both sync.WaitGroup
	for _, way := range [][2]*net.TCPConn{{client, upstream}, {upstream, client}} {
		both.Go(func() {
			_, _ = io.Copy(way[1], way[0])
			_ = way[1].CloseWrite()
		})
	}
	both.Wait()
	client.Close()
	upstream.Close()
}

// relayed returns the far ends of a connection that carry carries.
func relayed(t testing.TB, carry carrier) (client, endpoint *net.TCPConn) {
	t.Helper()
	client, accepted := sockettest.Couple(t)
	dialled, endpoint := sockettest.Couple(t)
	for _, conn := range []*net.TCPConn{client, accepted, dialled, endpoint} {
		if err := conn.SetDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan struct{})
	go func() { defer close(done); carry(accepted, dialled) }()
	t.Cleanup(func() {
		socket.Reset(client)
		socket.Reset(endpoint)
		<-done
	})
	return client, endpoint
}

var relays = []struct {
	name string
	do   carrier
}{{"relay", byRelay}, {"io.Copy", copyRelay}}

// BenchmarkBulk is how fast one connection goes.
func BenchmarkBulk(b *testing.B) {
	for _, r := range relays {
		b.Run(r.name, func(b *testing.B) {
			client, endpoint := relayed(b, r.do)
			block := make([]byte, 1<<20)
			b.SetBytes(int64(len(block)))
			b.ReportAllocs()
			received := make(chan error, 1)
			go func() {
				_, err := io.CopyBuffer(io.Discard, io.LimitReader(onlyReader{endpoint}, int64(b.N*len(block))), make([]byte, 1<<20))
				received <- err
			}()
			b.ResetTimer()
			for range b.N {
				if _, err := client.Write(block); err != nil {
					b.Fatal(err)
				}
			}
			if err := <-received; err != nil {
				b.Fatal(err)
			}
		})
	}
}

// BenchmarkPingPong is how long a question of 100 bytes and its answer take.
func BenchmarkPingPong(b *testing.B) {
	for _, r := range relays {
		b.Run(r.name, func(b *testing.B) {
			client, endpoint := relayed(b, r.do)
			go func() { _, _ = io.CopyBuffer(endpoint, onlyReader{endpoint}, make([]byte, 100)) }()
			message := make([]byte, 100)
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				if _, err := client.Write(message); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(client, message); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Bytes that move allocate nothing.
func TestRelayAllocatesNothing(t *testing.T) {
	client, endpoint := relayed(t, byRelay)
	message := make([]byte, 100)
	pass := func() {
		if _, err := client.Write(message); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(endpoint, message); err != nil {
			t.Fatal(err)
		}
	}
	pass()
	if n := testing.AllocsPerRun(1000, pass); n >= 1 {
		t.Errorf("%v allocations for each message, want none", n)
	}
}

// openPipes counts the descriptors of this process that are pipes.
func openPipes(t *testing.T) (n int) {
	t.Helper()
	for _, name := range descriptors(t) {
		if strings.HasPrefix(name, "pipe:") {
			n++
		}
	}
	return n
}

// descriptors are what this process has open.
func descriptors(t *testing.T) (names []string) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if name, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			names = append(names, name)
		}
	}
	return names
}

// A connection that waits for its peers holds its two sockets and nothing else.
func TestIdleConnectionsHoldNoPipe(t *testing.T) {
	const connections = 100
	var clients, endpoints []*net.TCPConn
	for range connections {
		client, endpoint := relayed(t, byRelay)
		clients, endpoints = append(clients, client), append(endpoints, endpoint)
	}
	before := openPipes(t)
	b := make([]byte, 1)
	for i := range clients {
		for _, way := range [][2]*net.TCPConn{{clients[i], endpoints[i]}, {endpoints[i], clients[i]}} {
			mustWrite(t, way[0], "x")
			if _, err := io.ReadFull(way[1], b); err != nil {
				t.Fatal(err)
			}
		}
	}
	if now, most := openPipes(t), before+2*idlePipes; now > most {
		t.Errorf("%d descriptors of pipes with %d idle connections, %d before; want %d at most", now, connections, before, most)
	}
}

// Peers that take nothing keep pipes for what is theirs; they get back when those
// leave, and beyond a bound there are none.
func TestBlockedConnectionsGiveTheirPipesBack(t *testing.T) {
	before := pipesMade()
	const connections = 2 * idlePipes
	var ends []*net.TCPConn
	for range connections {
		client, endpoint := relayed(t, byRelay)
		for _, conn := range []*net.TCPConn{client, endpoint} {
			_ = conn.SetReadBuffer(64 << 10)
			_ = conn.SetWriteBuffer(64 << 10)
		}
		go func() { // until it is reset
			_, _ = io.CopyBuffer(onlyWriter{client}, endless{}, make([]byte, 64<<10))
		}()
		ends = append(ends, client, endpoint)
	}
	wait(t, "every connection is blocked with a pipe", func() bool { return pipesMade() >= before+connections-idlePipes })
	for _, conn := range ends {
		socket.Reset(conn)
	}
	wait(t, "the pipes are given back", func() bool { return pipesMade() <= idlePipes })
}

func pipesMade() int {
	pipes.mu.Lock()
	defer pipes.mu.Unlock()
	return pipes.made
}

type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }

// onlyWriter hides the ReadFrom of a connection.
type onlyWriter struct{ io.Writer }

// wait waits for what nobody announces.
func wait(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("in vain: %s", what)
		}
	}
}

// Where no pipe is to be had bytes go through memory, the urgent one with its mark.
func TestRelayWithoutPipes(t *testing.T) {
	pipes.mu.Lock()
	most, idle := pipes.most, pipes.idle
	pipes.most, pipes.idle = 1, nil // and none is free, once this one is made
	pipes.made++
	pipes.mu.Unlock()
	defer func() {
		pipes.mu.Lock()
		pipes.most, pipes.idle = most, idle
		pipes.made--
		pipes.mu.Unlock()
	}()
	client, endpoint := relayed(t, byRelay)
	sent := random(3 << 20)
	var sending sync.WaitGroup
	sending.Go(func() {
		_, _ = client.Write(sent)
		onSocket(t, client, func(fd int) { _, _ = unix.SendmsgN(fd, []byte("!"), nil, nil, unix.MSG_OOB) })
		_, _ = client.Write([]byte("after"))
		_ = client.CloseWrite()
	})
	onSocket(t, endpoint, func(fd int) { _ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_OOBINLINE, 1) })
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(endpoint, got); err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%v, or other bytes than were sent", err)
	}
	wait(t, "the mark", func() (marked bool) {
		onSocket(t, endpoint, func(fd int) { marked = socket.AtMark(fd) })
		return marked
	})
	if rest, err := io.ReadAll(endpoint); err != nil || string(rest) != "!after" {
		t.Errorf("after it %q, %v", rest, err)
	}
	sending.Wait()
}

// The bound on pipes leaves most descriptors to connections.
func TestAffordablePipes(t *testing.T) {
	if n := affordablePipes(); n < 1 || n > mostPipes {
		t.Errorf("%s pipes", strconv.Itoa(n))
	}
}

// A write that fails uses up the error of a socket, and what is read from it after
// that looks like the end of the stream. It must not be passed on as one.
func TestResetWhoseErrorIsUsedUp(t *testing.T) {
	client, accepted := sockettest.Couple(t)
	dialled, endpoint := sockettest.Couple(t)
	for _, conn := range []*net.TCPConn{accepted, dialled} {
		if err := conn.SetDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
	}
	ours, theirs := duplicateOf(t, accepted), duplicateOf(t, dialled) // the relay's own nobody else has
	done := make(chan error, 1)
	go func() { done <- between(t.Context(), accepted, dialled, limits{}).Err }()
	// The client reads nothing, so down is blocked in writing and does not see that
	// the endpoint resets.
	block(t, endpoint)
	socket.Reset(endpoint)
	wait(t, "the reset is here", func() bool { return socket.Gone(theirs) })
	mustWrite(t, client, "x")
	wait(t, "a write of up has failed", func() (read bool) {
		onSocket(t, ours, func(fd int) {
			n, err := unix.IoctlGetInt(fd, unix.SIOCINQ)
			read = err == nil && n == 0 // and it is written at once
		})
		return read
	})
	ours.Close()
	theirs.Close()
	if _, err := io.Copy(io.Discard, onlyReader{client}); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the client reads %v at the end, want the reset", err)
	}
	if err := <-done; ReasonOf(err) != EndpointGone {
		t.Errorf("ended with %v, want the reason %s", err, EndpointGone)
	}
}

// duplicateOf is another descriptor of a connection.
func duplicateOf(t *testing.T, conn *net.TCPConn) *net.TCPConn {
	t.Helper()
	file, err := conn.File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	same, err := net.FileConn(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { same.Close() })
	return same.(*net.TCPConn)
}

// block sends until nothing more is taken, and reports how much was.
func block(t *testing.T, conn *net.TCPConn) (sent int) {
	t.Helper()
	much := make([]byte, 1<<20)
	for n := 1; n > 0; sent += n {
		var err error
		if err = conn.SetWriteDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if n, err = conn.Write(much); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
	}
	return sent
}

// onSocket calls do with conn's descriptor.
func onSocket(t *testing.T, conn syscall.Conn, do func(fd int)) {
	t.Helper()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { do(int(fd)) }); err != nil {
		t.Fatal(err)
	}
}

// A small message must not wait until the one before it is acknowledged (RFC 896), which
// takes up to 40 ms.
func TestMessagesDoNotWait(t *testing.T) {
	kept := make(chan Connection, 1)
	server := &Server{Keeper: keeperFunc(func(c Connection) { kept <- c })}
	l := newLab(t, server, to(echoer(t, 1)))
	conn := l.dial()
	for range 2 {
		if _, err := conn.Write([]byte("?")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	client, upstream, ok := (<-kept).Duplicate()
	if !ok {
		t.Fatal("no descriptors of a connection that lives")
	}
	for name, fd := range map[string]int{"client": client, "endpoint": upstream} {
		defer unix.Close(fd)
		if on, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY); on == 0 || err != nil {
			t.Errorf("towards the %s TCP_NODELAY is %d, %v; want it on", name, on, err)
		}
	}
}

func mustWrite(t *testing.T, conn *net.TCPConn, text string) {
	t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
}
