package agent

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/proxy"
	"github.com/ambassadord/ambassadord/resolver"
)

type noEndpoints = resolver.NoEndpointsError

// heldLong is from when on it is worth saying how long a connection waited for an
// endpoint that answers.
const heldLong = 100 * time.Millisecond

// logConnection writes the one line of a connection.
func logConnection(log *slog.Logger, r proxy.Record) {
	level := slog.LevelInfo
	attrs := []slog.Attr{slog.String("client", r.Route.Client.Name)}
	add := func(key, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(key, value))
		}
	}
	add("id", r.Route.Client.ID)
	add("service", r.Route.Client.Service)
	if r.Route.Client.Name == "" {
		add("source", r.Source.String())
	}
	attrs = append(attrs, slog.Int("port", int(r.Route.Port)))
	add("target", r.Route.Target)
	if r.Endpoint.Addr.IsValid() {
		add("endpoint", r.Endpoint.Addr.String())
		add("endpoint_name", r.Endpoint.Name)
	}
	if r.Attempts > 1 {
		attrs = append(attrs, slog.Int("attempts", r.Attempts))
	}
	if r.Held >= heldLong {
		add("held", r.Held.Round(time.Millisecond).String())
	}
	attrs = append(attrs, slog.Int64("bytes_up", r.Up), slog.Int64("bytes_down", r.Down),
		slog.String("duration", r.Duration.Round(10*time.Microsecond).String()))
	if r.Err != nil {
		level = slog.LevelWarn
		add("reason", string(proxy.ReasonOf(r.Err)))
		add("error", causeOf(r.Err).Error())
		add("hint", hint.Of(r.Err))
	}
	log.LogAttrs(context.Background(), level, "connection", attrs...)
}

// causeOf drops the reason from the text: it has a field of its own.
func causeOf(err error) error {
	if f, ok := err.(*proxy.Failure); ok { //nolint:errorlint // only the outermost is meant
		return f.Err
	}
	return err
}

// logProblems tells of the mistakes in the declarations of clients that previous
// did not have.
func (a *agent) logProblems(previous, table *identity.Table) {
	if len(a.modes) == 0 {
		return
	}
	for _, c := range table.Clients() {
		var before *identity.Client
		if previous != nil {
			before = previous.Client(c.Container.ID)
		}
		for _, p := range c.Bindings.Problems {
			if before != nil && slices.ContainsFunc(before.Bindings.Problems, func(said *binding.Problem) bool { return said.Error() == p.Error() }) {
				continue
			}
			a.log.Warn("declaration", "client", c.Container.Name, "id", c.Container.ShortID(),
				"origin", p.Origin, "error", p.Err, "hint", hint.Of(p.Err))
		}
		if before == nil && len(c.Bindings.Ports()) > 0 && c.Container.NetworkMode == "host" {
			a.log.Warn("declaration", "client", c.Container.Name, "id", c.Container.ShortID(),
				"error", "its network is the host's, where nothing is redirected", "hint", "give it a network of its own")
		}
	}
}
