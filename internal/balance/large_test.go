package balance

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// many are that many endpoints.
func many(count int) []Endpoint {
	endpoints := make([]Endpoint, count)
	for i := range endpoints {
		var ip [4]byte
		binary.BigEndian.PutUint32(ip[:], 0x0a000000+uint32(i))
		endpoints[i] = Endpoint{Addr: netip.AddrPortFrom(netip.AddrFrom4(ip), 80), Weight: 1}
	}
	return endpoints
}

// BenchmarkAllFail is one connection that tries every endpoint of a target that has
// thousands, in vain.
func BenchmarkAllFail(b *testing.B) {
	refused := errors.New("connection refused")
	for b.Loop() {
		p := New(Config{}).Pool("t", Options{EjectAfter: 1, EjectFor: time.Minute, EjectForMax: time.Minute, EjectMost: 100})
		p.Update(new(int), many(4000))
		c := p.Choose("client")
		for {
			use, ok := c.Next()
			if !ok {
				break
			}
			use.Failed(refused)
		}
	}
}

// TestLargePoolIsLookedAtInItsTime: who makes thousands of endpoints fail one after the
// other does not have all of them looked at again each time.
func TestLargePoolIsLookedAtInItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(Config{}).Pool("t", Options{EjectAfter: 1, EjectFor: time.Minute, EjectForMax: time.Minute, EjectMost: 100})
		p.Update(new(int), many(4000))
		refused := errors.New("connection refused")
		snapshots := map[*snapshot]bool{}
		for range 1000 {
			c := p.Choose("client")
			use, _ := c.Next()
			snapshots[p.snapshot.Load()] = true
			use.Failed(refused)
		}
		if len(snapshots) > 2 {
			t.Errorf("%d snapshots of 4000 endpoints were made in no time for 1000 connections; want at most 2", len(snapshots))
		}
		time.Sleep(snapshotPause(4000))
		c := p.Choose("client")
		c.Next()
		if out := p.snapshot.Load().out; out < 800 {
			t.Errorf("%s later %d endpoints are out; want nearly all that failed", snapshotPause(4000), out)
		}
	})
}
