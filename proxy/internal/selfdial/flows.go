package selfdial

import (
	"context"
	"encoding/binary"
	"hash/maphash"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// flows are what we dial in one network namespace. Where that leads is known only when it
// arrives: the first connection to an endpoint that leads back is not noted, those that are
// dialled after one has come back are. The zero value has none.
type flows struct {
	dialled addressSet                   // what was ever dialled there
	sourced addressSet                   // of that, what is known from where
	led     addressSet                   // of that, what has come back to a listener of ours
	sources atomic.Pointer[[]netip.Addr] // from where, but for loopback addresses

	shards [16]struct {
		sync.Mutex

		hops map[uint64]*Hop // connections that are open, by their local addresses
		_    [48]byte        // shards do not share a cache line
	}

	// early are connections that were reset as loops and that are not noted.
	waiting atomic.Int32
	mu      sync.Mutex
	early   map[[2]uint64]earlyReset // by both addresses
	pending map[uint64]*notes        // by what is dialled
}

// notes are those that are about to note that they have dialled an address.
type notes struct {
	left int
	none chan struct{} // closed once none is left
}

// addressSet is a set of addresses, by their keys, that may have more than were added:
// then a connection is noted in vain. Its size does not depend on what is added: nothing
// while it is empty, and then 8 KiB.
type addressSet struct {
	words atomic.Pointer[[1 << 10]atomic.Uint64]
}

// bitOf is where key is, of 64 times as many bits as there are words.
func bitOf(key uint64) (word, bit uint64) {
	n := key * 0x9e3779b97f4a7c15 >> (64 - 16) // 2⁶⁴ over the golden ratio
	return n / 64, 1 << (n % 64)
}

func (a *addressSet) has(key uint64) bool {
	words := a.words.Load()
	word, bit := bitOf(key)
	return words != nil && words[word].Load()&bit != 0
}

func (a *addressSet) add(key uint64) {
	if a.has(key) { // nearly always
		return
	}
	if a.words.Load() == nil {
		a.words.CompareAndSwap(nil, new([1 << 10]atomic.Uint64))
	}
	word, bit := bitOf(key)
	a.words.Load()[word].Or(bit)
}

// mostSources is how many addresses of a namespace are remembered; beyond that, loops by way
// of others end by the limits of connections alone.
const mostSources = 64

// dialsFrom reports whether a connection from source may be one that we have dialled.
func (f *flows) dialsFrom(source netip.Addr) bool {
	if source.IsLoopback() {
		return true
	}
	known := f.sources.Load()
	return known != nil && slices.Contains(*known, source)
}

// noteSource remembers that we dial from addr.
func (f *flows) noteSource(addr netip.Addr) {
	for !f.dialsFrom(addr) {
		known := f.sources.Load()
		var all []netip.Addr
		if known != nil {
			all = *known
		}
		if len(all) >= mostSources {
			return
		}
		all = append(slices.Clone(all), addr)
		if f.sources.CompareAndSwap(known, &all) {
			return
		}
	}
}

// earlyReset is why a connection was reset, and when.
type earlyReset struct {
	err error
	at  time.Time
}

const (
	// mostEarly bounds early: most were dialled by another process, which does not ask.
	mostEarly = 64
	// earlyFor is how long one is kept: a goroutine that has dialled it learns of the reset in no time.
	earlyFor = 10 * time.Second
)

// resetEarly keeps why what came from source was reset.
func (f *flows) resetEarly(source, dialledAt uint64, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if f.early == nil {
		f.early = map[[2]uint64]earlyReset{}
	}
	f.dropEarly(now)
	if len(f.early) >= mostEarly {
		oldest, since := [2]uint64{}, now
		for key, e := range f.early {
			if !e.at.After(since) {
				oldest, since = key, e.at
			}
		}
		delete(f.early, oldest)
	}
	f.early[[2]uint64{source, dialledAt}] = earlyReset{err, now}
	f.waiting.Store(int32(len(f.early)))
}

// dropEarly drops those that nobody has asked for. f.mu is held.
func (f *flows) dropEarly(now time.Time) {
	maps.DeleteFunc(f.early, func(_ [2]uint64, e earlyReset) bool { return now.Sub(e.at) > earlyFor })
}

// wasReset takes why what was dialled from local to remote was reset; nil if it was not.
func (f *flows) wasReset(local, remote uint64) error {
	if f.waiting.Load() == 0 {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	key := [2]uint64{local, remote}
	f.dropEarly(time.Now()) // by now it might be another one of the same addresses
	err := f.early[key].err
	delete(f.early, key)
	f.waiting.Store(int32(len(f.early)))
	return err
}

// begin says that a goroutine is about to dial remote and to note that; done that it has.
func (f *flows) begin(remote uint64) (done func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.pending == nil {
		f.pending = map[uint64]*notes{}
	}
	n := f.pending[remote]
	if n == nil {
		n = &notes{none: make(chan struct{})}
		f.pending[remote] = n
	}
	n.left++
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if n.left--; n.left == 0 {
			delete(f.pending, remote)
			close(n.none)
		}
	}
}

// patienceForNotes is how long somebody waits at most for others to note what they have
// dialled: they have connected it once it is accepted, and the rest is a goroutine's turn.
const patienceForNotes = 100 * time.Millisecond

// await waits until nobody is about to note that they have dialled remote.
func (f *flows) await(ctx context.Context, remote uint64) {
	f.mu.Lock()
	n := f.pending[remote]
	f.mu.Unlock()
	if n == nil {
		return
	}
	timer := time.NewTimer(patienceForNotes)
	defer timer.Stop()
	select {
	case <-n.none:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// keySeed makes it impossible to choose addresses that have one key.
var keySeed = maphash.MakeSeed()

// keyOf is a number for an address, and never 0: of IPv4 the very address, of IPv6 a hash
// that nobody can choose a second address for.
func keyOf(a netip.AddrPort) uint64 {
	ip := a.Addr().Unmap()
	if ip.Is4() {
		four := ip.As4()
		return 1<<62 | uint64(binary.BigEndian.Uint32(four[:]))<<16 | uint64(a.Port())
	}
	var b [18]byte
	six := ip.As16()
	copy(b[:], six[:])
	binary.BigEndian.PutUint16(b[16:], a.Port())
	return 1<<63 | maphash.Bytes(keySeed, b[:])
}

func (f *flows) put(h *Hop) {
	shard := &f.shards[h.local%uint64(len(f.shards))]
	shard.Lock()
	defer shard.Unlock()
	if shard.hops == nil {
		shard.hops = map[uint64]*Hop{}
	}
	h.next = shard.hops[h.local]
	shard.hops[h.local] = h
}

func (f *flows) remove(h *Hop) {
	shard := &f.shards[h.local%uint64(len(f.shards))]
	shard.Lock()
	defer shard.Unlock()
	first := shard.hops[h.local]
	switch {
	case first != h:
		for ; first.next != h; first = first.next {
		}
		first.next = h.next
	case h.next != nil:
		shard.hops[h.local] = h.next
	default:
		delete(shard.hops, h.local)
	}
	h.next = nil
}

func (f *flows) find(local, remote uint64) *Hop {
	shard := &f.shards[local%uint64(len(f.shards))]
	shard.Lock()
	defer shard.Unlock()
	h := shard.hops[local]
	for h != nil && h.remote != remote {
		h = h.next
	}
	return h
}
