package binding

import (
	"cmp"
	"errors"
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

// portOption is an option of one port, and where it was written.
type portOption struct {
	rank rank
	option.Setting
}

// layer is which layer of a port an option of that rank is in: the configuration,
// the environment, the labels.
func (r rank) layer() int {
	switch r {
	case rankDotted, rankBracketed:
		return 2
	case rankConnect, rankBackend:
		return 1
	case rankStatic:
	}
	return 0
}

func (r *reader) option(port uint16, o portOption) {
	if !option.Known(o.Name) {
		r.problem(o.Origin, func() error {
			_, err := option.Lookup(o.Name)
			fix := hint.Of(err)
			if s := suggest.Closest(o.Name, option.Names()); s != "" {
				fix = fmt.Sprintf("did you mean connect.%d.%s?", port, s)
			}
			return hint.Wrap(fmt.Errorf("%w; passed over", err), fix)
		})
		return
	}
	r.options[port] = append(r.options[port], o)
}

// wideOption takes connect.NAME=VALUE, an option of all ports, and reports whether
// that is what the label is. There is no such variable: CONNECT_TIMEOUT and the
// like are other programs'.
func (r *reader) wideOption(name, origin, value string) bool {
	if option.Known(name) {
		r.wide = append(r.wide, option.Setting{Name: name, Text: value, Origin: origin, By: option.ByContainer})
		return true
	}
	if strings.ContainsAny(name, "0123456789") {
		return false
	}
	if r.problems.full() { // it is wrong as an option or as a port
		r.problem(origin, nil)
		return true
	}
	s := suggest.Closest(name, option.Names())
	if s == "" {
		return false
	}
	r.problem(origin, func() error {
		return hint.Errorf(fmt.Sprintf("did you mean connect.%s?", s), "unknown option %q; passed over", name)
	})
	return true
}

// checkWide says once what is wrong with the container-wide options, and keeps
// those that can be used.
func (r *reader) checkWide() {
	var good option.Layer
	for _, s := range r.wide {
		o, err := option.Lookup(s.Name)
		if err == nil {
			err = o.Validate(s.Text)
		}
		if err != nil {
			r.problem(s.Origin, func() error { return fmt.Errorf("%w; passed over", err) })
			continue
		}
		good = append(good, s)
	}
	r.wide = good
	if len(r.wide) > 0 && len(r.declared) == 0 {
		r.problem(r.wide[0].Origin, func() error {
			return undeclared("an option for the ports of a container that declares none")
		})
	}
}

// strangeOption tells of a variable that may have been meant to be an option. One
// that is like none may be some other program's.
func (r *reader) strangeOption(word, port, name, origin string) {
	if word != connectVariable && word != backendVariable || r.problems.full() {
		return
	}
	s := suggest.Closest(name, option.Names())
	if s == "" {
		return
	}
	r.problem(origin, func() error {
		variable := strings.ToUpper(strings.ReplaceAll(s, "-", "_"))
		return hint.Errorf(fmt.Sprintf("did you mean %s_%s_%s?", word, shorten.Text(port, maxShownName), variable),
			"unknown option %q; passed over", shorten.Text(name, maxShownName))
	})
}

// optionsOf merges the layers of port and says what is wrong with its own.
func (r *reader) optionsOf(port uint16, target resolver.Target) option.Set {
	written := r.options[port]
	if len(written) == 0 {
		return r.optionsOfTarget(target)
	}
	// The winner comes last.
	slices.SortStableFunc(written, func(a, b portOption) int { return cmp.Compare(b.rank, a.rank) })
	r.overruled(port, written)
	var own option.Layer
	for _, o := range written {
		own = append(own, o.Setting)
	}
	return r.merge(target, own)
}

// optionsOfTarget are the options of a port that sets none.
func (r *reader) optionsOfTarget(target resolver.Target) option.Set {
	key := r.layers.ofTarget(target)
	set, known := r.merged[key]
	if !known {
		set = r.merge(target, nil)
		r.merged[key] = set
	}
	return set
}

// merge merges the layers of a port and says what is wrong with them.
func (r *reader) merge(target resolver.Target, own option.Layer) option.Set {
	set, problems := r.layers.Options(target, r.wide, own)
	for _, p := range problems {
		problem := &Problem{Origin: p.Setting.Origin, Err: p.Err}
		if p.Instead != "" {
			problem.Err = fmt.Errorf("%w; %s", p.Err, p.Instead)
		}
		// An option for all ports of the container is wrong at each of them.
		r.problems.addOnce(problem)
	}
	return set
}

// slot is where one option of a port can be set.
type slot struct {
	name  string
	layer int
}

// overruled says which of written, of which the winner comes last, another of the same
// layer overrules. It goes back from the end: for each slot it keeps the next one that was
// written there, and the next after it with another text.
func (r *reader) overruled(port uint16, written []portOption) {
	next, other := map[slot]*portOption{}, map[slot]*portOption{}
	winners := make([]*portOption, len(written))
	for i := len(written) - 1; i >= 0; i-- {
		o := &written[i]
		s := slot{o.Name, o.rank.layer()}
		if later := next[s]; later != nil && later.Text != o.Text {
			other[s] = later
		}
		next[s] = o
		if winner := other[s]; winner != nil && winner.rank != rankStatic {
			winners[i] = winner
		}
	}
	for i, winner := range winners {
		if winner != nil {
			r.problem(written[i].Origin, func() error {
				return hint.Errorf("keep one of the two", "passed over: %s sets %s of port %d too and wins", winner.Origin, winner.Name, port)
			})
		}
	}
}

// orphans tells of options of ports that nothing declares.
func (r *reader) orphans() {
	for _, port := range slices.Sorted(maps.Keys(r.options)) {
		if len(r.declared[port]) > 0 {
			continue
		}
		for _, o := range r.options[port] {
			r.problem(o.Origin, func() error {
				return undeclared(fmt.Sprintf("an option of port %d, which nothing declares", port))
			})
		}
	}
}

// undeclaredError is an option without a port that it is of.
type undeclaredError struct{ text string }

func (e *undeclaredError) Error() string { return e.text }

func undeclared(text string) error { return hint.Wrap(&undeclaredError{text}, labelHint) }

// IsUndeclared reports whether err is the problem of an option without a port that it is of. That may
// be declared where the caller of Read has not looked, such as the container's image.
func IsUndeclared(err error) bool {
	_, ok := errors.AsType[*undeclaredError](err)
	return ok
}
