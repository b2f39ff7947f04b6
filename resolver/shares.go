package resolver

import (
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
	// news; beyond, they ask now and then. Default 64.
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
	waiting chan struct{} // holds one for each connection on which news are waited for

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
