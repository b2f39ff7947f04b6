package handover

import (
	"cmp"
	"slices"
	"sync"
	"syscall"
)

// Registry knows the listening sockets of this process. Its zero value is empty.
type Registry struct {
	mu   sync.Mutex
	next uint64
	live map[uint64]registeredSocket
}

type registeredSocket struct {
	number uint64
	socket Socket
	conn   syscall.Conn
}

// Add tells of a socket, until remove is called: before it is closed, or after.
func (r *Registry) Add(socket Socket, conn syscall.Conn) (remove func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.next++
	number := r.next
	if r.live == nil {
		r.live = map[uint64]registeredSocket{}
	}
	r.live[number] = registeredSocket{number, socket, conn}
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.live, number)
	}
}

// Has reports whether there is such a socket, wherever it listens.
func (r *Registry) Has(socket Socket) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.live {
		if e.socket == socket {
			return true
		}
	}
	return false
}

// since are the sockets that were added after the one numbered mark, and the mark for
// the next call; 0 is before all of them.
func (r *Registry) since(mark uint64) ([]registeredSocket, uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var entries []registeredSocket
	for number, e := range r.live {
		if number > mark {
			entries = append(entries, e)
		}
	}
	slices.SortFunc(entries, func(a, b registeredSocket) int { return cmp.Compare(a.number, b.number) })
	return entries, r.next
}
