package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/option"
	"github.com/ambassadord/ambassadord/internal/policy"
)

// Source is what a value is from.
type Source string

// The sources, the first of which yields to all others.
const (
	FromDefault     Source = "default"
	FromEnvironment Source = "environment"
	FromFile        Source = "file"
	FromFlag        Source = "flag"
)

// Value is one value that holds, for people. It may be a secret.
type Value struct {
	// Key is where the configuration file would have it: "log-level", "defaults.wait",
	// "listen[1].target". Lists count from 1.
	Key   string `json:"key"`
	Value string `json:"value"`
	// Source and Origin say where it is from. Origin is FILE:LINE:COLUMN, $VARIABLE or --FLAG; "" is
	// the default.
	Source Source `json:"source"`
	Origin string `json:"origin,omitempty"`
	// Option is the option of a port that it is the value of, "" if it is none's.
	Option string `json:"-"`
}

// Values lists what c has beside flags, in the order of docs/config.md: every option of a port that sets
// none, and what is written for targets, listeners, clients, the policy, and limits.
func (c *Config) Values() []Value {
	var v values
	v.defaults(c.Defaults)
	for _, t := range c.Targets {
		v.options("targets["+t.Target+"]", t.Options)
	}
	for i, l := range c.Listeners {
		at := fmt.Sprintf("listen[%d]", i+1)
		v.add(at+".address", l.Address, l.Origin)
		v.add(at+".target", l.Target, l.Origin)
		var networks []string
		for _, p := range l.AcceptProxyFrom {
			networks = append(networks, p.String())
		}
		if len(networks) > 0 {
			v.add(at+".accept-proxy-protocol-from", strings.Join(networks, ","), l.Origin)
		}
		v.options(at, l.Options)
	}
	for i, s := range c.Clients {
		v.client(fmt.Sprintf("clients[%d]", i+1), s)
	}
	for i := range c.Policy.Rules {
		rule := &c.Policy.Rules[i]
		origin := rule.Origin
		if _, at, found := strings.Cut(origin, " in "); found && rule.Number == 0 { // a flag's that stands in a file
			origin = at
		}
		v.add(fmt.Sprintf("policy[%d]", i+1), ruleText(rule), origin)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Limits)) {
		v.add("limits."+name, limitText(c.Limits[name]), c.Limits[name].Origin)
	}
	return v
}

type values []Value

func (v *values) add(key, value, origin string) { *v = append(*v, valueOf(key, value, origin)) }

// valueOf is a value that was written at origin.
func valueOf(key, value, origin string) Value {
	one := Value{Key: key, Value: value, Source: FromFile, Origin: origin}
	switch {
	case origin == "": // of LISTEN_PORT=TARGET
		one.Source, one.Origin = FromFlag, "the command line"
	case strings.HasPrefix(origin, "--"):
		one.Source = FromFlag
	}
	return one
}

// defaults are all options, by the layers for every port.
func (v *values) defaults(layers []option.Layer) {
	set, _ := option.Merge(layers, nil) // what is wrong with them was told when they were read
	written := map[string]option.Setting{}
	for _, l := range layers {
		for _, s := range l {
			written[s.Name] = s
		}
	}
	for _, o := range option.All() {
		one := Value{Key: "defaults." + o.Name, Value: o.In(set), Source: FromDefault, Option: o.Name}
		if s, ok := written[o.Name]; ok {
			one.Source, one.Origin = valueOf("", "", s.Origin).Source, s.Origin
		}
		*v = append(*v, one)
	}
}

// options are those that are set below at.
func (v *values) options(at string, layer option.Layer) {
	for _, s := range layer {
		one := valueOf(at+"."+s.Name, s.Text, s.Origin)
		one.Option = s.Name
		*v = append(*v, one)
	}
}

func (v *values) client(at string, s binding.Static) {
	for _, number := range slices.Sorted(maps.Keys(s.Ports)) {
		p := s.Ports[number]
		for _, who := range []struct{ key, value string }{{"container", s.Container}, {"label", s.Label}} {
			if who.value != "" {
				v.add(at+"."+who.key, who.value, p.Origin)
			}
		}
		s.Container, s.Label = "", "" // is said once
		port := fmt.Sprintf("%s.ports.%d", at, number)
		v.add(port, p.Target, p.Origin)
		v.options(port, p.Options)
	}
}

// ruleText is a rule in one line, by the keys of the file.
func ruleText(r *policy.Rule) string {
	text := []string{r.Action.String()}
	add := func(key string, items []string) {
		if len(items) > 0 {
			text = append(text, key+"="+strings.Join(items, ","))
		}
	}
	var declared, to, ports []string
	for _, d := range r.Declared {
		declared = append(declared, string(d))
	}
	for _, p := range r.To {
		to = append(to, p.String())
	}
	for _, p := range r.Ports {
		if p.From == p.To {
			ports = append(ports, fmt.Sprint(p.From))
		} else {
			ports = append(ports, fmt.Sprintf("%d-%d", p.From, p.To))
		}
	}
	add("container", r.Containers)
	add("label", r.Labels)
	add("project", r.Projects)
	add("image", r.Images)
	add("network", r.Networks)
	add("declared", declared)
	add("to", to)
	add("port", ports)
	add("kind", r.Kinds)
	add("target", r.Targets)
	add("registry", r.Registries)
	return strings.Join(text, " ")
}

// limitText is a limit as --limit takes it.
func limitText(l option.Limit) string {
	switch {
	case l.Denied:
		return "deny"
	case len(l.Words) > 0:
		return strings.Join(l.Words, ",")
	case l.Least != "":
		return l.Least + ".." + l.Most
	case l.Most != "":
		return l.Most
	}
	return "allow"
}
