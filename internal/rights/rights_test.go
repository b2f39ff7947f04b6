package rights

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// pair makes two ends of a socket, of packets since messages have bounds there.
func pair(t *testing.T) (one, other *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "end")
		conn, err := net.FileConn(file)
		_ = file.Close()
		if err != nil {
			t.Fatal(err)
		}
		ends[i] = conn.(*net.UnixConn)
		t.Cleanup(func() { _ = conn.Close() })
	}
	return ends[0], ends[1]
}

func TestReceive(t *testing.T) {
	here, there := pair(t)
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	send := func(text string, descriptors ...int) {
		t.Helper()
		if _, _, err := there.WriteMsgUnix([]byte(text), unix.UnixRights(descriptors...), nil); err != nil {
			t.Fatal(err)
		}
	}
	packet := make([]byte, 8)

	send("two", int(write.Fd()), int(write.Fd()))
	_ = write.Close()
	n, fds, flags, err := Receive(here, packet, make([]byte, Room(2)))
	if err != nil || string(packet[:n]) != "two" || len(fds) != 2 || flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		t.Fatalf("received %q with %v, flags %#x, %v", packet[:n], fds, flags, err)
	}
	for i, fd := range fds {
		if _, err := unix.Write(fd, []byte("x")); err != nil {
			t.Errorf("descriptor %d: %v", i, err)
		}
	}
	Close(fds)
	if text, err := io.ReadAll(read); err != nil || string(text) != "xx" { // ends once both are closed
		t.Errorf("the pipe had %q, %v", text, err)
	}

	send("a packet that is too long", int(read.Fd()), int(read.Fd()))
	n, fds, flags, err = Receive(here, packet, make([]byte, Room(1)))
	if err != nil || n != len(packet) || len(fds) > 2 || flags&unix.MSG_TRUNC == 0 {
		t.Errorf("of a long one received %d bytes with %v, flags %#x, %v", n, fds, flags, err)
	}
	Close(fds)

	_ = there.Close()
	if _, fds, _, err := Receive(here, packet, make([]byte, Room(1))); !errors.Is(err, io.EOF) || fds != nil {
		t.Errorf("from one who has gone: %v, %v; want EOF", fds, err)
	}
}
