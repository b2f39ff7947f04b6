package handover

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/control"
	"github.com/ambassadord/ambassadord/internal/daemontest"
	"github.com/ambassadord/ambassadord/internal/rights"
)

const (
	// fuzzTime bounds what a new daemon may take to see that a conversation comes to nothing.
	fuzzTime = 5 * time.Second
	// fuzzMemory and fuzzPerPacket bound what both daemons allocate for that: a packet of
	// 64 KiB may name 20,000 sockets, and each has a buffer at both ends.
	fuzzMemory, fuzzPerPacket = 32 << 20, 256 << 10
)

// FuzzHandover has an old daemon send any packets to a new one, the second of them any
// number of times, with a descriptor for each socket that they name or one too few, and
// then leave. The new one ends in time, with little memory, and keeps no descriptor.
func FuzzHandover(f *testing.F) {
	f.Add([]byte(`{"phase":"offered"}`), []byte(`{}`), true, uint16(1))
	f.Add([]byte(`{"sockets":[{"role":"fixed"}]}`), []byte(`{"phase":"offered"}`), true, uint16(1))
	f.Add([]byte(`{"sockets":[{"role":"lockfile"},{"role":"lock"}]}`), []byte(`{"sockets":[]}`), false, uint16(1))
	f.Add([]byte(`{"error":"busy"}`), []byte(`{"phase":"done"}`), true, uint16(1))
	f.Add([]byte(`{"sockets":[{"role":"redirect","namespace":{"Dev":4,"Inode":18446744073709551615}}]}`), []byte(`[]`), true, uint16(1))
	many := []byte(`{"sockets":[` + strings.Repeat("{},", 20_000) + `{}]}`)
	f.Add([]byte(`{}`), many, true, uint16(3))
	f.Add(many, many, false, uint16(0))
	f.Add([]byte(`{}`), []byte(`{"sockets":[{"role":"fixed"},{"role":"redirect"}]}`), true, uint16(maxPackets+8))
	listener, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { listener.Close() })
	f.Fuzz(func(t *testing.T, first, second []byte, enough bool, times uint16) {
		packets := append([][]byte{first}, slices.Repeat([][]byte{second}, int(times)%(2*maxPackets))...)
		descriptors := openDescriptors(t)
		defer func() {
			// A listener is closed by a goroutine that Serve does not wait for.
			until := time.Now().Add(fuzzTime)
			for openDescriptors(t) > descriptors && time.Now().Before(until) {
				time.Sleep(time.Millisecond)
			}
			if now := openDescriptors(t); now > descriptors {
				t.Errorf("%d descriptors are open, after %d before", now, descriptors)
			}
		}()
		dir := daemontest.RunDir(t)
		l, err := control.Listen(dir, dir.Socket(""), nil)
		if err != nil {
			t.Fatal(err)
		}
		s := &control.Server{Log: slog.New(slog.DiscardHandler), Handlers: map[string]control.Handler{
			Request: func(_ context.Context, c *control.Conn, _ control.Request) {
				for _, packet := range append(packets, []byte(`{"phase":"offered"}`)) {
					if json.Valid(packet) && sendRaw(c, packet, listener, enough) != nil {
						return
					}
				}
			},
		}}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); s.Serve(ctx, ctx, l.UnixListener) }()
		defer func() { cancel(); <-done; l.Release() }()
		c, err := control.Dial(dir.Path(dir.Socket("")))
		if err != nil {
			t.Fatal(err)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		began, set := time.Now(), NewSet()
		session, err := Begin(t.Context(), c, "test", set)
		if took := time.Since(began); took > fuzzTime {
			t.Errorf("Begin took %s", took)
		}
		runtime.ReadMemStats(&after)
		if cost, most := after.TotalAlloc-before.TotalAlloc, uint64(fuzzMemory+fuzzPerPacket*len(packets)); cost > most {
			t.Errorf("%d bytes were allocated for %d packets; want at most %d", cost, len(packets), most)
		}
		if err == nil && len(packets) > maxPackets && json.Valid(second) && !offers(first) && !offers(second) {
			t.Errorf("%d packets were received", len(packets))
		}
		if err == nil {
			session.GiveUp(errors.New("of the test"))
		}
		if left := set.Rest(); len(left) > 0 {
			t.Errorf("left are %v", left)
		}
	})
}

// offers reports whether a packet ends the first phase.
func offers(packet []byte) bool {
	var m handoverMessage
	_ = json.Unmarshal(packet, &m)
	return m.Phase == phaseOffered
}

func openDescriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// sendRaw sends a packet with a descriptor for each socket that it names, or one too few.
// The error is that of a peer that has left.
func sendRaw(c *control.Conn, packet []byte, listener *net.TCPListener, enough bool) error {
	var m handoverMessage
	_ = json.Unmarshal(packet, &m) // one of another kind names no sockets
	n := min(len(m.Sockets), control.MaxDescriptors)
	if !enough {
		n = max(n-1, 0)
	}
	var fds []int
	for range n {
		fd, err := duplicate(listener)
		if err != nil {
			break
		}
		fds = append(fds, fd)
	}
	defer rights.Close(fds)
	return c.Send(json.RawMessage(packet), fds...)
}
