package main

import (
	"fmt"
	"os"
	"strings"
)

const congestionFile = "/proc/sys/net/ipv4/tcp_congestion_control"

// setCongestion sets the host's TCP congestion control, unless name is empty, and
// returns what sets it back. A container takes over the host's when it starts.
func setCongestion(name string) (restore func(), err error) {
	before, err := os.ReadFile(congestionFile)
	if err != nil {
		return nil, err
	}
	if name == "" || name == strings.TrimSpace(string(before)) {
		return func() {}, nil
	}
	if err := os.WriteFile(congestionFile, []byte(name), 0o644); err != nil {
		return nil, fmt.Errorf("-congestion %s: %w (/proc/sys/net/ipv4/tcp_available_congestion_control lists what there is)", name, err)
	}
	return func() {
		if err := os.WriteFile(congestionFile, before, 0o644); err != nil {
			fmt.Fprintf(os.Stderr, "inside: set the congestion control back to %s: %v\n", before, err)
		}
	}, nil
}
