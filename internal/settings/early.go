package settings

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/mode"
	"github.com/ambassadord/ambassadord/internal/option"
)

// errNoEarlyRefusal says where refuse=early can be had.
var errNoEarlyRefusal = hint.Wrap(errors.New("refuse=early is offered in modes redirect and listen alone: elsewhere a port is no client's own"),
	"leave it out, or have the container served by mode redirect or listen")

// withoutEarlyRefusal makes refuse=early a mistake where it cannot be had: in modes host and
// link all clients dial one address, whose ports are not one client's, and the listeners are
// no client's. The error is about what the operator has set.
func withoutEarlyRefusal(listeners []config.Listener, layers *binding.Layers, modes []config.Mode) error {
	var own []option.Layer
	for _, l := range listeners {
		own = append(own, l.Options)
	}
	if mode.Any(modes, func(m mode.Row) bool { return m.Enters }) {
		return noneEarly(own)
	}
	limits := maps.Clone(layers.Limits)
	if limits == nil {
		limits = option.Limited{}
	}
	limits["refuse"] = option.Limit{Missing: errNoEarlyRefusal.Error(), Fix: hint.Of(errNoEarlyRefusal)}
	layers.Limits = limits
	own = append(own, layers.Defaults...)
	for _, l := range layers.Targets {
		own = append(own, l)
	}
	for _, c := range layers.Clients {
		for _, p := range c.Ports {
			own = append(own, p.Options)
		}
	}
	return noneEarly(own)
}

// noneEarly refuses refuse=early in what the operator has set, wherever that is.
func noneEarly(own []option.Layer) error {
	var origins []string
	for _, l := range own {
		for _, s := range l {
			if s.Name == "refuse" && s.Text == string(option.RefuseEarly) {
				origins = append(origins, s.Origin)
			}
		}
	}
	slices.Sort(origins) // some of the layers come from maps
	var errs []error
	for _, origin := range origins {
		errs = append(errs, fmt.Errorf("%s: %w", origin, errNoEarlyRefusal))
	}
	return hint.Join(errs...)
}
