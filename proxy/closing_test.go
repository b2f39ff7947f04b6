package proxy

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/servertest"
	"github.com/ambassadord/ambassadord/proxy/internal/socket"
	"github.com/ambassadord/ambassadord/proxy/internal/sockettest"
)

// TestEndsThatAreNoFailure: each script is what the two sides do once a byte has come back. It has no
// reason where, on a direct connection, nobody would have been there to see the reset.
func TestEndsThatAreNoFailure(t *testing.T) {
	for _, test := range []struct {
		name string
		do   func(t *testing.T, client, endpoint *net.TCPConn)
		want Reason
	}{
		{"the client closes, and then the endpoint answers", func(t *testing.T, client, endpoint *net.TCPConn) {
			client.Close()
			readEnd(t, endpoint)
			mustWrite(t, endpoint, "bye")
			untilGone(t, endpoint)
		}, ""},
		{"the client closes, and then the endpoint answers and closes without having read all", func(t *testing.T, client, endpoint *net.TCPConn) {
			mustWrite(t, client, "unread")
			client.Close()
			arrives(t, endpoint)
			mustWrite(t, endpoint, "bye")
			endpoint.Close()
		}, ""},
		{"the endpoint closes, and then the client asks", func(t *testing.T, client, endpoint *net.TCPConn) {
			endpoint.Close()
			readEnd(t, client)
			mustWrite(t, client, "more")
			untilGone(t, client)
		}, ""},
		{"the endpoint closes, and then the client asks and closes without having read all", func(t *testing.T, client, endpoint *net.TCPConn) {
			mustWrite(t, endpoint, "unread")
			endpoint.Close()
			arrives(t, client)
			mustWrite(t, client, "more")
			client.Close()
		}, ""},
		{"the client half-closes and waits, and the endpoint resets", func(t *testing.T, client, endpoint *net.TCPConn) {
			_ = client.CloseWrite()
			readEnd(t, endpoint)
			socket.Reset(endpoint)
			untilGone(t, client)
		}, EndpointGone},
		{"the client half-closes and waits, and the endpoint answers in part and resets", func(t *testing.T, client, endpoint *net.TCPConn) {
			_ = client.CloseWrite()
			readEnd(t, endpoint)
			mustWrite(t, endpoint, "in part")
			mustRead(t, client, "in part")
			socket.Reset(endpoint)
			untilGone(t, client)
		}, EndpointGone},
		{"the client half-closes, reads on and resets", func(t *testing.T, client, endpoint *net.TCPConn) {
			_ = client.CloseWrite()
			readEnd(t, endpoint)
			acknowledgesAtOnce(t, client)
			mustWrite(t, endpoint, "in part")
			mustRead(t, client, "in part")
			socket.Reset(client)
			_, _ = endpoint.Write([]byte("more")) // the reset may be here already
			untilGone(t, endpoint)
		}, ClientGone},
		{"the endpoint half-closes, reads on and resets", func(t *testing.T, client, endpoint *net.TCPConn) {
			_ = endpoint.CloseWrite()
			readEnd(t, client)
			acknowledgesAtOnce(t, endpoint)
			mustWrite(t, client, "in part")
			mustRead(t, endpoint, "in part")
			socket.Reset(endpoint)
			_, _ = client.Write([]byte("more"))
			untilGone(t, client)
		}, EndpointGone},
		{"the client resets", func(t *testing.T, client, endpoint *net.TCPConn) {
			socket.Reset(client)
			untilGone(t, endpoint)
		}, ClientGone},
		{"the endpoint resets", func(t *testing.T, client, endpoint *net.TCPConn) {
			socket.Reset(endpoint)
			untilGone(t, client)
		}, EndpointGone},
	} {
		t.Run(test.name, func(t *testing.T) {
			l, client, endpoint, told := begun(t)
			test.do(t, client, endpoint)
			client.Close()
			endpoint.Close()
			if r := l.record(); ReasonOf(r.Err) != test.want {
				t.Errorf("ended with %v; want the reason %q", r.Err, test.want)
			}
			how := "backend closed"
			if test.want == EndpointGone {
				how = "backend reset"
			}
			if says := told.says(); !slices.Equal(says, []string{"backend opened", how}) {
				t.Errorf("the balancer is told %q; want %q at the end", says, how)
			}
		})
	}
}

