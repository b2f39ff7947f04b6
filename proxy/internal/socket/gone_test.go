package socket

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/proxy/internal/sockettest"
)

const patience = 10 * time.Second // for what happens at once when it works

// cpuTime is what this process has used.
func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		t.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// A client that waits for an answer is held; one that has given up is not.
func TestWaitGone(t *testing.T) {
	for _, test := range []struct {
		name string
		do   func(t *testing.T, client *net.TCPConn)
		gone bool
	}{
		{"nothing", func(*testing.T, *net.TCPConn) {}, false},
		{"a reset", func(_ *testing.T, client *net.TCPConn) { Reset(client) }, true},
		{"the end without data", func(_ *testing.T, client *net.TCPConn) { client.CloseWrite() }, true},
		{"data", func(t *testing.T, client *net.TCPConn) {
			mustWrite(t, client, "question")
			sockettest.Acked(t, client)
		}, false},
		{"data and the end", func(t *testing.T, client *net.TCPConn) {
			mustWrite(t, client, "question")
			client.CloseWrite()
			sockettest.Acked(t, client)
		}, false},
		{"data and a reset", func(t *testing.T, client *net.TCPConn) {
			mustWrite(t, client, "question")
			sockettest.Acked(t, client)
			Reset(client)
		}, true},
	} {
		for order, first := range map[string]bool{"before": true, "meanwhile": false} {
			t.Run(test.name+" "+order, func(t *testing.T) {
				client, held := sockettest.Couple(t)
				if first {
					test.do(t, client)
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				result := make(chan bool, 1)
				go func() { result <- WaitGone(ctx, held) }()
				if !first {
					test.do(t, client)
				}
				if !test.gone {
					select {
					case <-result:
						t.Error("it did not wait")
					case <-time.After(50 * time.Millisecond): // a wrong answer would come at once
					}
					cancel()
				}
				select {
				case got := <-result:
					if got != test.gone {
						t.Errorf("gone: %t, want %t", got, test.gone)
					}
				case <-time.After(patience):
					t.Fatal("it still waits")
				}
			})
		}
	}
}

// The connection is as it was: every byte is still there, and nothing is left of the
// deadline that woke the wait.
func TestWaitGoneLeavesTheConnectionAsItWas(t *testing.T) {
	client, held := sockettest.Couple(t)
	for range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		waiting := make(chan bool, 1)
		go func() { waiting <- WaitGone(ctx, held) }()
		mustWrite(t, client, "x")
		cancel()
		if <-waiting {
			t.Fatal("the client has gone, it says")
		}
	}
	answer := make(chan string, 1)
	go func() {
		b, err := io.ReadAll(held)
		if err != nil {
			t.Error(err)
		}
		answer <- string(b)
	}()
	mustWrite(t, client, "y")
	client.CloseWrite()
	if got := <-answer; got != "xxxy" {
		t.Errorf("read %q, want all that was sent", got)
	}
}

// Held connections cost no processor time while nothing comes.
func TestWaitGoneSleeps(t *testing.T) {
	client, held := sockettest.Couple(t)
	mustWrite(t, client, "question")
	client.CloseWrite() // readable for good
	sockettest.Acked(t, client)
	ctx, cancel := context.WithCancel(t.Context())
	looks := make(chan struct{})
	go func() { defer close(looks); WaitGone(ctx, held) }()
	before := cpuTime(t)
	time.Sleep(200 * time.Millisecond)
	if used := cpuTime(t) - before; used > 100*time.Millisecond {
		t.Errorf("the wait used %s of the processor in 200 ms", used)
	}
	cancel()
	<-looks
}

func mustWrite(t *testing.T, conn *net.TCPConn, text string) {
	t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
}
