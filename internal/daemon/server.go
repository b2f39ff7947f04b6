package daemon

import (
	"log/slog"
	"runtime"

	"github.com/ambassadord/ambassadord/internal/accesslog"
	"github.com/ambassadord/ambassadord/internal/budget"
	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/failures"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/metrics"
	"github.com/ambassadord/ambassadord/internal/route"
	"github.com/ambassadord/ambassadord/proxy"
	"github.com/ambassadord/ambassadord/proxy/limit"
)

// mostLoops are enough to carry what a host's containers say to each other.
const mostLoops = 4

// loops carry the connections: one for every other core, up to a few. The rest of the
// process needs some time, too, and the two ends of a connection on this host need more of
// it than the middle.
func loops() int { return max(1, min(runtime.GOMAXPROCS(0)/2, mostLoops)) }

// newServer makes the server, with as many connections as cfg wants and the limit of open
// files allows, 0 for as many as that allows, and so many new ones a second, 0 for any
// number. counters and lines are told of each connection, and failed of those that fail.
func newServer(cfg config.Config, counters *metrics.Counters, lines *accesslog.Log, failed *failures.Last, log *slog.Logger) (*proxy.Server, limit.Bounds, error) {
	descriptors, err := budget.Limit()
	if err != nil {
		return nil, limit.Bounds{}, err
	}
	b, short := budget.Of(descriptors).Within(cfg.MaxConnections)
	bounds := limit.Bounds{Open: b.Open, Rate: cfg.AcceptRate, Queue: b.Queue, Reserve: route.ReserveOf(b.Open)}
	if short != nil {
		log.Warn("fewer connections than were asked for", "error", short, hint.Attr(short))
	}
	known := limit.New("the daemon", "raise --max-connections or --accept-rate, and the limit of open files, or look who opens so many", bounds)
	unknown := limit.New("the daemon's queue of those whose container is not known yet", "raise the limit of open files",
		limit.Bounds{Open: b.Queue, Reserve: route.ReserveOf(b.Queue)})
	s := &proxy.Server{
		Limit:    known,
		Unknown:  unknown,
		Loops:    loops(),
		Accepted: b.Open + 2*b.Queue,
		Done: func(r proxy.Record) {
			counters.Done(r)
			lines.Done(r)
			if r.Err != nil || failed.Any() { // all others cost no more than this look
				failed.Done(r)
			}
		},
		Log: log,
	}
	s.ReclaimIdle(cfg.ReclaimIdle)
	return s, bounds, nil
}
