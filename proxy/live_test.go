package proxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/proxy/internal/socket"
	"github.com/ambassadord/ambassadord/proxy/internal/sockettest"
)

// inherited is a connection as its carrier left it: the test is the client, the
// endpoint, and before Resume the carrier that dies.
type inherited struct {
	t                *testing.T
	client, endpoint *net.TCPConn // the far ends
	live             Live
}

func inherit(t *testing.T) *inherited {
	t.Helper()
	i := &inherited{t: t}
	i.client, i.live.Client = sockettest.Couple(t)
	i.live.Upstream, i.endpoint = sockettest.Couple(t)
	i.live.Accepted = time.Now()
	return i
}

func (i *inherited) write(conn *net.TCPConn, text string) {
	i.t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		i.t.Fatal(err)
	}
}

func (i *inherited) read(conn *net.TCPConn, want string) {
	i.t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != want {
		i.t.Fatalf("read %q, %v; want %q", got, err, want)
	}
}

func (i *inherited) closeWrite(conn *net.TCPConn) {
	i.t.Helper()
	if err := conn.CloseWrite(); err != nil {
		i.t.Fatal(err)
	}
}

// readEnd waits for the end of what src sends, as a carrier does before it passes
// that on.
func (i *inherited) readEnd(src *net.TCPConn) {
	i.t.Helper()
	if n, err := src.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		i.t.Fatalf("read %d bytes, %v; want the end", n, err)
	}
}

// carry passes text on as the carrier that dies later.
func (i *inherited) carry(from, src, dst, to *net.TCPConn, text string) {
	i.t.Helper()
	i.write(from, text)
	i.read(src, text)
	i.write(dst, text)
	i.read(to, text)
}

// resume lets a server carry on and returns its record and what arrived at the far
// ends until then.
func (i *inherited) resume() (record Record, atEndpoint, atClient []byte) {
	i.t.Helper()
	records := make(chan Record, 1)
	server := &Server{Done: func(r Record) { records <- r }}
	server.Resume(i.live, nil)
	read := func(conn *net.TCPConn) <-chan []byte {
		all := make(chan []byte, 1)
		go func() {
			b, _ := io.ReadAll(conn)
			all <- b
		}()
		return all
	}
	up, down := read(i.endpoint), read(i.client)
	atEndpoint, atClient = <-up, <-down
	record = <-records
	ctx, cancel := context.WithCancel(i.t.Context())
	cancel()
	server.Drain(ctx)
	return record, atEndpoint, atClient
}

