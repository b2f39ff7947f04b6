package proxy

import (
	"context"
	"net"
	"strings"
	"testing"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/proxy/internal/socket"
)

// TestEndpointsThatDoNotTakeTheHeader: an endpoint that resets the connection after a PROXY
// header and before any byte is said to, perhaps, want none, or a shorter one; not one that
// has answered.
func TestEndpointsThatDoNotTakeTheHeader(t *testing.T) {
	for name, test := range map[string]struct {
		long   int
		answer string
		replay bool
		hint   string
	}{
		"a long one":         {long: 710, hint: "of 710 bytes: lower proxy-protocol-max (107 "},
		"a short one":        {long: 28, hint: "does the endpoint expect a PROXY header"},
		"none":               {long: 0},
		"one that was taken": {long: 710, answer: "x"},
		"tried again":        {long: 710, replay: true, hint: "of 710 bytes: "},
	} {
		t.Run(name, func(t *testing.T) {
			may := make(chan struct{})
			endpoint := backend(t, func(c *net.TCPConn) {
				if test.answer != "" {
					mustWrite(t, c, test.answer)
				}
				<-may
				socket.Reset(c)
			})
			l := newLab(t, &Server{}, RouterFunc(func(context.Context, *net.TCPConn) (Route, error) {
				return Route{Endpoints: InOrder(endpoint), Preface: []byte(strings.Repeat("p", test.long)), Options: Options{Replay: test.replay}}, nil
			}))
			conn := l.dial()
			if test.answer != "" {
				if _, err := conn.Read(make([]byte, 1)); err != nil {
					t.Fatal(err)
				}
			}
			close(may)
			_, _ = l.read(conn)
			err := l.record().Err
			if _, outermost := err.(*Failure); !outermost { //nolint:errorlint // one who drops the reason from the text looks no deeper
				t.Errorf("the error is %T, %q; want a *Failure, with the hint inside", err, err)
			}
			if got := hint.Of(err); test.hint == "" && strings.Contains(got, "PROXY") || !strings.Contains(got, test.hint) {
				t.Errorf("hint %q; want %q in it", got, test.hint)
			}
		})
	}
}
