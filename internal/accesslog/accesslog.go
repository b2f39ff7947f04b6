// Package accesslog writes one line for each connection that has ended: who dialled
// which port, which endpoint of which target it reached, for how long, how many bytes went each
// way, and, if it failed, why and what to do about it. The table of the reasons is proxy.Reasons, in docs/reference.md.
//
// The log is made by New, and its Done is given to a proxy.Server, which calls it. Where the lines go, and of how many
// connections, outlet.go has: the daemon's log, a file, or nowhere.
package accesslog

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ambassadord/ambassadord/internal/events"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/proxy"
)

// heldLong is from when on it is worth saying how long a connection waited for an
// endpoint that answers.
const heldLong = 100 * time.Millisecond

// Log writes the one line of each connection, also from several goroutines. With thousands of
// connections a second the line is much of what a short connection costs, so Log allocates
// nothing for texts that come again and again.
type Log struct {
	own       *slog.Logger // the daemon's
	kept      *events.Log
	out       atomic.Pointer[outlet]
	closing   sync.WaitGroup // outlets that lines may be in still
	lines     sync.Pool      // of *line
	endpoints endpointTexts
	durations durationTexts
}

// line is what a line is made of.
type line struct {
	attrs []slog.Attr
	whole [1]slog.Attr // attrs as one group without a name, which is written as they are
}

// New returns a Log that writes to the daemon's log: at level info, and at level warn for a connection that
// failed. Change has it write elsewhere; kept, which keeps what the daemon's log tells, is told of failures then, too.
// It may be nil.
func New(log *slog.Logger, kept *events.Log) *Log {
	l := &Log{own: log, kept: kept}
	l.out.Store(&outlet{handler: log.Handler(), sample: 1})
	return l
}

// Done writes the line of a connection that has ended; it is a proxy.Server's Done.
func (l *Log) Done(r proxy.Record) {
	out, level, sample := l.out.Load(), slog.LevelInfo, 1
	if r.Err != nil {
		level = slog.LevelWarn
	} else if sample = out.sample; sample != 1 && (sample == 0 || rand.IntN(sample) != 0) {
		return
	}
	ctx, handler := context.Background(), out.handler
	if handler == nil || !handler.Enabled(ctx, level) {
		return
	}
	made, ok := l.lines.Get().(*line)
	if !ok {
		made = &line{attrs: make([]slog.Attr, 0, 17)}
	}
	made.attrs = l.attrs(made.attrs[:0], &r)
	if sample > 1 {
		made.attrs = append(made.attrs, slog.Int("sample", sample))
	}
	// A slog.Record has room for five attributes, and allocates it for more; slog.Logger
	// looks for its caller, whom no handler of ours names.
	made.whole[0] = slog.Attr{Value: slog.GroupValue(made.attrs...)}
	record := slog.NewRecord(r.Ended, level, "connection", 0)
	record.AddAttrs(made.whole[:]...)
	_ = handler.Handle(ctx, record) // which keeps none of it; its error has nowhere to go
	clear(made.attrs)
	l.lines.Put(made)
}

// attrs appends to attrs what the line says of r.
func (l *Log) attrs(attrs []slog.Attr, r *proxy.Record) []slog.Attr {
	attrs = append(attrs, slog.String("client", r.Route.Client.Name))
	attrs = addText(attrs, "id", r.Route.Client.ID)
	attrs = addText(attrs, "service", r.Route.Client.Service)
	if r.Route.Client.Name == "" {
		attrs = addText(attrs, "source", r.Source.String())
	}
	attrs = append(attrs, slog.Int("port", int(r.Route.Port)))
	attrs = addText(attrs, "target", r.Route.Target)
	if r.Endpoint.Addr.IsValid() {
		attrs = addText(attrs, "endpoint", l.endpoints.of(r.Endpoint.Addr))
		attrs = addText(attrs, "endpoint_name", r.Endpoint.Name)
	}
	if r.Attempts > 1 {
		attrs = append(attrs, slog.Int("attempts", r.Attempts))
	}
	if r.Held >= heldLong {
		attrs = addText(attrs, "held", r.Held.Round(time.Millisecond).String())
	}
	attrs = append(attrs, slog.Int64("bytes_up", r.Up), slog.Int64("bytes_down", r.Down),
		slog.String("duration", l.durations.of(r.Duration)))
	if r.Err != nil {
		attrs = addText(attrs, "reason", string(proxy.ReasonOf(r.Err)))
		attrs = addText(attrs, "error", causeOf(r.Err).Error())
		attrs = addText(attrs, "hint", hint.Of(r.Err))
	}
	return attrs
}

// addText adds an attribute that is left out when it is empty.
func addText(attrs []slog.Attr, key, value string) []slog.Attr {
	if value == "" {
		return attrs
	}
	return append(attrs, slog.String(key, value))
}

// causeOf drops the reason from the text: it has a field of its own.
func causeOf(err error) error {
	if f, ok := err.(*proxy.Failure); ok { //nolint:errorlint // only the outermost is meant
		return f.Err
	}
	return err
}

// endpointTexts are the addresses that were written last, as text: those of endpoints
// come again and again. Addresses that share a place displace each other.
type endpointTexts [256]atomic.Pointer[endpointText]

type endpointText struct {
	addr netip.AddrPort
	text string
}

func (t *endpointTexts) of(addr netip.AddrPort) string {
	b := addr.Addr().As16()
	place := &t[b[15]^b[14]^b[13]^byte(addr.Port())^byte(addr.Port()>>8)]
	if known := place.Load(); known != nil && known.addr == addr {
		return known.text
	}
	text := addr.String()
	place.Store(&endpointText{addr, text})
	return text
}

// durationStep is what durations are rounded to.
const durationStep = 10 * time.Microsecond

// durationTexts are the texts of those below 10 ms: where there are many connections,
// they are short. To others one more allocation is nothing.
type durationTexts [1024]atomic.Pointer[string]

func (t *durationTexts) of(d time.Duration) string {
	d = d.Round(durationStep)
	if d < 0 || d/durationStep >= time.Duration(len(t)) {
		return d.String()
	}
	place := &t[d/durationStep]
	if known := place.Load(); known != nil {
		return *known
	}
	text := d.String()
	place.Store(&text)
	return text
}
