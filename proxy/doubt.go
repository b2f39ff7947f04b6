package proxy

import (
	"context"
	"errors"
	"slices"
	"time"
)

// doubt has the Chooser ask for the target's endpoints anew, once all have failed with err, and
// reports whether there are others by now. These are dialled at once, also where a connection is
// not held.
func (s *search) doubt(ctx context.Context, err error) bool {
	d, ok := s.route.Endpoints.(Doubter)
	return ok && ctx.Err() == nil && ReasonOf(err) == DialFailed && !slices.ContainsFunc(s.failures, OwnFault) && d.Doubt(ctx)
}

var errSilent = errors.New("it did not answer, and by now there may be another endpoint")

// othersAppear waits while the last endpoint of a round is silent, and reports whether another
// round may find somebody else; if not, ctx has ended. Silence is as much news as a refusal, since
// nobody answers for the address of a container that was removed. So the source is asked again,
// each time that another attempt would be over. A connection that is held hears of every change.
func othersAppear(ctx context.Context, c Chooser, held bool, every time.Duration) bool {
	doubter, _ := c.(Doubter)
	for ctx.Err() == nil {
		if doubter != nil && doubter.Doubt(ctx) {
			break
		}
		next, cancel := context.WithTimeout(ctx, every)
		if held {
			c.Changed(next)
		}
		changed := next.Err() == nil && held
		if changed && (doubter == nil || doubter.Doubt(ctx)) {
			cancel()
			break
		}
		held = held && !changed // the same endpoints: the source has failed, or is well again
		<-next.Done()
		cancel()
	}
	return ctx.Err() == nil
}
