package balance

import "sync/atomic"

// memo remembers where clients belong under policy Source, since finding out takes a
// look at every endpoint. It is part of a snapshot: where they belong changes with it.
// An entry is the upper 48 bits of the client's hash, and the index of its endpoint
// plus one. Its place is the lower bits of the hash: clients that share one displace
// each other.
type memo [1024]atomic.Uint64

// worthAMemo is from how many endpoints on there is one: 8 KB for each snapshot.
const worthAMemo = 32

// mostInAMemo is how many endpoints an entry can tell apart.
const mostInAMemo = 0xffff

// home is the index of client's endpoint, as find says it.
func (m *memo) home(client uint64, find func() int) int {
	place := &m[client%uint64(len(m))]
	if known := place.Load(); known>>16 == client>>16 && known&0xffff != 0 {
		return int(known&0xffff) - 1
	}
	i := find()
	place.Store(client>>16<<16 | uint64(i+1))
	return i
}
