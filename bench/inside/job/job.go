// Package job is what bench/inside asks of its load generator in a container, and what
// that answers: one JSON object a line.
package job

import "time"

// The kinds of load.
const (
	Exchange = "exchange" // connections that stay: Size bytes there, and the same back
	Churn    = "churn"    // connect, exchange Size bytes, close
	Up       = "up"       // one stream to the backend
	Down     = "down"     // one stream from the backend
)

// The ports of the backend. It echoes at several, because whoever closes a connection
// first keeps its pair of ports for a minute, and the proxy has only 28,000 towards each.
const (
	Sink   = 7001 // reads to the end, then says how many bytes that were: 8, big-endian
	Source = 7002 // is told for how many nanoseconds, 8 bytes big-endian, and sends as long
	Echo   = 7003 // the first
	Echoes = 4
)

// Ports are all of them.
func Ports() []int {
	ports := []int{Sink, Source}
	for i := range Echoes {
		ports = append(ports, Echo+i)
	}
	return ports
}

// Job is one measurement. The generator warms up, answers with an empty line, waits for
// one, measures, and answers with a Result.
type Job struct {
	Kind        string
	Addresses   []string // ADDR:PORT; churn takes them in turn, others the first
	Size        int      // bytes
	Connections int      // at once
	Warm, Time  time.Duration
	Most        int // churn ends after that many connections, if not before
}

// Result is what was measured.
type Result struct {
	Operations int           // exchanges, or connections
	Bytes      int64         // of a stream
	Elapsed    time.Duration //
	P50, P99   time.Duration // of one operation
	Busy       time.Duration // of all processors of the machine, meanwhile
	Congestion string        // the client's TCP congestion control
	Error      string        // why there is no result
}
