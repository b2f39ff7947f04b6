package operate

import (
	"fmt"
	"io"
	"time"

	"github.com/ambassadord/ambassadord/internal/admin"
)

// WriteConnections shows connections as a table, the oldest first, those that needed more than one
// attempt before the others.
func WriteConnections(w io.Writer, c admin.Connections, s Style) {
	s.All = true // as many as were asked for
	g := grid{columns: []string{"CLIENT", "PORT", "TARGET", "ENDPOINT", "AGE", "UP", "DOWN", "SOURCE", "ATTEMPTS"}}
	for _, one := range c.Connections {
		t := well
		if one.Attempts > 1 {
			t = doubtful
		}
		endpoint := one.Endpoint
		if one.EndpointName != "" {
			endpoint += " " + one.EndpointName
		}
		g.add(t, one.Client, fmt.Sprint(one.Port), one.Target, endpoint, span(c.Taken.Sub(one.Accepted)), size(one.BytesUp), size(one.BytesDown), one.Source, fmt.Sprint(one.Attempts))
	}
	g.write(w, s)
	switch more := c.Total - len(c.Connections); {
	case c.Total == 0:
		fmt.Fprintln(w, "no such connection goes on")
	case more > 0:
		fmt.Fprintf(w, "… and %d more: --limit %d shows all\n", more, c.Total)
	}
}

// span is a duration in its two greatest units: 3d4h, 5m2s, 0s.
func span(d time.Duration) string {
	d = max(0, d).Truncate(time.Second)
	days, rest := d/(24*time.Hour), d%(24*time.Hour)
	hours, minutes, seconds := rest/time.Hour, rest%time.Hour/time.Minute, rest%time.Minute/time.Second
	switch {
	case days > 0:
		return fmt.Sprintf("%dd%dh", days, hours)
	case hours > 0:
		return fmt.Sprintf("%dh%dm", hours, minutes)
	case minutes > 0:
		return fmt.Sprintf("%dm%ds", minutes, seconds)
	}
	return fmt.Sprintf("%ds", seconds)
}

// size is a number of bytes: 999, 1.5k, 20M.
func size(n int64) string {
	const step = 1000
	if n < step {
		return fmt.Sprint(n)
	}
	value, unit := float64(n)/step, 0
	for units := len("kMGTPE"); value >= step && unit < units-1; unit++ {
		value /= step
	}
	if value < 10 {
		return fmt.Sprintf("%.1f%c", value, "kMGTPE"[unit])
	}
	return fmt.Sprintf("%.0f%c", value, "kMGTPE"[unit])
}
