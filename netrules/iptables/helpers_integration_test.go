//go:build integration

package iptables

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/netlab"
	"github.com/ambassadord/ambassadord/netrules"
)

const listenPort = 15001

// eachVariant runs a test for both packet filters of the kernel.
func eachVariant(t *testing.T, test func(t *testing.T, r *Rules)) {
	for _, v := range []Variant{NFT, Legacy} {
		t.Run(string(v), func(t *testing.T) {
			r, err := New(t.Context(), Prefer(v))
			if err != nil {
				t.Fatal(err)
			}
			if r.Variant() != v {
				t.Fatalf("variant %s", r.Variant())
			}
			test(t, r)
		})
	}
}

func save(t *testing.T, r *Rules, lab *netlab.Lab, f netrules.Family) string {
	t.Helper()
	return netlab.SaveWith(t, lab.NS(), program(r, f)+"-save")
}

func program(r *Rules, f netrules.Family) string {
	if r.Variant() == Legacy {
		return f.Command() + "-legacy"
	}
	return f.Command() + "-nft"
}

func redirect(f netrules.Family, ports ...uint16) netrules.Chain {
	var list []netrules.Port
	for _, p := range ports {
		list = append(list, netrules.Port{Number: p, Comment: fmt.Sprintf("web's \"test\" connect.%d", p)})
	}
	return netrules.Redirect(f, listenPort, list)
}

func loopback(f netrules.Family, port int) string {
	if f == netrules.IPv6 {
		return fmt.Sprintf("[::1]:%d", port)
	}
	return fmt.Sprintf("127.0.0.1:%d", port)
}

// serve accepts on addr inside the lab until the test ends. To each connection it
// writes one line, the greeting and the port that was dialled, and then echoes it
// through a second connection: spliced, as the daemon does it.
func serve(t *testing.T, lab *netlab.Lab, addr, greeting string) {
	t.Helper()
	front, err := lab.NS().ListenTCP(netip.MustParseAddrPort(addr))
	if err != nil {
		t.Fatal(err)
	}
	back, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	accept := func(l net.Listener, handle func(*net.TCPConn)) {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { _ = conn.Close() })
			wg.Go(func() { handle(conn.(*net.TCPConn)); _ = conn.Close() })
		}
	}
	wg.Go(func() { accept(back, func(c *net.TCPConn) { _, _ = io.Copy(c, c) }) })
	wg.Go(func() {
		accept(front, func(c *net.TCPConn) {
			port, err := originalPort(c)
			if err != nil {
				port = -1 // never translated
			}
			_, _ = fmt.Fprintf(c, "%s %d\n", greeting, port)
			up, err := net.Dial("tcp4", back.Addr().String())
			if err != nil {
				return
			}
			defer func() { _ = up.Close() }()
			var both sync.WaitGroup
			both.Go(func() { _, _ = io.Copy(up, c); _ = up.(*net.TCPConn).CloseWrite() })
			both.Go(func() { _, _ = io.Copy(c, up) })
			both.Wait()
		})
	})
	t.Cleanup(func() {
		_ = front.Close()
		_ = back.Close()
		done := make(chan struct{})
		go func() { wg.Wait(); close(done) }()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Error("connections left open")
		}
	})
}

// originalPort asks for SO_ORIGINAL_DST (80) on the family's level.
func originalPort(c *net.TCPConn) (int, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	level := unix.IPPROTO_IP
	if c.LocalAddr().(*net.TCPAddr).IP.To4() == nil {
		level = unix.IPPROTO_IPV6
	}
	var port int
	var sysErr error
	err = raw.Control(func(fd uintptr) {
		// struct sockaddr_in and sockaddr_in6 both hold the port, big-endian, at 2.
		var addr [unix.SizeofSockaddrInet6]byte
		size := uint32(len(addr))
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, uintptr(level), 80,
			uintptr(unsafe.Pointer(&addr)), uintptr(unsafe.Pointer(&size)), 0)
		if errno != 0 {
			sysErr = errno
		}
		port = int(addr[2])<<8 | int(addr[3])
	})
	if err == nil {
		err = sysErr
	}
	return port, err
}

// greeted dials from inside the lab and returns the line serve answers with.
func greeted(t *testing.T, lab *netlab.Lab, addr string) (line string, conn *net.TCPConn, r *bufio.Reader) {
	t.Helper()
	conn = lab.Dial(t, addr)
	r = bufio.NewReader(conn)
	line, err := r.ReadString('\n')
	if err != nil {
		t.Fatalf("%s: %v", addr, err)
	}
	return line, conn, r
}

// echo sends a line through the spliced connection and back.
func echo(t *testing.T, conn *net.TCPConn, r *bufio.Reader, text string) {
	t.Helper()
	if _, err := io.WriteString(conn, text+"\n"); err != nil {
		t.Fatal(err)
	}
	if got, err := r.ReadString('\n'); err != nil || got != text+"\n" {
		t.Fatalf("sent %q, got %q, %v", text, got, err)
	}
}
