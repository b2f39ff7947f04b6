package proxy

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/proxy/internal/dialfault"
	"github.com/ambassadord/ambassadord/proxy/internal/socket"
)

func TestOwnFault(t *testing.T) {
	dialled := func(call string, errno unix.Errno) error {
		return dialError(netip.MustParseAddrPort("10.0.0.1:80"), call, errno)
	}
	for _, errno := range []unix.Errno{
		unix.EINVAL, unix.EACCES, unix.EPERM, unix.EADDRNOTAVAIL, unix.EADDRINUSE, unix.EMFILE, unix.ENFILE,
		unix.ENOBUFS, unix.ENOMEM, unix.EAFNOSUPPORT,
	} {
		if !OwnFault(dialled("connect", errno)) {
			t.Errorf("%v counts against the endpoint", errno)
		}
	}
	for _, err := range []error{
		dialled("connect", unix.ECONNREFUSED), dialled("connect", unix.ETIMEDOUT), dialled("connect", unix.ECONNRESET),
		dialled("connect", unix.EHOSTUNREACH), dialled("connect", unix.ENETUNREACH),
		context.DeadlineExceeded, os.ErrDeadlineExceeded, errors.New("it did not answer"), nil,
		Fail(DialFailed, unix.ECONNREFUSED),
	} {
		if OwnFault(err) {
			t.Errorf("%v does not count against the endpoint", err)
		}
	}
	for _, err := range []error{
		fmt.Errorf("dial: %w", context.Canceled), Fail(Denied, errors.New("no")), Fail(OverLimit, errors.New("no")),
		Fail(ClientGone, errors.New("no")), fmt.Errorf("dial: %w", ErrOwnWay),
	} {
		if !OwnFault(err) {
			t.Errorf("%v counts against the endpoint", err)
		}
	}
}

// TestDialsThatFailByTheirOwnWay: as the kernel words it.
func TestDialsThatFailByTheirOwnWay(t *testing.T) {
	for name, o := range map[string]Options{
		"another family":   {Source: netip.MustParseAddr("::1")},
		"not this host's":  {Source: netip.MustParseAddr("192.0.2.1")},
		"does not go with": {Source: netip.MustParseAddr("127.0.0.1")}, // EINVAL: from loopback to elsewhere
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		conn, err := dialTCP(ctx, netip.MustParseAddrPort("198.51.100.1:80"), &o)
		cancel()
		if err == nil {
			conn.Close()
		}
		if !OwnFault(err) {
			t.Errorf("%s: %v counts against the endpoint", name, err)
		}
	}
}

// TestAnEndpointThatRefusesThePreface is no failure of the dial: others may come without.
func TestAnEndpointThatRefusesThePreface(t *testing.T) {
	dialled := make(chan struct{})
	refusing := serving(t, func(c *net.TCPConn) { <-dialled; socket.Reset(c) })
	s := &Server{Dial: func(context.Context, netip.AddrPort) (*net.TCPConn, error) {
		conn, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(refusing.Addr))
		if err == nil {
			close(dialled)
			wait(t, "it was reset", func() bool { return socket.Gone(conn) })
		}
		return conn, err
	}}
	_, err := dialRoute(t.Context(), &Route{Preface: []byte("PROXY UNKNOWN\r\n")}, s.Dial, refusing.Addr)
	if !OwnFault(err) {
		t.Errorf("%v counts against the endpoint", err)
	}
}

// TestHintsOfSeveralFailures: each kind of failure of a round has its hint, once.
func TestHintsOfSeveralFailures(t *testing.T) {
	addr := netip.MustParseAddrPort("10.0.0.1:80")
	err := nobodyAnswered(&Route{}, []error{
		dialError(addr, "connect", unix.ECONNREFUSED), dialError(addr, "connect", unix.ECONNREFUSED),
		dialError(addr, "connect", unix.EMFILE), fmt.Errorf("dial: %w", context.DeadlineExceeded),
	})
	got := hint.Of(err)
	for _, want := range []string{"nobody listens there", "no descriptor left", dialfault.FixSilence} {
		if strings.Count(got, want) != 1 {
			t.Errorf("hint %q; want %q in it once", got, want)
		}
	}
	if OwnFault(err) && !strings.Contains(err.Error(), "4 endpoints dialled, none answered") {
		t.Errorf("%v; want that some did not answer", err)
	}
}

// TestWorkOfHintsIsBounded: that this host has no port left is found out a few times, however many
// endpoints a target has; it comes in storms.
func TestWorkOfHintsIsBounded(t *testing.T) {
	var failures []error
	for i := range 1000 {
		failures = append(failures, dialError(netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(i+1)), "connect", unix.EADDRNOTAVAIL))
	}
	if n := testing.AllocsPerRun(3, func() { _ = nobodyAnswered(&Route{}, failures) }); n > 10_000 {
		t.Errorf("the error of a round takes %.0f allocations", n)
	}
	if got := hint.Of(nobodyAnswered(&Route{}, failures)); !strings.Contains(got, dialfault.FixPorts) {
		t.Errorf("hint %q; want one with %q", got, dialfault.FixPorts)
	}
}

// TestEveryReasonHasItsMeaning: the constants of the file and the table say the same set.
func TestEveryReasonHasItsMeaning(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "failure.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	var declared []Reason
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 {
			return true
		}
		if of, ok := spec.Type.(*ast.Ident); !ok || of.Name != "Reason" {
			return true
		}
		if literal, ok := spec.Values[0].(*ast.BasicLit); ok {
			word, err := strconv.Unquote(literal.Value)
			if err != nil {
				t.Fatal(err)
			}
			declared = append(declared, Reason(word))
		}
		return true
	})
	if len(declared) == 0 {
		t.Fatal("failure.go declares no Reason")
	}
	listed := Reasons()
	for _, r := range declared {
		if !slices.Contains(listed, r) || r.Meaning() == "" {
			t.Errorf("%s has no meaning in the table", r)
		}
	}
	for i, r := range listed {
		if !slices.Contains(declared, r) || slices.Contains(listed[:i], r) {
			t.Errorf("the table has %s, which is no constant, or has it twice", r)
		}
	}
	if m := Reason("nothing").Meaning(); m != "" {
		t.Errorf("a word that is no Reason means %q", m)
	}
}
