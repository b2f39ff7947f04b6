package dns

import (
	"context"
	"sync"

	mdns "github.com/miekg/dns"
)

// ServerStatus says whether one DNS server answers.
type ServerStatus struct {
	// Server is its HOST:PORT.
	Server string
	// Err is nil when it answered anything, if only that it refuses.
	Err error
}

// Probe asks every server once for the name servers of the root, all at the same
// time, and returns what became of each, in resolv.conf's order. The error is
// that of reading resolv.conf.
func (c *Client) Probe(ctx context.Context) ([]ServerStatus, error) {
	up, err := c.system()
	if err != nil {
		return nil, err
	}
	statuses := make([]ServerStatus, len(up.servers))
	var asking sync.WaitGroup
	for i, server := range up.servers {
		asking.Go(func() {
			_, err := c.try(ctx, attempt{server: server, timeout: up.timeout, edns: true}, dnsQuestion{name: ".", qtype: mdns.TypeNS})
			statuses[i] = ServerStatus{Server: server, Err: err}
		})
	}
	asking.Wait()
	return statuses, nil
}
