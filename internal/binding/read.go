package binding

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/option"
	"github.com/ambassadord/ambassadord/internal/shorten"
	"github.com/ambassadord/ambassadord/internal/suggest"
	"github.com/ambassadord/ambassadord/resolver"
)

const (
	labelHint = "write the label connect.PORT=TARGET, for example connect.6379=redis.service.consul"
	portHint  = "a port is a number from 1 to 65535"
	splitHint = "split it into several containers"

	// originContainer is the origin of what is wrong with all of a container.
	originContainer = "container"
)

// rank orders the places one port can be declared in; the lowest wins.
type rank int

const (
	rankDotted rank = iota
	rankBracketed
	rankConnect
	rankBackend
	rankStatic
)

// place is where declarations of the rank stand.
func (r rank) place() Place {
	switch r {
	case rankDotted, rankBracketed:
		return InLabel
	case rankConnect, rankBackend:
		return InEnvironment
	case rankStatic:
	}
	return InConfiguration
}

// portDeclaration is one label or variable that names a port.
type portDeclaration struct {
	rank   rank
	key    string // the label's or the variable's name
	origin string
	text   string
}

// Declarer is a container as far as its declarations go.
type Declarer struct {
	Name   string
	Image  string // as it was named when the container was created
	Labels map[string]string
	// Env holds KEY=VALUE items.
	Env []string
	// LeftOut is how many labels and variables the container has beside these, which were
	// not kept because they are too large.
	LeftOut int
}

// reader reads one container. Its work is linear in the number and length of labels and
// variables, and bounded: the container chose them, and others wait.
type reader struct {
	parse    func(string) (resolver.Target, error)
	layers   *Layers
	declarer Declarer
	declared map[uint16][]portDeclaration
	options  map[uint16][]portOption
	wide     option.Layer
	count    int // declarations and options that were read
	beyond   int // those past maxDeclarations
	queries  int // of all targets so far
	// merged are the options of a port that sets none itself, by its target's layer, "" for
	// targets without one: they are the same for all such ports.
	merged   map[string]option.Set
	bounds   problems // what was left out because it is too much
	problems problems
	bindings map[uint16]*Binding
	byClient bool // some target means something else to each client
}

// Read reads what d declares, and what layers say of its ports. parse reads a
// target; Resolver.Parse is meant.
func Read(d Declarer, layers *Layers, parse func(string) (resolver.Target, error)) Set {
	r := &reader{
		parse:    parse,
		layers:   layers,
		declarer: d,
		declared: map[uint16][]portDeclaration{},
		options:  map[uint16][]portOption{},
		merged:   map[string]option.Set{},
		bindings: map[uint16]*Binding{},
	}
	for _, key := range labelsOf(d.Labels) {
		if r.mayRead() {
			r.label(key, d.Labels[key])
		}
	}
	for _, item := range d.Env {
		key, value, _ := strings.Cut(item, "=")
		if word, port, name, ok := portVariable(key); ok && r.mayRead() {
			r.variable(key, word, port, name, value)
		}
	}
	r.static(d)
	ports := slices.Sorted(maps.Keys(r.declared))
	r.tooMuch(d, ports)
	ports = ports[:min(len(ports), maxPorts)]
	r.checkWide()
	for _, port := range ports {
		r.bind(port, r.declared[port])
	}
	r.orphans()
	mistakes := r.bounds.count() + r.problems.count()
	return Set{bindings: r.bindings, ports: ports, Mistakes: mistakes, Problems: append(r.bounds.kept, r.problems.kept...), read: new(readCall), byClient: r.byClient}
}

// tooMuch says what of d is beyond a bound.
func (r *reader) tooMuch(d Declarer, ports []uint16) {
	if d.LeftOut > 0 {
		r.bounds.add(originContainer, func() error {
			return hint.Errorf("declare with short labels, or keep long lists in a registry",
				"%d of its largest labels and variables are passed over: together they are too large", d.LeftOut)
		})
	}
	if r.beyond > 0 {
		r.bounds.add(originContainer, func() error {
			return hint.Errorf(splitHint, "has %d labels and variables that declare something; the most is %d, and the others are passed over",
				r.count+r.beyond, maxDeclarations)
		})
	}
	if len(ports) > maxPorts {
		r.bounds.add(originContainer, func() error {
			return hint.Errorf(splitHint, "declares %d ports; the most is %d, and those above port %d are passed over",
				len(ports), maxPorts, ports[maxPorts-1])
		})
	}
}

