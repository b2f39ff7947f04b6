package explain

import (
	"net/netip"
	"strings"
	"testing"
)

// TestDeaf: what is said of a container that is dialled at 10.0.0.2:80, or by IPv6, and of what listens in it.
func TestDeaf(t *testing.T) {
	for _, c := range []struct{ at, listens, want string }{
		{"10.0.0.2:80", "0.0.0.0:80", ""},
		{"10.0.0.2:80", "[::]:80", ""},
		{"10.0.0.2:80", "127.0.0.1:80 10.0.0.2:80", ""},
		{"[fd00::2]:80", "[::]:80", ""},
		{"[fd00::2]:80", "0.0.0.0:80", "by 0.0.0.0:80 alone"},
		{"10.0.0.2:80", "127.0.0.1:80 [::1]:80 0.0.0.0:81", "web listens at port 80 by 127.0.0.1:80, [::1]:80 alone"},
		{"10.0.0.2:80", "0.0.0.0:8080 127.0.0.11:4711", "in web nobody listens at port 80, but at 0.0.0.0:8080"},
		{"10.0.0.2:80", "[::]:1 [::]:2 [::]:3 [::]:4 [::]:5 [::]:5", "and 1 more"},
		{"10.0.0.2:80", "127.0.0.11:4711", "at any port"},
		{"10.0.0.2:80", "", "at any port"},
	} {
		var heard []netip.AddrPort
		for _, l := range strings.Fields(c.listens) {
			heard = append(heard, netip.MustParseAddrPort(l))
		}
		if got := deaf("web", netip.MustParseAddrPort(c.at), heard); (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("dialled at %s, where %q listens: %q, want %q", c.at, c.listens, got, c.want)
		}
	}
}