// What is at rest goes on, in whatever state its carrier left it.
func TestResume(t *testing.T) {
	for _, test := range []struct {
		name     string
		before   func(i *inherited) // the carrier's last deeds
		up, down string             // what the far ends still send
		record   Record             // the bytes in all
	}{{
		name:   "nothing has happened",
		before: func(*inherited) {},
		up:     "question", down: "answer",
		record: Record{Up: 8, Down: 6},
	}, {
		name: "bytes both ways",
		before: func(i *inherited) {
			i.carry(i.client, i.live.Client, i.live.Upstream, i.endpoint, "question")
			i.carry(i.endpoint, i.live.Upstream, i.live.Client, i.client, "answer")
		},
		up: "more", down: "still more",
		record: Record{Up: 12, Down: 16},
	}, {
		name: "the client has ended, and the endpoint knows",
		before: func(i *inherited) {
			i.carry(i.client, i.live.Client, i.live.Upstream, i.endpoint, "question")
			i.closeWrite(i.client)
			i.readEnd(i.live.Client)
			i.closeWrite(i.live.Upstream)
		},
		down:   "answer",
		record: Record{Up: 8, Down: 6},
	}, {
		name: "the client has ended, and the endpoint does not know",
		before: func(i *inherited) {
			i.closeWrite(i.client)
			i.readEnd(i.live.Client)
		},
		down:   "answer",
		record: Record{Down: 6},
	}, {
		name: "the endpoint has ended, and the client knows",
		before: func(i *inherited) {
			i.carry(i.endpoint, i.live.Upstream, i.live.Client, i.client, "banner")
			i.closeWrite(i.endpoint)
			i.readEnd(i.live.Upstream)
			i.closeWrite(i.live.Client)
		},
		up:     "thanks",
		record: Record{Up: 6, Down: 6},
	}, {
		name: "both have ended, and each knows of the other",
		before: func(i *inherited) {
			i.carry(i.client, i.live.Client, i.live.Upstream, i.endpoint, "question")
			i.closeWrite(i.client)
			i.readEnd(i.live.Client)
			i.closeWrite(i.live.Upstream)
			i.closeWrite(i.endpoint)
			i.readEnd(i.live.Upstream)
			i.closeWrite(i.live.Client)
		},
		record: Record{Up: 8},
	}} {
		t.Run(test.name, func(t *testing.T) {
			i := inherit(t)
			test.before(i)
			for _, far := range []struct {
				conn *net.TCPConn
				text string
			}{{i.client, test.up}, {i.endpoint, test.down}} {
				if far.text != "" {
					i.write(far.conn, far.text)
					i.closeWrite(far.conn)
				}
			}
			record, up, down := i.resume()
			if string(up) != test.up || string(down) != test.down {
				t.Errorf("passed on %q and %q, want %q and %q", up, down, test.up, test.down)
			}
			if record.Err != nil || record.Up != test.record.Up || record.Down != test.record.Down {
				t.Errorf("record: %d up, %d down, %v; want %d, %d and no error",
					record.Up, record.Down, record.Err, test.record.Up, test.record.Down)
			}
		})
	}
}

// A connection of which one stream had ended before has no longer for the other than one of
// which that ends now.
func TestResumeHalfClosed(t *testing.T) {
	i := inherit(t)
	i.live.Route.Options.HalfClosed = 20 * time.Millisecond
	i.closeWrite(i.client)
	i.readEnd(i.live.Client)
	i.closeWrite(i.live.Upstream)
	if record, _, _ := i.resume(); ReasonOf(record.Err) != HalfClosedTimeout {
		t.Errorf("ended with %v; want the reason %s", record.Err, HalfClosedTimeout)
	}
}