// TestEndpointsThatCloseWithoutAByte: a client that dials and waits, or asks, and gets a clean end
// instead of an answer, has not been served. One that leaves first has asked for nothing more.
func TestEndpointsThatCloseWithoutAByte(t *testing.T) {
	for _, test := range []struct {
		name    string
		preface string
		do      func(t *testing.T, client, endpoint *net.TCPConn)
		hint    string // "" if it is no failure
	}{
		{"the client waits", "", func(t *testing.T, client, endpoint *net.TCPConn) {
			endpoint.Close()
			readEnd(t, client)
		}, "may expect TLS"},
		{"the client asks", "", func(t *testing.T, client, endpoint *net.TCPConn) {
			mustWrite(t, client, "?")
			mustRead(t, endpoint, "?")
			endpoint.Close()
			readEnd(t, client)
		}, "may expect TLS"},
		{"the client asks afterwards", "", func(t *testing.T, client, endpoint *net.TCPConn) {
			endpoint.Close()
			readEnd(t, client)
			mustWrite(t, client, "?")
			untilGone(t, client)
		}, "may expect TLS"},
		{"after a PROXY header", "PROXY\r\n", func(t *testing.T, client, endpoint *net.TCPConn) {
			mustRead(t, endpoint, "PROXY\r\n")
			endpoint.Close()
			readEnd(t, client)
		}, "does the endpoint expect a PROXY header"},
		{"the client leaves first", "", func(t *testing.T, client, endpoint *net.TCPConn) {
			mustWrite(t, client, "an event")
			client.Close()
			readEnd(t, endpoint)
			endpoint.Close()
		}, ""},
		{"the client half-closes first", "", func(t *testing.T, client, endpoint *net.TCPConn) {
			mustWrite(t, client, "an event")
			_ = client.CloseWrite()
			readEnd(t, endpoint)
			endpoint.Close()
			readEnd(t, client)
		}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			accepted, served := make(chan *net.TCPConn, 1), make(chan struct{})
			at := backend(t, func(c *net.TCPConn) {
				accepted <- c
				<-served
			})
			defer close(served)
			l := newLab(t, &Server{}, RouterFunc(func(context.Context, *net.TCPConn) (Route, error) {
				return Route{Endpoints: InOrder(at), Preface: []byte(test.preface)}, nil
			}))
			client, endpoint := l.dial(), <-accepted
			test.do(t, client, endpoint)
			client.Close()
			endpoint.Close()
			r := l.record()
			if test.hint == "" {
				if r.Err != nil {
					t.Errorf("ended with %v; want a clean end", r.Err)
				}
				return
			}
			if ReasonOf(r.Err) != EndpointGone || !strings.Contains(r.Err.Error(), "closed it without a byte") || !strings.Contains(hint.Of(r.Err), test.hint) {
				t.Errorf("ended with %v, hint %q; want the reason %s and a hint with %q", r.Err, hint.Of(r.Err), EndpointGone, test.hint)
			}
		})
	}
}

// TestBothCloseAtOnce: what either side sends meets a closed socket, in whichever order a loop sees it.
func TestBothCloseAtOnce(t *testing.T) {
	l, client, endpoint, _ := begun(t)
	release := holdLoops(t, l.server, func(*relay) {})
	for _, side := range []*net.TCPConn{client, endpoint} {
		mustWrite(t, side, "bye")
		_ = side.CloseWrite()
		sockettest.Acked(t, side)
		side.Close()
	}
	release()
	if r := l.record(); r.Err != nil || r.Up != 4 {
		t.Errorf("record %+v; want a clean end after all 4 bytes of the client's", r)
	}
}

