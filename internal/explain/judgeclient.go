package explain

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/ambassadord/ambassadord/internal/shorten"
)

// What the container itself does, or has, that keeps its connections from going where they are meant to.

func appListens(e *Explanation) (State, string, string) {
	if len(e.Inside.Listens) == 0 || e.Declaration == nil {
		return "", "", ""
	}
	return Doubtful, fmt.Sprintf("the container itself listens at %s and declares port %d: what it dials there at localhost goes to the target, never to itself",
			strings.Join(e.Inside.Listens, ", "), e.Asked.Port),
		"declare another port for the target, or let the container dial itself by its own address"
}

func notRecreated(e *Explanation) (State, string, string) {
	if e.Declaration == nil {
		return "", "", ""
	}
	for _, n := range e.NearMisses {
		if strings.Contains(n.Why, "when it creates a container") || strings.Contains(n.Why, "was made before") {
			return Doubtful, fmt.Sprintf("%s %s", n.Where, n.Why), n.Fix
		}
	}
	return "", "", ""
}

// mistake is another declaration or option of the port that does not hold.
func mistake(e *Explanation) (State, string, string) {
	if e.Declaration == nil {
		return "", "", ""
	}
	for _, n := range e.NearMisses {
		if n.Declared {
			return Doubtful, fmt.Sprintf("%s does not hold: %s", n.Where, n.Why), cmp.Or(n.Fix, "mend it, and create the container anew")
		}
	}
	return "", "", ""
}

func udp(e *Explanation) (State, string, string) {
	const fix = "let it speak TCP, or reach the service without ambassadord"
	switch in := &e.Inside; {
	case in.UDP > 0:
		return Doubtful, fmt.Sprintf("the container speaks UDP to port %d (%s), and only TCP is carried", e.Asked.Port, shorten.Count(in.UDP, "socket", "sockets")), fix
	case in.UDPUnheard > 0 && undialled(e): // a socket that is not connected does not show where it sends to
		return Doubtful, fmt.Sprintf("no connection has come by the port's rule, and %s in the container came to a port at which nobody listens: it may speak UDP, and only TCP is carried",
			shorten.Count(int(min(in.UDPUnheard, 1<<30)), "UDP datagram", "UDP datagrams")), fix
	}
	return "", "", ""
}

// undialled reports whether the rule stands and no connection has ever come by it.
func undialled(e *Explanation) bool {
	r := e.Inside.Rule
	return r != nil && r.Counted && r.Packets == 0 && e.Open == 0 && e.Declaration != nil
}

// otherPort says that the container dials, but not the port: connections fail in its namespace, and none
// came by the rule.
func otherPort(e *Explanation) (State, string, string) {
	in := &e.Inside
	if in.TCPFailed == 0 || !undialled(e) {
		return "", "", ""
	}
	return Doubtful, fmt.Sprintf("no connection has come by the port's rule, and %s from the container failed: it may dial another port or address than localhost:%d",
			shorten.Count(int(min(in.TCPFailed, 1<<30)), "connection", "connections"), e.Asked.Port),
		"look at the address that the application is configured with; some clients take localhost for a Unix socket, so write 127.0.0.1 (docs/explain.md)"
}

func clientUnhealthy(e *Explanation) (State, string, string) {
	if e.Container.Health != "unhealthy" {
		return "", "", ""
	}
	return Doubtful, e.Container.Name + " itself is unhealthy, by its health check", "docker inspect " + e.Container.Name + " shows what the check says"
}
