package resolver

import (
	"hash/maphash"
	"slices"
)

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
