package socket

import (
	"net"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/proxy/internal/sockettest"
)

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

func option(t *testing.T, conn *net.TCPConn, level, name int) (value int) {
	t.Helper()
	onSocket(t, conn, func(fd int) {
		var err error
		if value, err = unix.GetsockoptInt(fd, level, name); err != nil {
			t.Fatal(err)
		}
	})
	return value
}

func TestSetKeepAlive(t *testing.T) {
	conn, _ := sockettest.Couple(t)
	for _, test := range []struct {
		idle, interval               time.Duration
		on, wantIdle, wantIntvl, cnt int
	}{
		{idle: 60 * time.Second, interval: 10 * time.Second, on: 1, wantIdle: 60, wantIntvl: 10, cnt: keepAliveProbes},
		{idle: 60 * time.Second, on: 1, wantIdle: 60, wantIntvl: 15, cnt: keepAliveProbes},
		{idle: 1500 * time.Millisecond, on: 1, wantIdle: 2, wantIntvl: 2, cnt: keepAliveProbes},
		{idle: 0, interval: time.Second, on: 0},
	} {
		if err := SetKeepAlive(conn, test.idle, test.interval); err != nil {
			t.Fatal(err)
		}
		if on := option(t, conn, unix.SOL_SOCKET, unix.SO_KEEPALIVE); on != test.on {
			t.Errorf("%s, %s: SO_KEEPALIVE is %d, want %d", test.idle, test.interval, on, test.on)
		}
		if test.on == 0 {
			continue
		}
		for name, want := range map[int]int{
			unix.TCP_KEEPIDLE: test.wantIdle, unix.TCP_KEEPINTVL: test.wantIntvl, unix.TCP_KEEPCNT: test.cnt,
		} {
			if got := option(t, conn, unix.IPPROTO_TCP, name); got != want {
				t.Errorf("%s, %s: option %d is %d, want %d", test.idle, test.interval, name, got, want)
			}
		}
	}
}

func TestSetUserTimeout(t *testing.T) {
	conn, _ := sockettest.Couple(t)
	for d, want := range map[time.Duration]int{
		30 * time.Second: 30000, time.Microsecond: 1, 0: 0, -time.Second: 0, 1 << 62: 1<<31 - 1,
	} {
		if err := SetUserTimeout(conn, d); err != nil {
			t.Fatal(err)
		}
		if got := option(t, conn, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT); got != want {
			t.Errorf("%s: TCP_USER_TIMEOUT is %d ms, want %d", d, got, want)
		}
	}
	conn.Close()
	if err := SetUserTimeout(conn, time.Second); err == nil {
		t.Error("no error of a closed connection")
	}
}

// descriptorOf is the descriptor of a connection, for as long as that is open.
func descriptorOf(t *testing.T, conn *net.TCPConn) (of int) {
	t.Helper()
	onSocket(t, conn, func(fd int) { of = fd })
	return of
}

// What moves on either side, either way, ends idleness.
func TestIdleFor(t *testing.T) {
	client, ours := sockettest.Couple(t)
	upstream, endpoint := sockettest.Couple(t)
	const pause = 120 * time.Millisecond
	idle := func() time.Duration {
		t.Helper()
		d, err := IdleForFD(descriptorOf(t, ours), descriptorOf(t, upstream))
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	for name, move := range map[string]func(){
		"the client sends":      func() { mustWrite(t, client, "x"); sockettest.Acked(t, client) },
		"the endpoint sends":    func() { mustWrite(t, endpoint, "x"); sockettest.Acked(t, endpoint) },
		"to the client we send": func() { mustWrite(t, ours, "x") },
		"to the endpoint":       func() { mustWrite(t, upstream, "x") },
	} {
		time.Sleep(pause) // it is time that is measured
		if got := idle(); got < pause/2 {
			t.Errorf("before %s: idle for %s after %s", name, got, pause)
		}
		began := time.Now()
		move()
		if got, most := idle(), time.Since(began)+20*time.Millisecond; got > most {
			t.Errorf("%s: idle for %s, want %s at most", name, got, most)
		}
	}
	fd := descriptorOf(t, upstream)
	if _, err := IdleForFD(-1, fd); err == nil {
		t.Error("no error of a closed connection")
	}
}
