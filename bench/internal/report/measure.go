package report

import (
	"fmt"
	"strings"
)

// Names of measures.
const (
	HTTPKeepAlive = "http keep-alive"
	HTTPClose     = "http close"
)

// Bulk names streams in one direction, "up" or "down".
func Bulk(direction string, streams int) string { return fmt.Sprintf("bulk %s %d", direction, streams) }

// Ask names requests of some bytes on open connections.
func Ask(size, conns int) string { return fmt.Sprintf("request %d B × %d", size, conns) }

// Churn names connections that carry one exchange.
func Churn(atOnce int) string { return fmt.Sprintf("churn %d", atOnce) }

func isBulk(measure string) bool { return strings.HasPrefix(measure, "bulk") }

// Measures are the names of all, in the order in which they are shown.
func Measures() []string {
	return []string{
		Bulk("up", 1), Bulk("up", 8), Bulk("down", 1), Bulk("down", 8),
		Ask(64, 1), Ask(64, 64), Ask(4096, 1), Ask(4096, 64),
		Churn(1), Churn(64), HTTPKeepAlive, HTTPClose,
	}
}