// labelsOf lists the labels that declare something, or may have been meant to, in order.
func labelsOf(labels map[string]string) []string {
	var keys []string
	for key := range labels {
		if _, _, _, ok := portLabel(key); ok {
			keys = append(keys, key)
		} else if _, ok := misspeltLabel(key); ok {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// mayRead counts one more declaration or option, and reports whether it may be read.
func (r *reader) mayRead() bool {
	if r.count >= maxDeclarations {
		r.beyond++
		return false
	}
	r.count++
	return true
}

// problem adds what is wrong with origin; err is called if anybody will read it.
func (r *reader) problem(origin string, err func() error) { r.problems.add(origin, err) }

// tooLong passes over a name that is too long to be looked at.
func (r *reader) tooLong(key, origin string) bool {
	if len(key) <= maxName {
		return false
	}
	r.problem(origin, func() error {
		return hint.Errorf(labelHint, "its name has %d bytes; the most is %d; passed over", len(key), maxName)
	})
	return true
}

func (r *reader) label(key, value string) {
	origin := LabelOrigin(key)
	if r.tooLong(key, origin) {
		return
	}
	portText, name, rank, ok := portLabel(key)
	if !ok {
		meant, _ := misspeltLabel(key)
		r.problem(origin, func() error { return misspelt("connect." + shorten.Text(meant, maxShownName)) })
		return
	}
	if rank == rankDotted && name == "" && r.wideOption(portText, origin, value) {
		return
	}
	r.setting(portText, name, portDeclaration{rank: rank, key: key, origin: origin, text: value})
}

// setting takes in what a container says of a port: d, or the option name of it, if that is
// not empty.
func (r *reader) setting(portText, name string, d portDeclaration) {
	port, err := parsePort(portText)
	if err != nil {
		r.problem(d.origin, func() error { return err })
		return
	}
	if name != "" {
		r.option(port, portOption{rank: d.rank, Setting: option.Setting{Name: name, Text: d.text, Origin: d.origin, By: option.ByContainer}})
		return
	}
	r.declare(port, d)
}

// static takes over what the configuration declares for d where d does not itself.
func (r *reader) static(d Declarer) {
	for number, port := range r.layers.static(d) {
		if len(r.declared[number]) > 0 {
			continue
		}
		r.declare(number, portDeclaration{rank: rankStatic, origin: port.Origin, text: port.Target})
		for _, s := range port.Options {
			r.options[number] = append(r.options[number], portOption{rank: rankStatic, Setting: s})
		}
	}
}

// misspelt is the problem of what was meant to be meant.
func misspelt(meant string) error {
	return hint.Errorf(fmt.Sprintf("did you mean %s?", meant), "looks like a declaration but is none; passed over")
}

// variable reads key, which portVariable has taken apart.
func (r *reader) variable(key, word, portText, name, value string) {
	origin := VariableOrigin(key)
	if r.tooLong(key, origin) {
		return
	}
	name = strings.ReplaceAll(strings.ToLower(name), "_", "-")
	if name != "" && !option.Known(name) {
		r.strangeOption(word, portText, name, origin)
		return
	}
	rank := rankConnect
	switch word {
	case connectVariable:
	case backendVariable:
		rank = rankBackend
	default:
		meant := connectVariable
		if suggest.Distance(word, backendVariable) == 1 {
			meant = backendVariable
		}
		r.problem(origin, func() error { return misspelt(shorten.Text(meant+key[len(word):], maxShownName)) })
		return
	}
	r.setting(portText, name, portDeclaration{rank: rank, key: key, origin: origin, text: value})
}

func (r *reader) declare(port uint16, d portDeclaration) {
	r.declared[port] = append(r.declared[port], d)
}

// bind takes the declaration that wins and says which others lost to it.
func (r *reader) bind(port uint16, declarations []portDeclaration) {
	slices.SortStableFunc(declarations, func(a, b portDeclaration) int { return cmp.Compare(a.rank, b.rank) })
	won := declarations[0]
	for _, lost := range declarations[1:] {
		if lost.text != won.text {
			r.problem(lost.origin, func() error {
				return hint.Errorf("keep one of the two", "passed over: %s declares port %d too and wins", won.origin, port)
			})
		}
	}
	b := &Binding{Port: port, Text: won.text, Origin: won.origin, Place: won.rank.place(), Key: won.key}
	target, err := r.target(won.text)
	if err == nil {
		err = r.layers.permit(r.declarer, b.Place, target)
	}
	if err != nil {
		// Each port needs its own, also past the bound: it is why its connections fail.
		b.Problem = &Problem{Origin: won.origin, Err: shownError(err)}
		r.problem(won.origin, func() error { return b.Problem.Err })
		b.Text = shorten.Text(won.text, maxShownError)
	} else {
		b.Target = target
	}
	b.Options = r.optionsOf(port, b.Target)
	if b.Target.ByClient() {
		*b = b.For("")
		r.byClient = r.byClient || b.Place != InConfiguration
	}
	r.bindings[port] = b
}

// target parses text, unless the container asks too much already.
func (r *reader) target(text string) (resolver.Target, error) {
	if r.queries >= maxQueries {
		return resolver.Target{}, hint.Errorf("keep long lists in a registry, or "+splitHint,
			"the targets of its other ports have %d items already; the most is %d", r.queries, maxQueries)
	}
	target, err := r.parse(text)
	if err != nil {
		return resolver.Target{}, err
	}
	for range target.Queries() {
		r.queries++
	}
	return target, nil
}
