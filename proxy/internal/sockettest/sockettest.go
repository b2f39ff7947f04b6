// Package sockettest has what tests of sockets share: a connection with both its ends, and what of
// it the kernel of the other side has acknowledged.
package sockettest

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience is for what happens at once when it works.
const patience = 10 * time.Second

// Couple is both ends of a connection.
func Couple(t testing.TB) (dialled, accepted *net.TCPConn) {
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

// Acked waits until the peer's kernel has all that was written to conn.
func Acked(t testing.TB, conn *net.TCPConn) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Microsecond) {
		n, err := Unacknowledged(conn)
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

// Unacknowledged is how many bytes written to conn its peer's kernel does not have
// yet (tcp(7), SIOCOUTQ).
func Unacknowledged(conn *net.TCPConn) (n int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var fail error
	err = raw.Control(func(fd uintptr) { n, fail = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) })
	if err != nil {
		return 0, err
	}
	return n, fail
}
