package consul

import (
	"context"
	"sync/atomic"
)

// shortLanes is how many requests that do not wait may be under way at one agent.
const shortLanes = 16

// lanes share out an agent's connections. Over HTTP/1.1 each blocking query takes
// one for as long as it waits, and an agent refuses those of one address beyond a
// limit (200), whoever they belong to. So the first so many watches have a query of
// their own; for the rest see crowd. Over HTTP/2, which agents speak with TLS, many
// queries share a connection, and every watch has its own.
type lanes struct {
	blocking, short chan struct{}
	multiplexed     atomic.Bool
}

func (l *lanes) init(blocking int) {
	l.blocking, l.short = make(chan struct{}, blocking), make(chan struct{}, shortLanes)
}

// tryBlocking takes a lane for a blocking query, if there is one.
func (l *lanes) tryBlocking() (release func(), ok bool) {
	if l.multiplexed.Load() {
		return func() {}, true
	}
	select {
	case l.blocking <- struct{}{}:
		return func() { <-l.blocking }, true
	default:
		return nil, false
	}
}

// takeShort takes a lane for a request that does not wait, or fails with ctx.
func (l *lanes) takeShort(ctx context.Context) (release func(), err error) {
	select {
	case l.short <- struct{}{}:
		return func() { <-l.short }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
