package preparer

import (
	"encoding/json"
	"fmt"
)

// maxMessage bounds a message: ports are the longest part of it, at most six bytes each.
const maxMessage = 64 << 10

// mostDescriptors is how many come with a message.
const mostDescriptors = 3

// mostThere is how many namespaces one report may tell of: paths of usual length fit.
const mostThere = 256

// order is what the daemon says: from now on these ports are to be redirected in what appears.
type order struct {
	Ports []uint16 `json:"ports"`
}

// preparerReport is what the process says: that it watches, or that it cannot, or that a namespace
// has appeared. The descriptors of what it has made come with it: the sockets that listen, of
// IPv4 and, if Six, of IPv6, and then that of the rules in advance.
type preparerReport struct {
	Watching bool   `json:"watching,omitempty"`
	Nice     bool   `json:"nice,omitempty"` // Watching, but not at real-time priority; Failure says why
	Failure  string `json:"failure,omitempty"`
	Hint     string `json:"hint,omitempty"`
	Denied   bool   `json:"denied,omitempty"` // Failure is that real-time priority is not allowed
	Spent    bool   `json:"spent,omitempty"`  // that has been taken away for a while

	// There are paths of namespaces that were there before the process watched: thousands, maybe,
	// and of none is there more to say.
	There []string `json:"there,omitempty"`

	Path   string   `json:"path,omitempty"`
	Listen uint16   `json:"listen,omitempty"` // 0: nothing was prepared
	Six    bool     `json:"six,omitempty"`
	Ports  []uint16 `json:"ports,omitempty"` // that the rules redirect
	Took   int64    `json:"took,omitempty"`  // nanoseconds
	// Unprepared is why nothing was, if that is not for another daemon, nor for the end of the
	// container.
	Unprepared string `json:"unprepared,omitempty"`
}

// descriptors is how many come with r.
func (r *preparerReport) descriptors() int {
	switch {
	case r.Listen == 0:
		return 0
	case r.Six:
		return mostDescriptors
	}
	return mostDescriptors - 1
}

func encode(message any) ([]byte, error) {
	packet, err := json.Marshal(message)
	if err == nil && len(packet) > maxMessage {
		err = fmt.Errorf("a message of %d bytes", len(packet))
	}
	return packet, err
}
