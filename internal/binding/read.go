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
	"time"

	"github.com/ambassadord/ambassadord/internal/hint"
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
	// variable matches an environment name that may declare a port.
	variable = regexp.MustCompile(`^([A-Za-z]+)_([0-9]+)$`)
)

// maxPorts bounds what one container makes the host hold: a rule and a watch for
// each port that it declares.
const maxPorts = 1024

// options are the words that may follow connect.PORT.
var options = []string{"timeout"}

// rank orders the places one port can be declared in; the lowest wins.
type rank int

const (
	rankDotted rank = iota
	rankBracketed
	rankConnect
	rankBackend
)

// declaration is one label or variable that names a port.
type declaration struct {
	rank   rank
	origin string
	text   string
}

type reader struct {
	parse    func(string) (resolver.Target, error)
	declared map[uint16][]declaration
	timeouts map[uint16]time.Duration
	set      Set
}

// Read reads the declarations in labels and in env (KEY=VALUE items). parse
// reads a target; Resolver.Parse is meant.
func Read(labels map[string]string, env []string, parse func(string) (resolver.Target, error)) Set {
	r := &reader{
		parse:    parse,
		declared: map[uint16][]declaration{},
		timeouts: map[uint16]time.Duration{},
		set:      Set{bindings: map[uint16]Binding{}},
	}
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		r.label(key, labels[key])
	}
	for _, item := range env {
		key, value, _ := strings.Cut(item, "=")
		r.variable(key, value)
	}
	ports := slices.Sorted(maps.Keys(r.declared))
	if len(ports) > maxPorts {
		r.problem("container", hint.Errorf("split it into several containers",
			"declares %d ports; the most is %d, and those above port %d are passed over", len(ports), maxPorts, ports[maxPorts-1]))
		ports = ports[:maxPorts]
	}
	for _, port := range ports {
		r.bind(port, r.declared[port])
	}
	for _, port := range slices.Sorted(maps.Keys(r.timeouts)) {
		if _, ok := r.declared[port]; !ok {
			r.problem(fmt.Sprintf("label connect.%d.timeout", port),
				hint.Errorf(labelHint, "an option of port %d, which nothing declares", port))
		}
	}
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
	port, err := parsePort(match[1])
	if err != nil {
		r.problem(origin, err)
		return
	}
	if option := match[2]; option != "" {
		r.option(port, option, origin, value)
		return
	}
	r.declare(port, declaration{rank: rank, origin: origin, text: value})
}

func (r *reader) option(port uint16, option, origin, value string) {
	if option != "timeout" {
		fix := fmt.Sprintf("the options of a port are %s", strings.Join(options, ", "))
		if s := suggest.Closest(option, options); s != "" {
			fix = fmt.Sprintf("did you mean connect.%d.%s?", port, s)
		}
		r.problem(origin, hint.Errorf(fix, "unknown option %q; passed over", option))
		return
	}
	d, err := time.ParseDuration(value)
	if err != nil || d <= 0 {
		r.problem(origin, hint.Errorf("write a duration such as 2s or 500ms",
			"%q is not a duration; the default is used", value))
		return
	}
	r.timeouts[port] = d
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
	ranks := map[string]rank{"CONNECT": rankConnect, "BACKEND": rankBackend}
	rank, ok := ranks[word]
	if !ok {
		for _, known := range []string{"CONNECT", "BACKEND"} {
			if suggest.Distance(word, known) == 1 {
				r.problem(origin, hint.Errorf(fmt.Sprintf("did you mean %s_%s?", known, match[2]),
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
	b := Binding{Port: port, Text: won.text, Origin: won.origin, DialTimeout: r.timeouts[port]}
	target, err := r.parse(won.text)
	if err != nil {
		r.problem(won.origin, err)
		b.Problem = r.set.Problems[len(r.set.Problems)-1]
	} else {
		b.Target = target
	}
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
