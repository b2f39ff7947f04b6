package proxy

import "time"

// limits bound the life of a connection that is relayed. Zero means no limit, and costs
// nothing.
type limits struct {
	// Idle is how long no byte may move on either side.
	Idle time.Duration
	// HalfClosed is how long the second stream may go on after the first has
	// ended.
	HalfClosed time.Duration
	// Lifetime is how long the connection may be relayed.
	Lifetime time.Duration
	// Stall is how long a reset waits for the other side to take what came before
	// it while that takes nothing; 0 means 10 s.
	Stall time.Duration
}

const defaultStall = 10 * time.Second
