package report

import (
	"fmt"
	"math"
	"slices"
)

// Spread is the middle of some figures, and of their halves.
type Spread struct {
	N                int
	Median, P25, P75 float64
}

// SpreadOf interpolates between the two nearest figures.
func SpreadOf(values []float64) Spread {
	if len(values) == 0 {
		return Spread{Median: math.NaN(), P25: math.NaN(), P75: math.NaN()}
	}
	sorted := slices.Sorted(slices.Values(values))
	at := func(q float64) float64 {
		position := q * float64(len(sorted)-1)
		low := int(position)
		high := min(low+1, len(sorted)-1)
		return sorted[low] + (sorted[high]-sorted[low])*(position-float64(low))
	}
	return Spread{N: len(sorted), Median: at(0.5), P25: at(0.25), P75: at(0.75)}
}

func (s Spread) String() string {
	if s.N == 0 {
		return "–"
	}
	return fmt.Sprintf("%.2f (%.2f–%.2f)", s.Median, s.P25, s.P75)
}

// MedianWithin is where the median of all figures that there could be lies, with a confidence of at
// least 95%: between two of those that there are, by how many may be below the median (the
// binomial distribution with 1/2). Fewer than six cannot say.
func MedianWithin(values []float64) (low, high float64, ok bool) {
	n := len(values)
	sorted := slices.Sorted(slices.Values(values))
	below, each := 0.0, math.Pow(0.5, float64(n)) // the chance of k figures below the median
	for k := range n / 2 {
		if below += each; below > 0.025 {
			if k == 0 {
				return 0, 0, false
			}
			return sorted[k-1], sorted[n-k], true
		}
		each *= float64(n-k) / float64(k+1)
	}
	return 0, 0, false
}
