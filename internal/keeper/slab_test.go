package keeper

import (
	"math/rand/v2"
	"testing"
)

// A number leads to what it was given for, and to nothing else that has its place later.
func TestSlab(t *testing.T) {
	var s slab[int]
	there, gone := map[uint64]int{}, map[uint64]int{}
	for n := range 10_000 {
		if rand.IntN(2) == 0 {
			number := s.put(n)
			if _, twice := there[number]; number == 0 || twice || gone[number] != 0 {
				t.Fatalf("number %#x, which there has been before or is none", number)
			}
			there[number] = n
			continue
		}
		for number, n := range there {
			s.remove(number)
			s.remove(number)
			delete(there, number)
			gone[number] = n + 1
			break
		}
	}
	if len(s.places) > 1000 {
		t.Errorf("%d places for a handful of things", len(s.places))
	}
	for number := range gone {
		if p := s.at(number); p != nil {
			t.Errorf("%#x is gone and leads to %d", number, *p)
		}
	}
	for number, n := range s.all() {
		if want, ok := there[number]; !ok || want != *n || s.at(number) != n {
			t.Errorf("%#x leads to %d; want %d", number, *n, want)
		}
		delete(there, number)
	}
	if len(there) > 0 {
		t.Errorf("%d are not among all", len(there))
	}
	if s.at(0) != nil || s.at(1<<40) != nil {
		t.Error("a number that was never given leads to something")
	}
}
