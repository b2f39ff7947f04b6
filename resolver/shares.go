package resolver

import (
	"hash/maphash"
	"slices"
	"sync"

	"golang.org/x/time/rate"

	"github.com/ambassadord/ambassadord/internal/hint"
)

// Owned are the targets that one client declares. What they cost is counted against it.
// It must not be changed once Keep has been given it.
type Owned struct {
	// Owner names the client, for people too: web-1.
	Owner   string
	Targets []Target
}

// Shares bound what the targets of clients cost. The zero value of each field means its
// default. The operator's own targets, which have no owner, are not counted.
type Shares struct {
	// Queries bounds the watches of one owner; each takes a goroutine and some KiB.
	// Default 2048.
	Queries int
	// AllQueries bounds those of all owners. When they would be more, those who want
	// least have all, and the others equally many. Default 16384.
	AllQueries int
	// Bytes bounds what is being read of answers for one owner together with what is
	// kept of them, AllBytes that of all: past half of it each owner has an equal share
	// of the other half. Defaults 8 MiB, 128 MiB.
	Bytes, AllBytes int64
	// PerSecond bounds how many bytes of answers are read for one owner each second, after
	// as many at once. Default 4 MiB.
	PerSecond int
	// Waiting bounds the connections to registries on which one owner's watches wait for
	// a change; beyond, they ask now and then. Default 64.
	Waiting int
	// Servers bounds the servers of its own choice that one owner has asked. Default 16.
	Servers int
}

func (s *Shares) setDefaults() {
	setDefault(&s.Queries, 2048)
	setDefault(&s.AllQueries, 16384)
	setDefault(&s.Bytes, 8<<20)
	setDefault(&s.AllBytes, 128<<20)
	setDefault(&s.PerSecond, 4<<20)
	setDefault(&s.Waiting, 64)
	setDefault(&s.Servers, 16)
}

// unownedWatches is how many watches that no declaration keeps any more may go on until
// they have been idle: containers that come and go leave theirs behind.
const unownedWatches = 1024

// shares are the accounts of all owners.
type shares struct {
	Shares

	lists map[string]*list // by owner; of the goroutine that calls assign

	mu       sync.Mutex
	accounts map[string]*account
	bytes    int64 // of all accounts
	holders  int   // how many accounts have some
}

// account is what one owner has.
type account struct {
	owner   string
	reading *rate.Limiter
	turns   chan struct{} // holds one for each answer that is read as a whole
	waiting chan struct{} // holds one for each connection on which a change is waited for

	// Under shares.mu:
	bytes   int64
	lookups int            // watches for the names in its answers
	queries int            // watches of what it declares
	servers map[string]int // how many watches ask each
}

func newShares(s Shares) *shares {
	s.setDefaults()
	return &shares{Shares: s, lists: map[string]*list{}, accounts: map[string]*account{}}
}

// fairLevel is the most that each of counts may have for all to have no more than total:
// max-min fair.
func fairLevel(counts []int, total int) int {
	sorted := slices.Sorted(slices.Values(counts))
	for i, n := range sorted {
		share := total / (len(sorted) - i)
		if n > share {
			return share
		}
		total -= n
	}
	return total + 1<<30 // nobody wants more than there is
}

func tooManyQueries(owner string, most int, shared bool) error {
	if shared {
		return hint.Errorf("let containers declare fewer targets", "client %.64s asks for more than its share of the watches of this host, %d", owner, most)
	}
	return hint.Errorf("let it declare fewer targets, or shorter lists", "client %.64s asks for more than %d different things", owner, most)
}

// forget drops the accounts of owners that are gone and have nothing left. It is called
// with mu held.
func (s *shares) forget(owned []Owned) {
	there := make(map[string]bool, len(owned))
	for _, o := range owned {
		there[o.Owner] = true
	}
	for owner := range s.lists {
		if !there[owner] {
			delete(s.lists, owner)
		}
	}
	for owner, a := range s.accounts {
		if there[owner] {
			continue
		}
		a.queries = 0
		if a.bytes == 0 && a.lookups == 0 && len(a.servers) == 0 {
			delete(s.accounts, owner)
		}
	}
}

// account is called with mu held.
func (s *shares) account(owner string) *account {
	a := s.accounts[owner]
	if a == nil {
		a = &account{
			owner: owner, reading: rate.NewLimiter(rate.Limit(s.PerSecond), s.PerSecond),
			turns: make(chan struct{}, readsAtOnce), waiting: make(chan struct{}, s.Waiting), servers: map[string]int{},
		}
		s.accounts[owner] = a
	}
	return a
}

// declares reports whether one of owners declares anything.
func (s *shares) declares(owners []*account) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(owners, func(a *account) bool { return a.queries > 0 })
}

// lookup counts a watch for a name in an answer that is of owners, and returns whose it
// is; nil for the operator's.
func (s *shares) lookup(owners []*account) (*account, error) {
	if len(owners) == 0 {
		return nil, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range owners {
		if a.lookups+a.queries < s.Queries {
			a.lookups++
			return a, nil
		}
	}
	return nil, hint.Errorf("let it declare fewer targets, or ones whose answers have addresses rather than names",
		"client %.64s asks for more than %d different things, the names in answers among them", owners[0].owner, s.Queries)
}

// endLookup ends what lookup counted.
func (s *shares) endLookup(a *account) {
	if a != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		a.lookups--
	}
}