// What waits in the kernel is not lost with the carrier, however much it is.
func TestResumeWithFullBuffers(t *testing.T) {
	i := inherit(t)
	block := bytes.Repeat([]byte("0123456789abcdef"), 4096)
	var sent int
	fill := func(conn *net.TCPConn) (n int) { // until it takes no more
		t.Helper()
		raw, err := conn.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		err = raw.Write(func(fd uintptr) bool {
			for {
				w, err := syscall.Write(int(fd), block)
				if err != nil {
					return true
				}
				n += w
				if w < len(block) {
					return true
				}
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	sent = fill(i.live.Upstream) // the endpoint does not read
	// The carrier has read as much from the client as it has written.
	go func() {
		for left := sent; left > 0; {
			n, err := i.client.Write(block[:min(left, len(block))])
			if err != nil {
				t.Error(err)
				return
			}
			left -= n
		}
	}()
	if _, err := io.CopyN(io.Discard, onlyReader{i.live.Client}, int64(sent)); err != nil {
		t.Fatal(err)
	}
	i.write(i.client, "unread")
	i.closeWrite(i.client)
	i.closeWrite(i.endpoint)
	record, up, _ := i.resume()
	if want := int64(sent + len("unread")); record.Err != nil || record.Up != want || int64(len(up)) != want {
		t.Errorf("%d bytes arrived, record %d, %v; want %d", len(up), record.Up, record.Err, want)
	}
}

// onlyReader hides the WriteTo of a connection.
type onlyReader struct{ io.Reader }

// A hole in a stream must not be closed over.
func TestResumeWithBytesLost(t *testing.T) {
	for _, test := range []struct {
		name   string
		before func(i *inherited)
	}{
		{"from the client", func(i *inherited) {
			i.write(i.client, "question")
			i.read(i.live.Client, "q")
		}},
		{"from the endpoint", func(i *inherited) {
			i.write(i.endpoint, "answer")
			i.read(i.live.Upstream, "answer")
			i.write(i.live.Client, "answe")
		}},
		{"both ways, as many", func(i *inherited) {
			i.write(i.client, "x")
			i.read(i.live.Client, "x")
			i.write(i.endpoint, "y")
			i.read(i.live.Upstream, "y")
		}},
		{"before the end", func(i *inherited) {
			i.write(i.client, "question")
			i.read(i.live.Client, "question")
			i.closeWrite(i.client)
			i.readEnd(i.live.Client)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			i := inherit(t)
			test.before(i)
			record, _, _ := i.resume()
			if ReasonOf(record.Err) != DaemonGone {
				t.Errorf("record: %v, want the reason %s", record.Err, DaemonGone)
			}
			for _, far := range []*net.TCPConn{i.client, i.endpoint} {
				if !socket.Gone(far) {
					t.Error("an end was not reset")
				}
			}
		})
	}
}

// An end that broke meanwhile breaks the other.
func TestResumeAfterReset(t *testing.T) {
	i := inherit(t)
	socket.Reset(i.client)
	if _, err := i.live.Client.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("read %v, want the reset", err)
	}
	record, _, _ := i.resume()
	if ReasonOf(record.Err) != DaemonGone || !socket.Gone(i.endpoint) {
		t.Errorf("record: %v, endpoint reset: %t", record.Err, socket.Gone(i.endpoint))
	}
}

// fakeKeeper sends what it is called with.
type fakeKeeper struct {
	kept     chan<- Connection
	released chan<- uint64
}

const theNumber = 7

func (k fakeKeeper) Keep(conn Connection) uint64 { k.kept <- conn; return theNumber }
func (k fakeKeeper) Release(number uint64)       { k.released <- number }

// keeperFunc is called with what it is to keep.
type keeperFunc func(Connection)

func (f keeperFunc) Keep(conn Connection) uint64 { f(conn); return theNumber }
func (keeperFunc) Release(uint64)                {}

// Keep is shown both ends, and told of the end once.
func TestKeep(t *testing.T) {
	endpoint := backend(t, func(conn *net.TCPConn) {
		defer conn.Close()
		_, _ = io.Copy(conn, conn)
	})
	kept, released := make(chan Connection, 1), make(chan uint64, 2)
	server := &Server{Keeper: fakeKeeper{kept, released}}
	l := newLab(t, server, to(endpoint))
	conn := l.dial()
	shown := <-kept
	live := shown.Live()
	if live.Source.String() != conn.LocalAddr().String() || live.Endpoint != endpoint || live.Attempts != 1 || live.Accepted.IsZero() {
		t.Errorf("kept %+v", live)
	}
	client, upstream, ok := shown.Duplicate()
	if !ok {
		t.Fatal("it has no ends")
	}
	for fd, want := range map[int]net.Addr{client: conn.LocalAddr(), upstream: net.TCPAddrFromAddrPort(endpoint.Addr)} {
		file := os.NewFile(uintptr(fd), "end")
		end, err := net.FileConn(file)
		file.Close()
		if err != nil {
			t.Fatal(err)
		}
		if end.RemoteAddr().String() != want.String() {
			t.Errorf("an end is %s; want %s", end.RemoteAddr(), want)
		}
		end.Close()
	}
	select {
	case <-released:
		t.Error("released while it lives")
	default:
	}
	conn.Close()
	if number := <-released; number != theNumber {
		t.Errorf("number %d released, want %d", number, theNumber)
	}
	<-l.records
	if _, _, ok := shown.Duplicate(); ok {
		t.Error("it has ends after its end")
	}
}
