package logbudget

import (
	"log/slog"
	"time"
)

// Bounds of what is written. A line that one of them leaves out is counted, and told of
// within the second by a line that says whose it was and what it was about.
const (
	// Field bounds what is written of one value, in bytes as they are written: a control
	// character takes four.
	Field = 512
	// Line bounds what is written of one record, in bytes.
	Line = 8 << 10
	// Bytes bounds all lines of one second. The first half is for the first comers; the
	// second is shared equally by all who want some of it. A client that has had less than Least
	// of that is let past the bound, up to twice as much: a client that says little is heard
	// however much others say.
	Bytes = 4 << 20
	// Least is what each client may write in any second.
	Least = 1 << 10
)

// rate is how many lines of one kind are written: so many at once, and then so many a
// second.
type rate struct{ burst, perSecond float64 }

// The rates. A kind is a message, with its level and its reason.
var (
	clientRate = rate{100, 10}   // of one client's lines of a kind
	targetRate = rate{10, 2}     // of lines about one target, or one endpoint of it
	ownRate    = rate{1000, 100} // of lines about no client and no target
)

// free reports whether lines of a kind have no rate: that of a connection which ended
// well is written for each, as long as Bytes lets it.
func free(r *slog.Record) bool { return r.Message == Connection && r.Level < slog.LevelWarn }

// Connection is the message of the line that each connection has.
const Connection = "connection"

const (
	// toldEvery is how long lines that were left out are counted before that is told.
	toldEvery = time.Second
	// mostTold is how many lines tell of them at once; the last one is about all the rest.
	mostTold = 50
	// mostKinds bounds the counters: of clients that are containers, and as many again of
	// addresses, of which anybody may have many. Beyond, those that are new share one.
	mostKinds = 8192
	// mostShares bounds the clients whose bytes are counted apart in one second.
	mostShares = 4096
)
