package blocking

import "time"

// Longest is how long an agent may hold a query that is to wait so long: it adds up to
// a 16th against herds.
func Longest(wait time.Duration) time.Duration { return wait + wait/16 }

// NextIndex is the index to wait on after an answer with index got to a request
// with index waited, by the rules of Consul's "Blocking Queries": start over when
// it goes backwards (the servers were restored, or are others), and never wait on
// 0, which does not wait at all.
func NextIndex(waited, got uint64) uint64 {
	if got < waited {
		return 0
	}
	return max(got, 1)
}

// Ignored is a JSON value that is not read: of the answer the index is all that is wanted.
type Ignored struct{}

// UnmarshalJSON is json.Unmarshaler's.
func (*Ignored) UnmarshalJSON([]byte) error { return nil }