// take counts bytes for one of owners that may have them, and returns which.
func (s *shares) take(owners []*account, n int64) (*account, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	for _, a := range owners {
		holders := s.holders
		if a.bytes == 0 {
			holders++
		}
		switch {
		case a.bytes+n > s.Bytes:
			err = hint.Errorf("let it declare fewer targets, or ones with shorter answers",
				"the answers of registries for client %.64s take more than %d KiB", a.owner, s.Bytes>>10)
			continue
		case s.bytes+n > s.AllBytes/2 && a.bytes+n > s.AllBytes/2/int64(holders):
			err = hint.Errorf("let containers declare fewer targets, or ones with shorter answers",
				"the answers of registries for client %.64s take more than its share of what this host has for them, %d KiB", a.owner, s.AllBytes/2/int64(holders)>>10)
			continue
		}
		s.holders = holders
		a.bytes += n
		s.bytes += n
		return a, nil
	}
	return nil, err
}

// give gives back what take took.
func (s *shares) give(a *account, n int64) {
	if a == nil || n == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a.bytes -= n
	s.bytes -= n
	if a.bytes == 0 {
		s.holders--
	}
}

// server counts one more watch that asks a server of an owner's own choice.
func (s *shares) server(owners []*account, address string) (*account, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range owners {
		if a.servers[address] > 0 || len(a.servers) < s.Servers {
			a.servers[address]++
			return a, nil
		}
	}
	return nil, hint.Errorf("let it use fewer registries of its own",
		"client %.64s has more than %d servers asked that are not the configured ones", owners[0].owner, s.Servers)
}

func (s *shares) leaveServer(a *account, address string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.servers[address]--; a.servers[address] <= 0 {
		delete(a.servers, address)
	}
}

// list is what is known of the queries of one Owned. It is made once for each: there may
// be thousands of clients with a thousand targets each, and they are assigned anew whenever
// one of them comes or goes.
type list struct {
	first *Target // of the Owned that it is of
	n     int

	count  int      // of different queries, as many as an owner may have at most
	more   bool     // there are more than that
	hashes []uint64 // of those that are counted, in order
}

// querySeed makes it impossible to choose two queries of one hash.
var querySeed = maphash.MakeSeed()

func hashOf(q Query) uint64 { return maphash.Comparable(querySeed, q) }

// of reports whether l is of o.
func (l *list) of(o *Owned) bool {
	return l != nil && l.n == len(o.Targets) && (l.n == 0 || l.first == &o.Targets[0])
}

// has reports whether q is one of those that are counted.
func (l *list) has(hash uint64) bool {
	_, found := slices.BinarySearch(l.hashes, hash)
	return found
}

// listOf is the list of o; it counts no more queries than one owner may have.
func (s *shares) listOf(o *Owned) *list {
	l := s.lists[o.Owner]
	if l.of(o) {
		return l
	}
	l = &list{n: len(o.Targets)}
	if l.n > 0 {
		l.first = &o.Targets[0]
	}
	l.more = o.each(s.Queries, func(q Query) { l.hashes = append(l.hashes, hashOf(q)) })
	l.count = len(l.hashes)
	slices.Sort(l.hashes)
	s.lists[o.Owner] = l
	return l
}

// each calls do with the first most queries of o, each once, and reports whether there are
// more. It looks at so many that it is quick, too: a client that writes one thing a hundred
// thousand times has more.
func (o *Owned) each(most int, do func(Query)) (more bool) {
	seen, looked := map[Query]struct{}{}, 0
	for _, t := range o.Targets {
		for q := range t.Queries() {
			if looked++; looked > 8*most {
				return true
			}
			if _, twice := seen[q]; twice {
				continue
			}
			if len(seen) == most {
				return true
			}
			seen[q] = struct{}{}
			do(q)
		}
	}
	return false
}

// refusal is why a client does not have all that it declares.
type refusal struct {
	of  *list
	err error
}

// assign says which queries are watched, and for whom: each for all who declare it, so
// that nobody loses it for what another of them does. The refusals are of those who
// declare more than they may have.
func (s *shares) assign(operator []Target, owned []Owned) (queries map[Query][]*account, refusals []refusal) {
	queries = map[Query][]*account{}
	for _, t := range operator {
		for q := range t.Queries() {
			queries[q] = nil
		}
	}
	lists, counts := make([]*list, len(owned)), make([]int, len(owned))
	for i := range owned {
		lists[i] = s.listOf(&owned[i])
		counts[i] = lists[i].count
	}
	most := min(fairLevel(counts, s.AllQueries), s.Queries)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget(owned)
	for i, o := range owned {
		a := s.account(o.Owner)
		a.queries = min(counts[i], most)
		o.each(a.queries, func(q Query) {
			if owners, known := queries[q]; !known || owners != nil {
				queries[q] = append(owners, a)
			}
		})
		if a.queries < counts[i] || lists[i].more {
			refusals = append(refusals, refusal{lists[i], tooManyQueries(o.Owner, a.queries, most < s.Queries)})
		}
	}
	return queries, refusals
}
