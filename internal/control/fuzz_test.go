package control

import (
	"encoding/json"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/rights"
)

const (
	// fuzzTime and fuzzMemory bound what one packet may cost: far above what any does,
	// far below what would be felt.
	fuzzTime   = time.Second
	fuzzMemory = 4 << 20
)

// pair makes the two ends of a conversation.
func pair(t testing.TB) (ours, peers *Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*Conn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "pair")
		conn, err := net.FileConn(file)
		file.Close()
		if err != nil {
			t.Fatal(err)
		}
		ends[i] = &Conn{unix: conn.(*net.UnixConn)}
	}
	return ends[0], ends[1]
}

// FuzzControlMessage receives any packet, with any number of descriptors, as a request and
// as an answer. It takes bounded time and memory, and leaves no descriptor open but those
// that it returns.
func FuzzControlMessage(f *testing.F) {
	for _, packet := range []string{
		`{"version":1,"request":"takeover","program":"x","process":1}`, `{"version":1,"request":"reload"}`,
		`{"error":"e","hint":"h"}`, `{"version":1e99}`, `{"request":{"request":{}}}`, "[", "", "\x00",
	} {
		f.Add([]byte(packet), uint8(0))
		f.Add([]byte(packet), uint8(3))
	}
	f.Fuzz(func(t *testing.T, packet []byte, descriptors uint8) {
		for _, into := range []any{new(Request), new(Answer)} {
			ours, peers := pair(t)
			var oob []byte
			if n := min(int(descriptors), MaxDescriptors+8); n > 0 {
				fds := make([]int, n) // standard input, again and again
				oob = unix.UnixRights(fds...)
			}
			before := openDescriptors(t)
			if _, _, err := peers.unix.WriteMsgUnix(packet, oob, nil); err != nil {
				ours.Close()
				peers.Close()
				continue // larger than the kernel takes
			}
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			allocated, began := m.TotalAlloc, time.Now()
			fds, err := ours.Receive(into, fuzzTime)
			took := time.Since(began)
			runtime.ReadMemStats(&m)
			if took > fuzzTime || m.TotalAlloc-allocated > fuzzMemory {
				t.Errorf("a packet of %d bytes took %s and %d bytes", len(packet), took, m.TotalAlloc-allocated)
			}
			if err == nil && !json.Valid(packet) {
				t.Errorf("%q was taken", packet)
			}
			if now := openDescriptors(t); now != before+len(fds) {
				t.Errorf("%d descriptors are open, before it were %d, and %d were returned (%v)", now, before, len(fds), err)
			}
			rights.Close(fds)
			ours.Close()
			peers.Close()
		}
	})
}

func openDescriptors(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
