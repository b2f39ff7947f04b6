package binding

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/option"
	"github.com/ambassadord/ambassadord/internal/suggest"
	"github.com/ambassadord/ambassadord/resolver"
)

const (
	labelHint = "write the label connect.PORT=TARGET, for example connect.6379=redis.service.consul"
	portHint  = "a port is a number from 1 to 65535"
)

var (
	dotted    = regexp.MustCompile(`^connect\.([^.]*)(?:\.(.*))?$`)
	bracketed = regexp.MustCompile(`^connect\[([^\]]*)\](?:\.(.*))?$`)
	// slip matches a label whose first word may be a misspelt "connect".
	slip = regexp.MustCompile(`^([A-Za-z]+)([.\[_:-]?)([0-9]+)\]?(.*)$`)
	// variable matches an environment name that may declare a port, or an option of it.
	variable = regexp.MustCompile(`^([A-Za-z]+)_([0-9]+)(?:_([A-Za-z0-9_]+))?$`)
)

// maxPorts bounds what one container makes the host hold: a rule and a watch for
// each port that it declares.
const maxPorts = 1024

// rank orders the places one port can be declared in; the lowest wins.
type rank int

const (
	rankDotted rank = iota
	rankBracketed
	rankConnect
	rankBackend
	rankStatic
)

// declaration is one label or variable that names a port.
type declaration struct {
	rank   rank
	origin string
	text   string
}

// Declarer is a container as far as its declarations go.
type Declarer struct {
	Name   string
	Labels map[string]string
	// Env holds KEY=VALUE items.
	Env []string
}

type reader struct {
	parse    func(string) (resolver.Target, error)
	layers   *Layers
	declared map[uint16][]declaration
	options  map[uint16][]portOption
	wide     option.Layer
	set      Set
}

// Read reads what d declares, and what layers say of its ports. parse reads a
// target; Resolver.Parse is meant.
func Read(d Declarer, layers *Layers, parse func(string) (resolver.Target, error)) Set {
	r := &reader{
		parse:    parse,
		layers:   layers,
		declared: map[uint16][]declaration{},
		options:  map[uint16][]portOption{},
		set:      Set{bindings: map[uint16]Binding{}},
	}
	for _, key := range slices.Sorted(maps.Keys(d.Labels)) {
		r.label(key, d.Labels[key])
	}
	for _, item := range d.Env {
		key, value, _ := strings.Cut(item, "=")
		r.variable(key, value)
	}
	r.static(d)
	ports := slices.Sorted(maps.Keys(r.declared))
	if len(ports) > maxPorts {
		r.problem("container", hint.Errorf("split it into several containers",
			"declares %d ports; the most is %d, and those above port %d are passed over", len(ports), maxPorts, ports[maxPorts-1]))
		ports = ports[:maxPorts]
	}
	r.checkWide()
	for _, port := range ports {
		r.bind(port, r.declared[port])
	}
	r.orphans()
	return r.set
}

func (r *reader) problem(origin string, err error) {
	r.set.Problems = append(r.set.Problems, &Problem{Origin: origin, Err: err})
}

func (r *reader) label(key, value string) {
	origin := "label " + key
	rank := rankDotted
	match := dotted.FindStringSubmatch(key)
	if match == nil {
		match, rank = bracketed.FindStringSubmatch(key), rankBracketed
	}
	if match == nil {
		r.misspelt(key, origin)
		return
	}
	if rank == rankDotted && match[2] == "" && r.wideOption(match[1], origin, value) {
		return
	}
	port, err := parsePort(match[1])
	if err != nil {
		r.problem(origin, err)
		return
	}
	if name := match[2]; name != "" {
		r.option(port, portOption{rank: rank, Setting: option.Setting{Name: name, Text: value, Origin: origin, By: option.ByContainer}})
		return
	}
	r.declare(port, declaration{rank: rank, origin: origin, text: value})
}

// static takes over what the configuration declares for d where d does not itself.
func (r *reader) static(d Declarer) {
	for number, port := range r.layers.static(d) {
		if len(r.declared[number]) > 0 {
			continue
		}
		r.declare(number, declaration{rank: rankStatic, origin: port.Origin, text: port.Target})
		for _, s := range port.Options {
			r.options[number] = append(r.options[number], portOption{rank: rankStatic, Setting: s})
		}
	}
}

// misspelt looks for labels that were meant to be connect.PORT.
func (r *reader) misspelt(key, origin string) {
	match := slip.FindStringSubmatch(key)
	if match == nil || suggest.Distance(strings.ToLower(match[1]), "connect") > 2 {
		return
	}
	r.problem(origin, hint.Errorf(fmt.Sprintf("did you mean connect.%s?", match[3]),
		"looks like a declaration but is none; passed over"))
}

func (r *reader) variable(key, value string) {
	match := variable.FindStringSubmatch(key)
	if match == nil {
		return
	}
	origin := "environment " + key
	word := strings.ToUpper(match[1])
	name := strings.ReplaceAll(strings.ToLower(match[3]), "_", "-")
	if match[3] != "" && !slices.Contains(option.Names(), name) {
		r.strangeOption(word, match[2], name, origin)
		return
	}
	ranks := map[string]rank{"CONNECT": rankConnect, "BACKEND": rankBackend}
	rank, ok := ranks[word]
	if !ok {
		for _, known := range []string{"CONNECT", "BACKEND"} {
			if suggest.Distance(word, known) == 1 {
				r.problem(origin, hint.Errorf(fmt.Sprintf("did you mean %s?", known+key[len(word):]),
					"looks like a declaration but is none; passed over"))
			}
		}
		return
	}
	port, err := parsePort(match[2])
	if err != nil {
		r.problem(origin, err)
		return
	}
	if name != "" {
		r.option(port, portOption{rank: rank, Setting: option.Setting{Name: name, Text: value, Origin: origin, By: option.ByContainer}})
		return
	}
	r.declare(port, declaration{rank: rank, origin: origin, text: value})
}

func (r *reader) declare(port uint16, d declaration) {
	r.declared[port] = append(r.declared[port], d)
}

// bind takes the declaration that wins and says which others lost to it.
func (r *reader) bind(port uint16, declarations []declaration) {
	slices.SortStableFunc(declarations, func(a, b declaration) int { return cmp.Compare(a.rank, b.rank) })
	won := declarations[0]
	for _, lost := range declarations[1:] {
		if lost.text != won.text {
			r.problem(lost.origin, hint.Errorf("keep one of the two", "passed over: %s declares port %d too and wins", won.origin, port))
		}
	}
	b := Binding{Port: port, Text: won.text, Origin: won.origin}
	target, err := r.parse(won.text)
	if err != nil {
		r.problem(won.origin, err)
		b.Problem = r.set.Problems[len(r.set.Problems)-1]
	} else {
		b.Target = target
	}
	b.Options = r.optionsOf(port, b.Target)
	r.set.bindings[port] = b
}

func parsePort(text string) (uint16, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	switch {
	case errors.Is(err, strconv.ErrSyntax):
		return 0, hint.Errorf(labelHint, "%q is not a port", text)
	case err != nil || n == 0:
		return 0, hint.Errorf(portHint, "%s is not a port", text)
	}
	return uint16(n), nil
}
