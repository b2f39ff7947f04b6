package balance

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"time"

	"github.com/ambassadord/ambassadord/internal/selfconnect"
)

const (
	defaultCheckInterval = 10 * time.Second
	defaultCheckTimeout  = 2 * time.Second
	defaultRise          = 2
	defaultFall          = 3
	// mostRead bounds what a check reads of an answer.
	mostRead = 64 << 10
)

// address is what is checked for the endpoint at addr.
func (c *Check) address(addr netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(addr.Addr(), cmp.Or(c.Port, addr.Port()))
}

// do checks addr once, and returns why it is not well.
func (c *Check) do(ctx context.Context, addr netip.AddrPort, dial func(context.Context, netip.AddrPort) (net.Conn, error)) error {
	timeout := c.Timeout
	if timeout <= 0 {
		timeout = defaultCheckTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, err := dial(ctx, addr)
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded): // ours, not the kernel's ETIMEDOUT
		return fmt.Errorf("no connection to %s within %s", addr, timeout)
	case err != nil:
		return err
	}
	defer conn.Close()
	// Closing it is what ends reads and writes when ctx does.
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if c.Preface != "" {
		_, err = io.WriteString(conn, c.Preface)
	}
	switch {
	case err != nil:
	case c.Kind == HTTPCheck:
		err = c.get(conn, addr)
	default:
		err = c.talk(conn)
	}
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("no good answer within %s", timeout)
	}
	return err
}

// talk sends Send and waits for Expect.
func (c *Check) talk(conn net.Conn) error {
	if c.Send != "" {
		if _, err := io.WriteString(conn, c.Send); err != nil {
			return err
		}
	}
	if c.Expect == "" {
		return nil
	}
	var got []byte
	buffer := make([]byte, 4<<10)
	for len(got) < mostRead {
		n, err := conn.Read(buffer)
		got = append(got, buffer[:n]...)
		switch {
		case bytes.Contains(got, []byte(c.Expect)):
			return nil
		case errors.Is(err, io.EOF):
			return fmt.Errorf("it answers %s, not with %q", excerpt(got), c.Expect)
		case err != nil:
			return err
		}
	}
	return fmt.Errorf("no %q in the first %d bytes of its answer", c.Expect, len(got))
}

// excerpt is the beginning of an answer, for people.
func excerpt(got []byte) string {
	const most = 60
	if len(got) == 0 {
		return "nothing"
	}
	if len(got) > most {
		return fmt.Sprintf("%q...", got[:most])
	}
	return fmt.Sprintf("%q", got)
}

// get asks for Path, over one connection, following no redirect.
func (c *Check) get(conn net.Conn, addr netip.AddrPort) error {
	request, err := http.NewRequest(http.MethodGet, "http://"+addr.String()+cmp.Or(c.Path, "/"), http.NoBody) //nolint:noctx // closing conn ends it
	if err != nil {
		return err
	}
	request.Host = cmp.Or(c.Host, request.Host)
	request.Close = true
	request.Header.Set("User-Agent", "ambassadord-check")
	if err := request.Write(conn); err != nil {
		return err
	}
	response, err := http.ReadResponse(bufio.NewReader(io.LimitReader(conn, mostRead)), request)
	if err != nil {
		return err
	}
	response.Body.Close()
	if response.StatusCode < 200 || response.StatusCode > 399 {
		return fmt.Errorf("it answers with status %d", response.StatusCode)
	}
	return nil
}

// dialTCP dials plain TCP, never MPTCP.
func dialTCP(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	var dialer net.Dialer
	dialer.SetMultipathTCP(false)
	return selfconnect.DialContext(ctx, &dialer, "tcp", addr.String())
}
