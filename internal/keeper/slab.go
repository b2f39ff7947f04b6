package keeper

import "iter"

// slab numbers what is put in it, and has it again by that number, in a slice: a map, and
// something allocated for each connection, would take several times what they take here.
type slab[T any] struct {
	places []internedSlot[T]
	free   []uint32 // indexes of places
}

// internedSlot is where something may be. A number is how often a place was used and, in the
// lower 32 bits, the index of the place.
type internedSlot[T any] struct {
	thing T
	uses  uint32 // odd while something is there
}

// put puts a thing in the slab. The number is never 0, and not used again before as many
// things were put there as are in a uint32.
func (s *slab[T]) put(thing T) (number uint64) {
	var at uint32
	if n := len(s.free); n > 0 {
		at, s.free = s.free[n-1], s.free[:n-1]
	} else {
		at = uint32(len(s.places))
		s.places = append(s.places, internedSlot[T]{})
	}
	p := &s.places[at]
	p.thing = thing
	p.uses++
	return uint64(p.uses)<<32 | uint64(at)
}

// at is the thing of that number until something is put in the slab or removed from it;
// nil if it is not there.
func (s *slab[T]) at(number uint64) *T {
	at := uint32(number)
	if int(at) >= len(s.places) || uint64(s.places[at].uses) != number>>32 || s.places[at].uses%2 == 0 {
		return nil
	}
	return &s.places[at].thing
}

// remove takes the thing of that number out of the slab, if it is there.
func (s *slab[T]) remove(number uint64) {
	if s.at(number) == nil {
		return
	}
	at := uint32(number)
	s.places[at] = internedSlot[T]{uses: s.places[at].uses + 1}
	s.free = append(s.free, at)
}

// all is what there is, by number.
func (s *slab[T]) all() iter.Seq2[uint64, *T] {
	return func(yield func(uint64, *T) bool) {
		for at := range s.places {
			if p := &s.places[at]; p.uses%2 == 1 && !yield(uint64(p.uses)<<32|uint64(at), &p.thing) {
				return
			}
		}
	}
}
