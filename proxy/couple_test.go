package proxy

import (
	"io"
	"net"
	"testing"
	"time"
)

// couple is both ends of a connection.
func couple(t testing.TB) (dialled, accepted *net.TCPConn) {
	t.Helper()
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	dialled, err = net.DialTCP("tcp", nil, listener.Addr().(*net.TCPAddr))
	if err != nil {
		t.Fatal(err)
	}
	accepted, err = listener.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	for _, conn := range []*net.TCPConn{dialled, accepted} {
		t.Cleanup(func() { conn.Close() })
		if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
	}
	return dialled, accepted
}

// acked waits until the peer's kernel has all that was written to conn.
func acked(t testing.TB, conn *net.TCPConn) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Microsecond) {
		n, err := unacknowledged(conn)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d bytes are not acknowledged", n)
		}
	}
}

func mustWrite(t *testing.T, conn *net.TCPConn, text string) {
	t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
}
