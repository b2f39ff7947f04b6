package agent

import (
	"runtime"

	"github.com/ambassadord/ambassadord/internal/accesslog"
	"github.com/ambassadord/ambassadord/internal/budget"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/proxy"
)

// mostLoops are enough to carry what a host's containers say to each other.
const mostLoops = 4

// loops carry the connections: one for every other core, up to a few. The rest of the
// process needs some time, too, and the two ends of a connection on this host need more of
// it than the middle.
func loops() int { return max(1, min(runtime.GOMAXPROCS(0)/2, mostLoops)) }

// newServer makes the server, with as many connections as wanted and the limit of open
// files allow, 0 for as many as that allows, and so many new ones a second, 0 for any
// number.
func (a *agent) newServer(wanted, rate int) (*proxy.Server, error) {
	descriptors, err := budget.Limit()
	if err != nil {
		return nil, err
	}
	b, short := budget.Of(descriptors).Within(wanted)
	a.bounds = proxy.Bounds{Open: b.Open, Rate: rate, Queue: b.Queue, Reserve: reserveOf(b.Open)}
	if short != nil {
		a.log.Warn("fewer connections than were asked for", "error", short, hint.Attr(short))
	}
	limit := proxy.NewLimit("the daemon", "raise --max-connections or --accept-rate, and the limit of open files, or look who opens so many",
		a.bounds)
	unknown := proxy.NewLimit("the daemon's queue of those whose container is not known yet", "raise the limit of open files",
		proxy.Bounds{Open: b.Queue, Reserve: reserveOf(b.Queue)})
	clients := a.clientsIn(nil)
	limit.SetClients(clients)
	unknown.SetClients(clients)
	return &proxy.Server{
		Limit:    limit,
		Unknown:  unknown,
		Loops:    loops(),
		Accepted: b.Open + 2*b.Queue,
		Done:     accesslog.New(a.log).Done,
		Log:      a.log,
	}, nil
}