// TestOrdinaryTLSSessionsAreNoFailures: each side's last word, its close_notify (RFC 8446 §6.1), may
// meet a closed socket.
func TestOrdinaryTLSSessionsAreNoFailures(t *testing.T) {
	const sessions = 20
	certificate, err := tls.LoadX509KeyPair(servertest.NewAuthority(t).Issue(t, "endpoint"))
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}
	for name, leave := range map[string]func(client, endpoint *tls.Conn){
		"the client closes": func(client, endpoint *tls.Conn) {
			_, _ = client.Write([]byte("X")) // PostgreSQL's Terminate
			client.Close()
			_, _ = io.ReadFull(endpoint, make([]byte, 1))
			endpoint.Close()
		},
		"the endpoint closes": func(client, endpoint *tls.Conn) {
			_, _ = endpoint.Write([]byte("X"))
			endpoint.Close()
			_, _ = io.ReadFull(client, make([]byte, 1))
			client.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			for i := range sessions {
				l, client, endpoint, _ := begun(t)
				ends := [2]*tls.Conn{tls.Client(client, &tls.Config{InsecureSkipVerify: true}), tls.Server(endpoint, config)}
				served := make(chan error, 1)
				go func() { _, err := io.ReadFull(ends[1], make([]byte, 1)); served <- err }()
				if _, err := ends[0].Write([]byte("?")); err != nil {
					t.Fatal(err)
				}
				if err := <-served; err != nil {
					t.Fatal(err)
				}
				if _, err := ends[1].Write([]byte("!")); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(ends[0], make([]byte, 1)); err != nil {
					t.Fatal(err)
				}
				leave(ends[0], ends[1])
				if r := l.record(); r.Err != nil {
					t.Fatalf("session %d ended with %v", i, r.Err)
				}
			}
		})
	}
}

// begun is a connection of which one byte has gone each way, and what the balancer is told at its end.
func begun(t *testing.T) (l *lab, client, endpoint *net.TCPConn, told *crowd) {
	t.Helper()
	accepted, served := make(chan *net.TCPConn, 1), make(chan struct{})
	at := backend(t, func(c *net.TCPConn) {
		_, _ = io.CopyN(c, c, 1)
		accepted <- c
		<-served
	})
	t.Cleanup(func() { close(served) })
	told = newCrowd(at)
	l = newLab(t, &Server{}, RouterFunc(func(context.Context, *net.TCPConn) (Route, error) {
		return Route{Client: Client{Name: "client"}, Port: 5432, Target: "target", Endpoints: told}, nil
	}))
	client = begin(t, l)
	endpoint = <-accepted
	if err := endpoint.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return l, client, endpoint, told
}

// acknowledgesAtOnce keeps the kernel from waiting with the acknowledgement of the next bytes for those
// that may go the other way (tcp(7), TCP_QUICKACK).
func acknowledgesAtOnce(t *testing.T, conn *net.TCPConn) {
	t.Helper()
	onSocket(t, conn, func(fd int) { _ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1) })
}

// mustRead reads just that.
func mustRead(t *testing.T, conn *net.TCPConn, want string) {
	t.Helper()
	b := make([]byte, len(want))
	if _, err := io.ReadFull(conn, b); err != nil || string(b) != want {
		t.Fatalf("read %q, %v; want %q", b, err, want)
	}
}

// readEnd reads to the end of the stream.
func readEnd(t *testing.T, conn *net.TCPConn) {
	t.Helper()
	if _, err := io.Copy(io.Discard, onlyReader{conn}); err != nil {
		t.Fatal(err)
	}
}

// arrives waits until the peer's stream has ended, and leaves it unread.
func arrives(t *testing.T, conn *net.TCPConn) {
	t.Helper()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Read(func(fd uintptr) bool {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		return err != nil || info.State == socket.StateCloseWait
	}); err != nil {
		t.Fatal(err)
	}
}

// untilGone waits until the connection is broken.
func untilGone(t *testing.T, conn *net.TCPConn) {
	t.Helper()
	wait(t, "the connection is broken", func() bool { return socket.Gone(conn) })
}
