// Package static is the source of targets that need no lookup: an IP address and
// a port, as in 192.168.1.100:8080 or [2001:db8::7]:8080.
package static

import (
	"context"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/resolver"
)

// Source answers queries of the scheme "static". Its zero value is ready to use.
type Source struct{}

var _ resolver.Source = Source{}

// Check reports an address or port that is missing or malformed.
func (Source) Check(q resolver.Query) error {
	const fix = "write IP:PORT, for example 192.168.1.100:8080 or [2001:db8::7]:8080"
	switch {
	case !q.AddrPort().IsValid():
		return hint.Errorf(fix, "%q is not an IP address", q.Host)
	case q.Port == 0:
		return hint.Errorf(fix, "%s has no port", q.Host)
	case q.Path != "" || q.Params != "":
		return hint.Errorf(fix, "an address takes neither a path nor parameters")
	}
	return nil
}

// Watch publishes the address once and waits for ctx: there is nothing that
// could change or fail.
func (s Source) Watch(ctx context.Context, q resolver.Query, publish func(resolver.Answer)) error {
	if err := s.Check(q); err != nil {
		return err
	}
	publish(resolver.Answer{Endpoints: []resolver.Endpoint{{Addr: q.AddrPort(), Weight: 1}}})
	<-ctx.Done()
	return nil
}
