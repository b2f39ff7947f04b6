package load

import (
	"math/bits"
	"time"
)

// fine is how many buckets a power of two is divided into: a latency is told to
// within 1.6%.
const fine = 64

// histogram counts latencies without allocating, in nanoseconds.
type histogram struct {
	counts [fine * 40]uint32
	total  int
}

func (h *histogram) add(d time.Duration) {
	h.counts[bucket(uint64(max(d, 0)))]++
	h.total++
}

func bucket(ns uint64) int {
	if ns < fine {
		return int(ns)
	}
	shift := bits.Len64(ns) - bits.Len64(fine)
	return min((shift+1)*fine+int(ns>>shift)-fine, fine*40-1)
}

// lowest is the smallest latency of a bucket.
func lowest(bucket int) time.Duration {
	if bucket < fine {
		return time.Duration(bucket)
	}
	shift := bucket/fine - 1
	return time.Duration(fine+bucket%fine) << shift
}

// quantile is the latency that the share q of all was no longer than.
func (h *histogram) quantile(q float64) time.Duration {
	if h.total == 0 {
		return 0
	}
	rank := int(q * float64(h.total))
	for b, n := range &h.counts {
		if rank -= int(n); rank < 0 {
			return lowest(b)
		}
	}
	return lowest(len(h.counts) - 1)
}

func (h *histogram) into(r *Result) {
	r.P50, r.P99, r.P999 = h.quantile(0.5), h.quantile(0.99), h.quantile(0.999)
}
