package attach

import (
	"context"
	"log/slog"
	"testing"

	"github.com/ambassadord/ambassadord/internal/balance"
	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/handover"
	"github.com/ambassadord/ambassadord/internal/hold"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/internal/route"
	"github.com/ambassadord/ambassadord/internal/route/routetest"
	"github.com/ambassadord/ambassadord/internal/settings"
	"github.com/ambassadord/ambassadord/resolver"
)

// routing is a mode's configuration of which only routes are asked, and what knows targets.
type routing struct {
	Config
	targets *resolver.Resolver
}

func newRouting(ctx context.Context, targets *resolver.Resolver, pools route.Pools) *routing {
	current := settings.NewCurrent(settings.New(config.Default(), nil, nil))
	clients, log := new(identity.Latest), slog.New(slog.DiscardHandler)
	hold := &hold.Hold{Clients: clients, Settings: current}
	return &routing{targets: targets, Config: Config{
		Name: config.Redirect, Settings: current, Clients: clients, Hold: hold, Turn: new(handover.Turn), Log: log,
		Routes: route.New(ctx, route.Config{Targets: targets, Pools: pools, Settings: current, Clients: clients, Hold: hold, Log: log}),
	}}
}

// tableOf makes the table of containers the latest.
func (r *routing) tableOf(layers *binding.Layers, containers ...*dockerd.Container) *identity.Table {
	table := identity.Build(dockerd.NewSnapshot(containers...), r.Clients.Load(), "", layers, r.targets.Parse)
	r.Clients.Store(table)
	return table
}

// withTold runs test in a bubble, with what routes to targets of which a test tells.
func withTold(t *testing.T, test func(t *testing.T, r *routing)) {
	t.Helper()
	routetest.InBubble(t, func(t *testing.T, told *routetest.Bubble) {
		pools := balance.New(balance.Config{})
		told.Run(pools.Run)
		r := newRouting(told.Context, told.Resolver, pools)
		test(t, r)
		told.End()
		r.Routes.Wait()
	})
}
