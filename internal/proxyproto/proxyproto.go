// Package proxyproto tells an endpoint who the client is, and takes a trusted peer's
// word for it: the PROXY protocol, versions 1 and 2
// (https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt). It makes and reads
// headers alone and wraps no connection, so that what follows stays splice(2).
package proxyproto

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/pires/go-proxyproto"
	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/hint"
)

// The types of the TLVs of version 2 that say more of a container, of the range for
// custom use (section 2.2.7 of the specification). The values are UTF-8.
const (
	TypeName  = 0xE0 // its name
	TypeID    = 0xE1 // its ID
	TypeLabel = 0xE2 // one for each label, KEY=VALUE
)

// Client is who a header speaks for.
type Client struct {
	// Source is the client's address, Destination what it dialled; both are of one
	// family.
	Source, Destination netip.AddrPort
	// Name and ID are a container's, "" for others. Version 2 alone carries them.
	Name, ID string
	// Labels are the container's; likewise.
	Labels map[string]string
}

// SafeLength is how long a header of either version may be in bytes for every receiver that is
// known to take it (docs/proxy-protocol.md). Addresses alone take 28 of IPv4, 52 of IPv6.
const SafeLength = mostV1

// MostLength is how long a header that is made may be: what Read takes.
const MostLength = mostV2

// Header is c as a header of version 1 or 2, in at most that many bytes. Of version 2 what
// does not fit is left out whole: the name goes before the ID, that before the labels, and these
// go by their keys. The addresses are never left out.
func Header(version int, c Client, most int) ([]byte, error) {
	h := proxyproto.HeaderProxyFromAddrs(byte(version), net.TCPAddrFromAddrPort(unmap(c.Source)), net.TCPAddrFromAddrPort(unmap(c.Destination)))
	if version == 2 {
		bare, err := h.Format()
		if err != nil {
			return nil, fmt.Errorf("PROXY header for %s from %s: %w", c.Destination, c.Source, err)
		}
		if err := h.SetTLVs(c.tlvs(most - len(bare))); err != nil {
			return nil, fmt.Errorf("PROXY header: %w", err)
		}
	}
	b, err := h.Format()
	if err != nil {
		return nil, fmt.Errorf("PROXY header for %s from %s: %w", c.Destination, c.Source, err)
	}
	return b, nil
}

// Local is a header of version 1 or 2 that speaks for nobody, 15 and 16 bytes long: the connection
// is the proxy's own, such as a health check (sections 2.1, UNKNOWN, and 2.2, LOCAL).
func Local(version int) string {
	if version == 1 {
		return "PROXY UNKNOWN\r\n"
	}
	return string(proxyproto.SIGV2) + string([]byte{byte(proxyproto.LOCAL), byte(proxyproto.UNSPEC), 0, 0})
}

// tlvs are those that fit into so many bytes.
func (c *Client) tlvs(room int) []proxyproto.TLV {
	const head = 3 // type and length
	var all []proxyproto.TLV
	add := func(kind proxyproto.PP2Type, value string) {
		if value != "" && head+len(value) <= room {
			room -= head + len(value)
			all = append(all, proxyproto.TLV{Type: kind, Value: []byte(value)})
		}
	}
	add(TypeName, c.Name)
	add(TypeID, c.ID)
	for _, key := range slices.Sorted(maps.Keys(c.Labels)) {
		add(TypeLabel, key+"="+c.Labels[key])
	}
	return all
}

func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

const (
	// mostV1 is what a header of version 1 takes at most (section 2.1).
	mostV1 = 107
	// mostV2 bounds one of version 2, which says itself how long it is.
	mostV2 = 16 + 4096
	// fixedV2 is its part of fixed length (section 2.2).
	fixedV2 = 16
)

var (
	signatureV1 = []byte("PROXY ")
	signatureV2 = []byte("\r\n\r\n\x00\r\nQUIT\n")
)

const missing = "let it send the header, or do not trust its address with accept-proxy-protocol-from"

// Read reads the header at the beginning of conn, and not a byte more; n is how many
// that were. It waits for it until ctx ends. source is not valid where the header
// speaks for nobody, as a health check's.
func Read(ctx context.Context, conn *net.TCPConn) (source netip.AddrPort, n int, err error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer func() {
		if !stop() {
			err = errors.Join(hint.Errorf(missing, "the PROXY header did not come in time"), err)
		}
	}()
	buf := make([]byte, mostV2)
	if n, err = peekHeader(conn, buf); err != nil {
		return netip.AddrPort{}, 0, err
	}
	if _, err := io.ReadFull(conn, buf[:n]); err != nil { // it is there
		return netip.AddrPort{}, 0, fmt.Errorf("read the PROXY header: %w", err)
	}
	h, err := proxyproto.Read(bufio.NewReader(bytes.NewReader(buf[:n])))
	if err != nil {
		return netip.AddrPort{}, n, fmt.Errorf("read the PROXY header: %w", err)
	}
	from, _, ok := h.TCPAddrs()
	if !ok || h.Command.IsLocal() {
		return netip.AddrPort{}, n, nil
	}
	return unmap(from.AddrPort()), n, nil
}

// peekHeader waits until a whole header has come, and leaves it there.
func peekHeader(conn *net.TCPConn, buf []byte) (n int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("read the PROXY header: %w", err)
	}
	var fail error
	err = raw.Read(func(fd uintptr) bool {
		got, _, err := unix.Recvfrom(int(fd), buf, unix.MSG_PEEK|unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			return false
		case err != nil:
			fail = fmt.Errorf("read the PROXY header: %w", err)
			return true
		case got == 0:
			fail = hint.Errorf(missing, "the connection ended before a PROXY header")
			return true
		}
		var whole bool
		n, whole, fail = measure(buf[:got])
		return whole || fail != nil
	})
	if fail != nil {
		return 0, fail
	}
	if err != nil {
		return 0, fmt.Errorf("read the PROXY header: %w", err)
	}
	return n, nil
}

// measure says how long the header at the beginning of b is; whole is false while
// more of it has to come.
func measure(b []byte) (n int, whole bool, err error) {
	begins := func(signature []byte) bool {
		return bytes.HasPrefix(signature, b) || bytes.HasPrefix(b, signature)
	}
	switch {
	case begins(signatureV1):
		if end := bytes.Index(b[:min(len(b), mostV1)], []byte("\r\n")); end >= 0 {
			return end + 2, true, nil
		}
		if len(b) >= mostV1 {
			return 0, false, hint.Errorf(missing, "the PROXY header has no end within %d bytes", mostV1)
		}
		return 0, false, nil
	case begins(signatureV2):
		if len(b) < fixedV2 {
			return 0, false, nil
		}
		n = fixedV2 + int(binary.BigEndian.Uint16(b[fixedV2-2:]))
		if n > mostV2 {
			return 0, false, hint.Errorf(missing, "the PROXY header has %d bytes; the most is %d", n, mostV2)
		}
		return n, len(b) >= n, nil
	}
	return 0, false, hint.Errorf(missing, "the connection does not begin with a PROXY header")
}
