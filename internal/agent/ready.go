package agent

import (
	"context"
	"time"

	"github.com/ambassadord/ambassadord/internal/config"
)

// readyPatience is how long the engine may take to say who is there before we are ready all
// the same.
const readyPatience = 5 * time.Second

// attachPatience is how long attaching to the containers that are there waits until we are ready.
const attachPatience = 200 * time.Millisecond

// serveOn returns when ctx has ended, or a new daemon accepts, which it returns. It calls
// ready when we follow the containers that are there: whatever starts from then on is seen
// from its first instruction on. An engine that does not tell of them delays that, but does
// not prevent it: fixed listeners do without.
func (a *agent) serveOn(ctx context.Context, ready func()) *successor {
	followed, late := a.followed, time.After(readyPatience)
	for {
		select {
		case <-followed:
			a.awaitWatch(ctx)
		case <-late:
		case <-ctx.Done():
			return nil
		case d := <-a.handing:
			return d
		}
		ready()
		close(a.readied)
		followed, late = nil, nil
	}
}

// awaitWatch returns when new network namespaces are watched for, if they are to be.
func (a *agent) awaitWatch(ctx context.Context) {
	for _, m := range a.running {
		as, ok := m.(*attachments)
		if !ok || as.mode != config.Redirect {
			continue
		}
		select {
		case <-as.newcomers.began:
		case <-time.After(watchPatience):
		case <-ctx.Done():
		}
	}
}

// awaitReady returns when we are ready, at the latest when attachPatience is over, or ending is
// closed. Attaching to hundreds of containers keeps every processor busy: it would have the
// little wait that is to be done before.
func (a *agent) awaitReady(ending <-chan struct{}) {
	select {
	case <-a.readied: // nearly always
		return
	default:
	}
	late := time.NewTimer(attachPatience)
	defer late.Stop()
	select {
	case <-a.readied:
	case <-late.C:
	case <-ending:
	}
}
