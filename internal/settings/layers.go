package settings

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/option"
	"github.com/ambassadord/ambassadord/resolver"
)

// LayersOf turns what cfg says of options and clients into what bindings are read
// with. Its error names all that cannot be used.
func LayersOf(cfg config.Config, parse func(string) (resolver.Target, error)) (*binding.Layers, error) {
	layers := &binding.Layers{Defaults: cfg.Defaults, Targets: map[string]option.Layer{}, Clients: cfg.Clients, Limits: cfg.Limits}
	var errs []error
	add := func(problems []*option.Problem) {
		for _, p := range problems {
			errs = append(errs, p)
		}
	}
	_, problems := option.Merge(cfg.Defaults, nil)
	add(problems)
	if len(errs) > 0 {
		return nil, hint.Join(errs...) // or each target below would say it again
	}
	first := map[string]string{}
	for _, t := range cfg.Targets {
		target, err := parse(t.Target)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", t.Origin, err))
			continue
		}
		canonical := target.String()
		if other, ok := first[canonical]; ok {
			errs = append(errs, hint.Errorf("write its options in one place", "%s: %q is the target of %s too", t.Origin, t.Target, other))
			continue
		}
		first[canonical] = t.Origin
		layers.Targets[canonical] = t.Options
		_, problems := layers.Options(target, nil, nil)
		add(problems)
	}
	for _, c := range cfg.Clients {
		for _, number := range slices.Sorted(maps.Keys(c.Ports)) {
			p := c.Ports[number]
			target, err := parse(p.Target)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", p.Origin, err))
				continue
			}
			_, problems := layers.Options(target, nil, p.Options)
			add(problems)
		}
	}
	for _, l := range cfg.Listeners {
		_, err := BindingOf(l, layers, parse)
		errs = append(errs, err)
	}
	if err := hint.Join(errs...); err != nil {
		return nil, err
	}
	return layers, nil
}

// BindingOf is what a connection to l gets.
func BindingOf(l config.Listener, layers *binding.Layers, parse func(string) (resolver.Target, error)) (binding.Binding, error) {
	b := binding.Binding{Text: l.Target, Origin: l.Origin, Place: binding.InListener}
	var err error
	if b.Target, err = parse(l.Target); err != nil {
		return b, l.At(err)
	}
	var problems []*option.Problem
	b.Options, problems = layers.ListenerOptions(b.Target, l.Options)
	errs := make([]error, len(problems))
	for i, p := range problems {
		errs[i] = p
	}
	return b.For(""), hint.Join(errs...) // a listener's clients are whoever connects; the host asks
}

// Check says what is wrong with cfg, as far as that can be known without touching anything.
func Check(cfg config.Config, parse func(string) (resolver.Target, error)) error {
	layers, err := LayersOf(cfg, parse)
	if err == nil {
		modes := slices.Clone(cfg.Modes)
		for i, m := range modes {
			if m == config.Auto { // what that will be only its host shows; there it is redirect, as far as the rights go
				modes[i] = config.Redirect
			}
		}
		err = withoutEarlyRefusal(cfg.Listeners, layers, modes)
	}
	return errors.Join(cfg.Validate(), err)
}
