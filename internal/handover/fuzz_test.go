package handover

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/control"
)

// fuzzTime bounds what a new daemon may take to see that a conversation comes to nothing.
const fuzzTime = 5 * time.Second

// FuzzHandover has an old daemon send any packets to a new one, with a descriptor for each
// socket that they name or one too few, and then leave. The new one ends in time.
func FuzzHandover(f *testing.F) {
	f.Add([]byte(`{"phase":"offered"}`), []byte(`{}`), true)
	f.Add([]byte(`{"sockets":[{"role":"fixed"}]}`), []byte(`{"phase":"offered"}`), true)
	f.Add([]byte(`{"sockets":[{"role":"lockfile"},{"role":"lock"}]}`), []byte(`{"sockets":[]}`), false)
	f.Add([]byte(`{"error":"busy"}`), []byte(`{"phase":"done"}`), true)
	f.Add([]byte(`{"sockets":[{"role":"redirect","namespace":{"Dev":4,"Inode":18446744073709551615}}]}`), []byte(`[]`), true)
	listener, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { listener.Close() })
	f.Fuzz(func(t *testing.T, first, second []byte, enough bool) {
		dir := openDir(t)
		l, err := control.Listen(dir, dir.Socket(""), nil)
		if err != nil {
			t.Fatal(err)
		}
		s := &control.Server{Log: slog.New(slog.DiscardHandler), Handlers: map[string]control.Handler{
			Request: func(_ context.Context, c *control.Conn, _ control.Request) {
				for _, packet := range [][]byte{first, second} {
					if json.Valid(packet) {
						sendRaw(c, packet, listener, enough)
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
		began, set := time.Now(), NewSet()
		session, err := Begin(t.Context(), c, "test", set)
		if took := time.Since(began); took > fuzzTime {
			t.Errorf("Begin took %s", took)
		}
		if err == nil {
			session.GiveUp(errors.New("of the test"))
		}
		if left := set.Rest(); len(left) > 0 {
			t.Errorf("left are %v", left)
		}
	})
}

// sendRaw sends a packet with a descriptor for each socket that it names, or one too few.
func sendRaw(c *control.Conn, packet []byte, listener *net.TCPListener, enough bool) {
	var m message
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
	defer control.CloseAll(fds)
	_ = c.Send(json.RawMessage(packet), fds...) // a peer that has left asks for nothing
}
