package proxyproto

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"
	"go.uber.org/goleak"

	"github.com/ambassadord/ambassadord/internal/hint"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	web = Client{
		Source: netip.MustParseAddrPort("172.17.0.2:40000"), Destination: netip.MustParseAddrPort("127.0.0.1:6379"),
		Name: "web", ID: "0123456789ab", Labels: map[string]string{"app": "shop", "zone": "a"},
	}
	web6 = Client{Source: netip.MustParseAddrPort("[fd00::2]:40000"), Destination: netip.MustParseAddrPort("[::1]:6379")}
)

// pair is a TCP connection of two ends.
func pair(t *testing.T) (near, far *net.TCPConn) {
	t.Helper()
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	near, err = listener.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close() })
	return near, conn.(*net.TCPConn)
}

func TestHeaderIsReadAndNothingElse(t *testing.T) {
	for name, test := range map[string]struct {
		version int
		client  Client
	}{"version 1": {1, web}, "version 2": {2, web}, "version 1, IPv6": {1, web6}, "version 2, IPv6": {2, web6}} {
		t.Run(name, func(t *testing.T) {
			header, err := Header(test.version, test.client, MostLength)
			if err != nil {
				t.Fatal(err)
			}
			near, far := pair(t)
			done := make(chan struct{})
			go func() { // byte by byte, and what follows at once with the last
				defer close(done)
				for i := range header[:len(header)-1] {
					_, _ = far.Write(header[i : i+1])
				}
				_, _ = far.Write(append(header[len(header)-1:], "PROXY is a word"...))
				_ = far.CloseWrite()
			}()
			source, n, err := Read(t.Context(), near)
			<-done
			if err != nil || source != test.client.Source || n != len(header) {
				t.Errorf("read %s in %d bytes, %v; want %s in %d", source, n, err, test.client.Source, len(header))
			}
			if rest, err := io.ReadAll(near); err != nil || string(rest) != "PROXY is a word" {
				t.Errorf("after it comes %q, %v; want all that the client said", rest, err)
			}
		})
	}
}

func TestVersion2SaysWhichContainer(t *testing.T) {
	client := web
	client.Labels = map[string]string{"app": "shop", "long": strings.Repeat("x", MostLength), "zone": "a"}
	header, err := Header(2, client, MostLength)
	if err != nil {
		t.Fatal(err)
	}
	h, err := proxyproto.Read(newReader(header))
	if err != nil {
		t.Fatal(err)
	}
	tlvs, err := h.TLVs()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, tlv := range tlvs {
		got = append(got, fmt.Sprintf("%#x %s", int(tlv.Type), tlv.Value))
	}
	want := "[0xe0 web 0xe1 0123456789ab 0xe2 app=shop 0xe2 zone=a]"
	if fmt.Sprint(got) != want {
		t.Errorf("the header says %v; want %s", got, want)
	}
}

// TestHeadersAreAsShortAsIsAsked: what does not fit is left out whole, the addresses never.
func TestHeadersAreAsShortAsIsAsked(t *testing.T) {
	client := web
	client.ID = strings.Repeat("0", 64)
	six := client
	six.Source, six.Destination = web6.Source, web6.Destination
	for _, test := range []struct {
		client     Client
		most, long int
	}{
		{client, 0, 28}, {client, 28 + 5, 28}, {client, 28 + 6, 28 + 6}, {client, SafeLength, 28 + 6 + 67},
		{client, SafeLength + 5, 28 + 6 + 67 + 11}, {client, MostLength, 28 + 6 + 67 + 11 + 9},
		{six, 0, 52}, {six, SafeLength, 52 + 6 + 11 + 9}, // the ID does not fit, the labels do
	} {
		header, err := Header(2, test.client, test.most)
		if err != nil || len(header) != test.long {
			t.Errorf("%s, at most %d: %d bytes, %v; want %d", test.client.Source, test.most, len(header), err, test.long)
		}
	}
	if header, err := Header(1, six, SafeLength); err != nil || len(header) > SafeLength {
		t.Errorf("version 1: %d bytes, %v; want at most %d", len(header), err, SafeLength)
	}
}

func TestNoHeader(t *testing.T) {
	long := append(bytes.Clone(signatureV2), 0x21, 0x11, 0xff, 0xff)
	for name, test := range map[string]struct{ sent, want string }{
		"something else":        {"GET / HTTP/1.1\r\n", "does not begin with a PROXY header"},
		"nothing":               {"", "ended before a PROXY header"},
		"version 1 without end": {"PROXY " + strings.Repeat("x", 200), "no end within 107 bytes"},
		"version 2 too long":    {string(long), "the most is 4112"},
		"version 1, unreadable": {"PROXY TCP4 a b c d\r\n", "read the PROXY header"},
	} {
		t.Run(name, func(t *testing.T) {
			near, far := pair(t)
			if _, err := far.Write([]byte(test.sent)); err != nil {
				t.Fatal(err)
			}
			_ = far.CloseWrite()
			_, _, err := Read(t.Context(), near)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("read: %v; want %q", err, test.want)
			}
		})
	}
}

func TestAHeaderThatSpeaksForNobody(t *testing.T) {
	for version, long := range map[int]int{1: 15, 2: fixedV2} {
		near, far := pair(t)
		if _, err := io.WriteString(far, Local(version)); err != nil {
			t.Fatal(err)
		}
		if source, n, err := Read(t.Context(), near); err != nil || source.IsValid() || n != long {
			t.Errorf("version %d: read %s in %d bytes, %v; want nobody in %d", version, source, n, err, long)
		}
	}
}

func TestAHeaderThatDoesNotCome(t *testing.T) {
	near, far := pair(t)
	if _, err := far.Write(signatureV1); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, _, err := Read(ctx, near)
	if err == nil || !strings.Contains(err.Error(), "did not come in time") || hint.Of(err) == "" {
		t.Errorf("read: %v; want that it did not come, and a hint", err)
	}
	if errors.Is(err, io.EOF) {
		t.Errorf("read: %v; the connection has not ended", err)
	}
}

// FuzzMeasure: whatever comes, what is measured is what the library reads, and a
// header that is not whole stays so until more comes.
func FuzzMeasure(f *testing.F) {
	for version := 1; version <= 2; version++ {
		header, err := Header(version, web, MostLength)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(header)
		f.Add(append(header, "and more"...))
		f.Add(header[:len(header)/2])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		n, whole, err := measure(b)
		if err != nil || !whole {
			return
		}
		if n > len(b) || n > mostV2 {
			t.Fatalf("measured %d of %d bytes", n, len(b))
		}
		reader := newReader(b)
		if _, err := proxyproto.Read(reader); err != nil {
			return
		}
		if rest, _ := io.ReadAll(reader); len(rest) != len(b)-n {
			t.Fatalf("the library reads %d bytes; measured %d", len(b)-len(rest), n)
		}
	})
}

func newReader(b []byte) *bufio.Reader { return bufio.NewReader(bytes.NewReader(b)) }
