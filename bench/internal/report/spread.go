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
