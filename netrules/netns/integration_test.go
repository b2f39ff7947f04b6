//go:build integration

package netns_test

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/netlab"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// threads returns the namespace of every OS thread of this process.
func threads(t *testing.T) map[netns.ID]int {
	t.Helper()
	tasks, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil || len(tasks) == 0 {
		t.Fatalf("no threads: %v", err)
	}
	ids := map[netns.ID]int{}
	for _, path := range tasks {
		n, err := netns.Open(path)
		if err != nil {
			continue // the thread is gone
		}
		ids[n.ID()]++
		_ = n.Close()
	}
	return ids
}

func current(t *testing.T) netns.ID {
	t.Helper()
	n, err := netns.Current()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = n.Close() }()
	return n.ID()
}

func TestDo(t *testing.T) {
	home := current(t)
	lab := netlab.New(t)
	inside := func() netns.ID {
		n, err := netns.Current()
		if err != nil {
			t.Error(err)
			return netns.ID{}
		}
		defer func() { _ = n.Close() }()
		return n.ID()
	}

	t.Run("runs inside and returns", func(t *testing.T) {
		var got netns.ID
		sentinel := errors.New("mine")
		if err := lab.NS().Do(func() error { got = inside(); return sentinel }); !errors.Is(err, sentinel) {
			t.Errorf("error %v", err)
		}
		if got != lab.NS().ID() || got == home {
			t.Errorf("ran in %v, want %v (home is %v)", got, lab.NS().ID(), home)
		}
	})
	t.Run("never on the first thread", func(t *testing.T) {
		// Which thread a goroutine starts on is chance: ask often.
		for range 200 {
			lab.Do(t, func() error {
				if unix.Gettid() == unix.Getpid() {
					t.Error("ran on the process's first thread")
				}
				return nil
			})
		}
	})
	t.Run("nests", func(t *testing.T) {
		other := netlab.New(t)
		lab.Do(t, func() error {
			return other.NS().Do(func() error {
				if got := inside(); got != other.NS().ID() {
					t.Errorf("ran in %v, want %v", got, other.NS().ID())
				}
				return nil
			})
		})
	})
	t.Run("panic", func(t *testing.T) {
		defer func() {
			var p *netns.PanicError
			if err, _ := recover().(error); !errors.As(err, &p) || p.Value != "boom" {
				t.Errorf("recovered %v", err)
			}
		}()
		_ = lab.NS().Do(func() error { panic("boom") })
	})
	t.Run("goexit", func(t *testing.T) {
		ended := make(chan bool, 1)
		go func() {
			returned := false
			defer func() { ended <- returned }()
			_ = lab.NS().Do(func() error { runtime.Goexit(); return nil })
			returned = true
		}()
		if <-ended {
			t.Error("Do returned though its function left the goroutine")
		}
	})
	t.Run("many at once", func(t *testing.T) {
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if err := lab.NS().Do(func() error {
					if got := inside(); got != lab.NS().ID() {
						t.Errorf("ran in %v", got)
					}
					return nil
				}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	})
	// A thread dies a little after its goroutine ends.
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		got := threads(t)
		if got[home] > 0 && len(got) == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("threads left outside home %v: %v", home, got)
		}
	}
}

// A thread that cannot go back must not be used for anything else.
func TestDoDiscardsAThreadThatCannotGoBack(t *testing.T) {
	lab := netlab.New(t)
	var tid int
	err := lab.NS().Do(func() error {
		tid = unix.Gettid()
		// Entering a network namespace takes a capability over it, which is per thread.
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		return unix.Capset(&header, &data[0])
	})
	if err != nil {
		t.Fatal(err)
	}
	// Every goroutine that runs on must find itself on a thread with capabilities
	// and at home.
	home := current(t)
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			n, err := netns.Current()
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = n.Close() }()
			if n.ID() != home || unix.Gettid() == tid {
				t.Errorf("thread %d in %v", unix.Gettid(), n.ID())
			}
		})
	}
	wg.Wait()
}

func TestListenTCP(t *testing.T) {
	lab := netlab.New(t)
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0", "[::ffff:127.0.0.1]:0"} {
		l, err := lab.NS().ListenTCP(netip.MustParseAddrPort(addr))
		if err != nil {
			t.Fatal(err)
		}
		raw, err := l.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		if err := raw.Control(func(fd uintptr) {
			if p, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PROTOCOL); err != nil || p != unix.IPPROTO_TCP {
				t.Errorf("%s: protocol %d, %v; want plain TCP", addr, p, err)
			}
		}); err != nil {
			t.Fatal(err)
		}
		got := l.Addr().String()
		client := lab.Dial(t, got)
		server, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if client.LocalAddr().String() != server.RemoteAddr().String() {
			t.Errorf("%s is not %s", client.LocalAddr(), server.RemoteAddr())
		}
		_ = server.Close()
		// The same address is free outside: the socket is in the lab, not here.
		outside, err := netlab.New(t).NS().ListenTCP(netip.MustParseAddrPort(got))
		if err != nil {
			t.Error(err)
		} else {
			_ = outside.Close()
		}
		if _, err := lab.NS().ListenTCP(netip.MustParseAddrPort(got)); !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("second listener on %s: %v", got, err)
		}
		_ = l.Close()
	}
}

func TestAddresses(t *testing.T) {
	a, b := netlab.New(t), netlab.New(t, netlab.Loopback6(false))
	for lab, want := range map[*netlab.Lab]bool{a: true, b: false} {
		if got, err := lab.NS().HasLoopback6(); err != nil || got != want {
			t.Errorf("HasLoopback6 = %v, %v, want %v", got, err, want)
		}
	}
	netlab.Connect(t, a, netip.MustParsePrefix("192.0.2.1/24"), b, netip.MustParsePrefix("192.0.2.2/24"))
	netlab.Connect(t, a, netip.MustParsePrefix("2001:db8::1/64"), b, netip.MustParsePrefix("2001:db8::2/64"))
	addrs, err := a.NS().Addrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"127.0.0.1", "::1", "192.0.2.1", "2001:db8::1"} {
		if !slices.Contains(addrs, netip.MustParseAddr(want)) {
			t.Errorf("%s is missing from %v", want, addrs)
		}
	}
	for _, addr := range []string{"192.0.2.2:0", "[2001:db8::2]:0"} {
		l, err := b.NS().ListenTCP(netip.MustParseAddrPort(addr))
		if err != nil {
			t.Fatal(err)
		}
		a.Dial(t, l.Addr().String()) // over the cable
		_ = l.Close()
	}
}

func TestAll(t *testing.T) {
	list, err := netns.All(t.Context())
	// Not every machine lets root look at every process.
	if err != nil && !errors.Is(err, fs.ErrPermission) {
		t.Fatal(err)
	}
	seen := map[netns.ID]string{}
	for _, n := range list {
		if path, twice := seen[n.ID()]; twice {
			t.Errorf("%s and %s are the same namespace", path, n.Path())
		}
		seen[n.ID()] = n.Path()
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	}
	if len(list) == 0 || list[0].ID() != current(t) {
		t.Error("our own namespace does not come first")
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	list, err = netns.All(ctx)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v after cancel", err)
	}
	for _, n := range list {
		_ = n.Close()
	}
}
