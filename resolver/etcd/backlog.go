package etcd

import (
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/ambassadord/ambassadord/internal/hint"
)

// The client takes what comes of a watch off the connection at once, and keeps it until it is
// read, however much that is. Reading waits where a container has had too much read lately
// (resolver.Allowance). All watches of a session come on one stream, which must not wait for one of
// them. So what the client keeps is counted here for each watch, and a watch of which it is too much
// ends: its keys are read anew, in their turn.
const (
	// mostBacklog is how many bytes of changes the client may keep of one watch that it has had
	// in more than one message.
	mostBacklog = 2 << 20
	// changeCost is what a change takes in memory beside its key and value.
	changeCost = 256
	// leastProgress is the time between two signs of life on one stream, which are asked for
	// each second: more of them are passed over, since the client keeps these likewise.
	leastProgress = 100 * time.Millisecond
)

var errBehind = hint.Errorf("have them change less often, or name a path further down",
	"its keys change faster than they may be read for the clients that want them; they are read anew")

// backlog is what the client of a session keeps, by message: the client hands on the header that
// it was given.
type backlog struct {
	mu       sync.Mutex
	messages map[*etcdserverpb.ResponseHeader]watchMessage
}

// watchMessage is one of a watch that is kept.
type watchMessage struct {
	of   *watchBacklog
	size int
}

// watchBacklog is what is kept of one watch. The backlog's mu guards it.
type watchBacklog struct {
	size   int
	kept   map[*etcdserverpb.ResponseHeader]struct{}
	behind bool // it was too much
}

// add counts a message of the watch w, and reports false if that is too much.
func (b *backlog) add(w *watchBacklog, r *etcdserverpb.WatchResponse) bool {
	size := 0
	for _, e := range r.GetEvents() {
		size += len(e.GetKv().GetKey()) + len(e.GetKv().GetValue()) + changeCost
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if w.size > 0 && w.size+size > mostBacklog {
		w.behind = true
		return false
	}
	w.size += size
	if w.kept == nil {
		w.kept = map[*etcdserverpb.ResponseHeader]struct{}{}
	}
	if b.messages == nil {
		b.messages = map[*etcdserverpb.ResponseHeader]watchMessage{}
	}
	w.kept[r.GetHeader()] = struct{}{}
	b.messages[r.GetHeader()] = watchMessage{w, size}
	return true
}

// watchOf is the watch whose message has that header; nil for one that is not counted.
func (b *backlog) watchOf(header *etcdserverpb.ResponseHeader) *watchBacklog {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.messages[header].of
}

// read says that the message with that header has been read.
func (b *backlog) read(header *etcdserverpb.ResponseHeader) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if m, ok := b.messages[header]; ok {
		m.of.size -= m.size
		delete(m.of.kept, header)
		delete(b.messages, header)
	}
}

// drop forgets what is kept of w, which has ended, or which nobody reads any more; nil is none.
func (b *backlog) drop(w *watchBacklog) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if w == nil {
		return
	}
	for header := range w.kept {
		delete(b.messages, header)
	}
	w.kept = nil
}

// isBehind reports whether too much was kept of w.
func (b *backlog) isBehind(w *watchBacklog) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return w != nil && w.behind
}
