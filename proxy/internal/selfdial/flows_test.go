package selfdial

import (
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// Who accepts a connection waits for those who may have dialled it, and not for ever.
func TestAwaitNotes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f flows
		for name, test := range map[string]struct {
			remote uint64
			after  time.Duration
			want   time.Duration
		}{
			"it is noted soon":       {1, time.Millisecond, time.Millisecond},
			"it is noted too late":   {1, time.Hour, patienceForNotes},
			"another one is dialled": {2, time.Hour, 0},
		} {
			done := f.begin(1)
			timer := time.AfterFunc(test.after, done)
			began := time.Now()
			f.await(t.Context(), test.remote)
			if took := time.Since(began); took != test.want {
				t.Errorf("%s: waited %v; want %v", name, took, test.want)
			}
			if timer.Stop() {
				done()
			}
			synctest.Wait()
		}
		if len(f.pending) > 0 {
			t.Errorf("%d are awaited still", len(f.pending))
		}
	})
}

// Of connections that were reset and that nobody asks for, the latest are kept for a while.
func TestEarlyResets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f flows
		why := errors.New("a loop")
		for i := range uint64(mostEarly + 1) {
			f.resetEarly(i, 0, why)
			time.Sleep(time.Millisecond)
		}
		if f.wasReset(0, 0) != nil || !errors.Is(f.wasReset(1, 0), why) || f.wasReset(1, 0) != nil {
			t.Error("the oldest is there still, or the next is not, or not once")
		}
		time.Sleep(earlyFor + time.Second)
		if f.wasReset(mostEarly, 0) != nil || f.waiting.Load() != 0 {
			t.Errorf("%d are kept for good", f.waiting.Load())
		}
	})
}

func TestAddressSet(t *testing.T) {
	var set addressSet
	wrong := 0
	for port := range uint16(1000) {
		a, b := keyOf(netip.AddrPortFrom(netip.MustParseAddr("10.1.2.3"), port)), keyOf(netip.AddrPortFrom(netip.MustParseAddr("10.1.2.4"), port))
		set.add(a)
		set.add(a)
		if !set.has(a) {
			t.Fatalf("port %d was added and is not there", port)
		}
		if set.has(b) {
			wrong++
		}
	}
	if wrong > 50 {
		t.Errorf("%d of 1,000 others are taken for members", wrong)
	}
}

func TestKeysOfFlows(t *testing.T) {
	seen := map[uint64]string{}
	for _, text := range []string{"127.0.0.1:1", "127.0.0.1:2", "127.0.0.2:1", "[::1]:1", "[::1]:2", "[fe80::1]:1"} {
		key := keyOf(netip.MustParseAddrPort(text))
		if other, ok := seen[key]; ok {
			t.Errorf("%s and %s have one key", text, other)
		}
		seen[key] = text
	}
	if keyOf(netip.MustParseAddrPort("[::ffff:127.0.0.1]:1")) != keyOf(netip.MustParseAddrPort("127.0.0.1:1")) {
		t.Error("an IPv4 address that is written as IPv6 is another one")
	}
}

func BenchmarkFlows(b *testing.B) {
	var f flows
	h := Hop{local: keyOf(netip.MustParseAddrPort("127.0.0.1:40000"))}
	b.ReportAllocs()
	for b.Loop() {
		f.put(&h)
		f.find(h.local, h.remote)
		f.remove(&h)
	}
}
