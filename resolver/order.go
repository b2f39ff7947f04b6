package resolver

import (
	"cmp"
	"math/rand/v2"
	"slices"
)

// order puts endpoints in try-order: by priority, and among equals at random, each
// the sooner the greater its weight (RFC 2782).
func order(endpoints []Endpoint) {
	// The weighted shuffle of Efraimidis and Spirakis: each draws a key, and
	// whoever draws the least comes first.
	type drawn struct {
		key float64
		Endpoint
	}
	var few [16]drawn
	keyed := few[:0]
	for _, e := range endpoints {
		// Weight 0 is a very small share beside others, and an equal one among its kind.
		weight := max(float64(e.Weight), 0.01)
		keyed = append(keyed, drawn{key: rand.ExpFloat64() / weight, Endpoint: e})
	}
	slices.SortFunc(keyed, func(a, b drawn) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.key, b.key))
	})
	for i := range keyed {
		endpoints[i] = keyed[i].Endpoint
	}
}
