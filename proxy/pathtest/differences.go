package pathtest

import (
	"errors"
	"net"
	"syscall"
	"testing"
	"time"
)

// Difference is one that nobody can hide who ends a TCP connection and makes
// another. The scripts are written so that they meet none of those.
type Difference struct {
	Direct, Path string // what is seen there
	Why          string
}

// Differences are all that are known.
func Differences() []Difference {
	return []Difference{{
		Direct: "dialling an endpoint at which nobody listens is refused",
		Path:   "the dial succeeds, and the connection is reset at once",
		Why:    "the connection is accepted before an endpoint is chosen",
	}, {
		Direct: "what is acknowledged has reached the other side's kernel",
		Path:   "it has reached the proxy's",
		Why:    "each connection has acknowledgements of its own; only an answer of the application's says more",
	}, {
		Direct: "a reset throws away all that its sender's kernel has not sent",
		Path:   "it throws away less: what had come as far as the proxy still arrives",
		Why:    "those bytes were acknowledged, so that their sender may count on them",
	}, {
		Direct: "a reset breaks the connection of a side that does not read what came before",
		Path:   "it breaks that only when the side's kernel has taken all of it, or has taken none for 10 s",
		Why:    "a reset that overtook acknowledged bytes would lose them",
	}, {
		Direct: "after a reset the first write fails",
		Path:   "for one round trip more, writes succeed",
		Why:    "the reset has further to go",
	}, {
		Direct: "a second urgent byte that overtakes the reading of the first leaves that one unmarked",
		Path:   "that may happen at the proxy, and both then arrive in order, the second marked",
		Why:    "TCP has one urgent pointer, not one for each byte (RFC 6093)",
	}}
}

// nobody dials an endpoint that is not there: the first of Differences.
func nobody(t *testing.T, path Path) {
	listener := path.Listen(t)
	addr := listener.Addr().(*net.TCPAddr).AddrPort()
	listener.Close()
	conn, err := path.Dial(path.through(t, addr))
	if err == nil {
		defer conn.Close()
		if err = conn.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		_, err = conn.Read(make([]byte, 1))
	}
	want := syscall.ECONNRESET
	if path.Through == nil {
		want = syscall.ECONNREFUSED
	}
	if !errors.Is(err, want) {
		t.Errorf("the client sees %v, want %v", err, want)
	}
}
