package settings

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// HostAddrs are the addresses of our own network namespace. The zero value is ready.
type HostAddrs struct {
	known   atomic.Pointer[knownAddrs]
	reading sync.Mutex
}

type knownAddrs struct {
	all  map[netip.Addr]struct{}
	read time.Time
}

// addrsHoldFor is how long what was read of them is believed to be all.
const addrsHoldFor = time.Second

// Has reports whether addr is one of them. It asks the kernel, at most once a second.
func (h *HostAddrs) Has(addr netip.Addr) bool {
	known := h.known.Load()
	if known == nil || time.Since(known.read) > addrsHoldFor {
		known = h.read(known)
	}
	_, ok := known.all[addr]
	return ok
}

func (h *HostAddrs) read(old *knownAddrs) *knownAddrs {
	if old == nil {
		h.reading.Lock()
	} else if !h.reading.TryLock() {
		return old // somebody is at it
	}
	defer h.reading.Unlock()
	if now := h.known.Load(); now != old {
		return now
	}
	next := &knownAddrs{all: map[netip.Addr]struct{}{}, read: time.Now()}
	addrs, err := net.InterfaceAddrs()
	if err != nil && old != nil {
		next.all = old.all // it is no less true than before
	}
	for _, a := range addrs {
		if prefix, ok := a.(*net.IPNet); ok {
			if addr, ok := netip.AddrFromSlice(prefix.IP); ok {
				next.all[addr.Unmap()] = struct{}{}
			}
		}
	}
	h.known.Store(next)
	return next
}
