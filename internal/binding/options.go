package binding

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/option"
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
	if _, err := option.Lookup(o.Name); err != nil {
		fix := hint.Of(err)
		if s := suggest.Closest(o.Name, option.Names()); s != "" {
			fix = fmt.Sprintf("did you mean connect.%d.%s?", port, s)
		}
		r.problem(o.Origin, hint.Wrap(fmt.Errorf("%w; passed over", err), fix))
		return
	}
	r.options[port] = append(r.options[port], o)
}

// wideOption takes connect.NAME=VALUE, an option of all ports, and reports whether
// that is what the label is. There is no such variable: CONNECT_TIMEOUT and the
// like are other programs'.
func (r *reader) wideOption(name, origin, value string) bool {
	if slices.Contains(option.Names(), name) {
		r.wide = append(r.wide, option.Setting{Name: name, Text: value, Origin: origin, By: option.ByContainer})
		return true
	}
	s := suggest.Closest(name, option.Names())
	if _, err := parsePort(name); err == nil || s == "" || strings.ContainsAny(name, "0123456789") {
		return false
	}
	r.problem(origin, hint.Errorf(fmt.Sprintf("did you mean connect.%s?", s), "unknown option %q; passed over", name))
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
			r.problem(s.Origin, fmt.Errorf("%w; passed over", err))
			continue
		}
		good = append(good, s)
	}
	r.wide = good
	if len(r.wide) > 0 && len(r.declared) == 0 {
		r.problem(r.wide[0].Origin, hint.Errorf(labelHint, "an option for the ports of a container that declares none"))
	}
}

// strangeOption tells of a variable that may have been meant to be an option. One
// that is like none may be some other program's.
func (r *reader) strangeOption(word, port, name, origin string) {
	s := suggest.Closest(name, option.Names())
	if s == "" || word != "CONNECT" && word != "BACKEND" {
		return
	}
	variable := strings.ToUpper(strings.ReplaceAll(s, "-", "_"))
	r.problem(origin, hint.Errorf(fmt.Sprintf("did you mean %s_%s_%s?", word, port, variable), "unknown option %q; passed over", name))
}

// optionsOf merges the layers of port and says what is wrong with its own.
func (r *reader) optionsOf(port uint16, target resolver.Target) option.Set {
	written := r.options[port]
	// The winner comes last.
	slices.SortStableFunc(written, func(a, b portOption) int { return cmp.Compare(b.rank, a.rank) })
	var own option.Layer
	for i, o := range written {
		for _, later := range written[i+1:] {
			if later.Name == o.Name && later.Text != o.Text && later.rank.layer() == o.rank.layer() && later.rank != rankStatic {
				r.problem(o.Origin, hint.Errorf("keep one of the two", "passed over: %s sets %s of port %d too and wins", later.Origin, o.Name, port))
				break
			}
		}
		own = append(own, o.Setting)
	}
	set, problems := r.layers.Options(target, r.wide, own)
	for _, p := range problems {
		problem := &Problem{Origin: p.Setting.Origin, Err: p.Err}
		if p.Instead != "" {
			problem.Err = fmt.Errorf("%w; %s", p.Err, p.Instead)
		}
		// What is for all ports of the container is wrong at each of them.
		if !slices.ContainsFunc(r.set.Problems, func(said *Problem) bool { return said.Error() == problem.Error() }) {
			r.set.Problems = append(r.set.Problems, problem)
		}
	}
	return set
}

// orphans tells of options of ports that nothing declares.
func (r *reader) orphans() {
	for _, port := range slices.Sorted(maps.Keys(r.options)) {
		if len(r.declared[port]) > 0 {
			continue
		}
		for _, o := range r.options[port] {
			r.problem(o.Origin, hint.Errorf(labelHint, "an option of port %d, which nothing declares", port))
		}
	}
}
