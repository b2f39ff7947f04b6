package lint

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/option"
	"github.com/ambassadord/ambassadord/internal/shorten"
	"github.com/ambassadord/ambassadord/resolver"
)

// scalar is a text of a file.
type scalar struct {
	text string
	at   spot
	// verbatim says that the file has text as it is, from at on, in one line.
	verbatim bool
	// unknown is what of it only shows when it is used, "${REDIS}"; "" for nothing.
	unknown string
	// told says that what is unknown of it is a mistake, which was told.
	told bool
}

// inside is where the byte at offset of s stands.
func (s scalar) inside(offset int) spot {
	if !s.verbatim || offset < 0 || offset > len(s.text) {
		return s.at
	}
	return spot{s.at.line, s.at.column + utf8.RuneCountInString(s.text[:offset])}
}

// item is a label or a variable.
type item struct {
	key, value scalar
}

// declarant is a container as far as a file describes it. Of items with one key the last holds.
type declarant struct {
	name        string // of its service, or its stage
	at          spot
	image       string
	labels, env []item
	// hidden is what the file has of it that is not read, such as another file; "" for nothing.
	hidden string
	// overImage says that it is made of an image, which is not read, and may declare, too.
	overImage bool
	serves    []servedPorts

	bindings binding.Set
	origins  map[string]item // of labels and variables, by their origins
}

// unknownTarget stands for a target that is not known. No declaration can have it: a target of it does
// not parse.
const unknownTarget = "\x00"

// judge reads what d declares as the daemon does, and adds what is wrong.
func (l *linter) judge(d *declarant) {
	r := binding.Declarer{Name: d.name, Image: d.image, Labels: map[string]string{}}
	d.origins = map[string]item{}
	for _, i := range l.named(d, d.labels) {
		d.origins[binding.LabelOrigin(i.key.text)] = i
		r.Labels[i.key.text] = l.known(d, i, binding.LabelOrigin(i.key.text), labelOption(i.key.text))
	}
	for _, i := range l.named(d, d.env) {
		origin := binding.VariableOrigin(i.key.text)
		d.origins[origin] = i
		r.Env = append(r.Env, i.key.text+"="+l.known(d, i, origin, variableOption(i.key.text)))
	}
	d.bindings = binding.Read(r, l.layersFor(), func(text string) (resolver.Target, error) {
		if text == unknownTarget {
			return resolver.Parse("unknown.invalid:1")
		}
		return l.Parse(text)
	})
	for _, p := range d.bindings.Problems {
		l.problem(d, p)
	}
	if more := d.bindings.Mistakes - len(d.bindings.Problems); more > 0 {
		l.wrong(d.at, d.name, hint.Errorf("mend these first", "and %d more mistakes of its declarations", more))
	}
}

// named are those of items that hold and whose keys are known.
func (l *linter) named(d *declarant, items []item) []item {
	var out []item
	for _, i := range last(items) {
		if i.key.unknown == "" {
			out = append(out, i)
		} else if declares(i.key.text) {
			l.unchecked(i.key, d.name, "")
		}
	}
	return out
}

// problem adds what the daemon would say of d.
func (l *linter) problem(d *declarant, p *binding.Problem) {
	at := d.at
	i, known := d.origins[p.Origin]
	if known {
		at = i.key.at
	}
	f := Finding{Level: LevelMistake, Service: d.name, Origin: p.Origin, Message: p.Err.Error(), Hint: hint.Of(p.Err)}
	if mistake, ok := errors.AsType[*resolver.SyntaxError](p.Err); ok && known {
		at = i.value.inside(mistake.Column - 1)
		if fix := l.quoted(i.value); fix != "" {
			f.Hint = fix
		}
	}
	if known && strings.Contains(i.key.text, "${") && i.key.unknown == "" {
		f.Hint = "variables are put into values, not into names: write the name out, or the list item - " + shorten.Text(i.key.text, maxShown) + "=TARGET"
	}
	if binding.IsUndeclared(p.Err) {
		elsewhere := d.hidden
		if elsewhere == "" && d.overImage && d.bindings.Len() == 0 { // else a port was mistyped, rather
			elsewhere = "its image"
		}
		if elsewhere != "" {
			f.Level = LevelWarning
			f.Message += ", unless " + elsewhere + " does"
		}
	}
	l.note(at, f)
}

// quoted is what to do about quotes that are part of a target: where a file has KEY=VALUE in one text,
// only the whole of it can be quoted.
func (l *linter) quoted(value scalar) string {
	text := value.text
	if len(text) < 2 || text[0] != '"' && text[0] != '\'' || text[len(text)-1] != text[0] {
		return ""
	}
	inner := text[1 : len(text)-1]
	if _, err := l.Parse(inner); err != nil {
		return ""
	}
	return "leave the quotes out: here they are part of the target"
}

// known is the value of i, or if that is not known, one that nothing is wrong with: of the option o, or
// else of a target. It notes that the value was not checked.
func (l *linter) known(d *declarant, i item, origin, o string) string {
	if i.value.unknown == "" {
		return i.value.text
	}
	if o == "" && !declares(i.key.text) {
		return i.value.text
	}
	if !i.value.told {
		l.unchecked(i.value, d.name, origin)
	}
	if found, err := option.Lookup(o); err == nil {
		return found.Default
	}
	return unknownTarget
}

// unchecked notes that s is not known.
func (l *linter) unchecked(s scalar, service, origin string) {
	l.note(s.at, Finding{Level: LevelNote, Service: service, Origin: origin,
		Message: fmt.Sprintf("not checked: %s is not in this file", s.unknown), Hint: l.elsewhere()})
}

// elsewhere is how what is not in the file can be checked all the same.
func (l *linter) elsewhere() string {
	if l.Kind == Compose {
		return "to check all of it: docker compose config | ambassadord lint --kind compose -"
	}
	return "give it a default by ARG NAME=VALUE, or check the image's labels when it is built"
}

// layersFor are the layers, which permit what is not known.
func (l *linter) layersFor() *binding.Layers {
	if l.Layers == nil || l.Layers.Permit == nil {
		return l.Layers
	}
	layers := *l.Layers
	layers.Permit = func(d binding.Declarer, p binding.Place, t resolver.Target) error {
		if t.String() == "unknown.invalid:1" {
			return nil
		}
		return l.Layers.Permit(d, p, t)
	}
	return &layers
}

// last are those of items that hold: of each key the last, where the first stands.
func last(items []item) []item {
	at, out := map[string]int{}, make([]item, 0, len(items))
	for _, i := range items {
		if before, ok := at[i.key.text]; ok {
			out[before] = i
			continue
		}
		at[i.key.text] = len(out)
		out = append(out, i)
	}
	return out
}

// twice notes the declarations of items, all written in one place, that another after them overrules.
func (l *linter) twice(d *declarant, items []item, origin func(string) string) {
	lines := map[string]item{}
	for _, i := range items {
		before, again := lines[i.key.text]
		lines[i.key.text] = i
		if !again || before.key.at == i.key.at || !declares(i.key.text) {
			continue
		}
		l.note(before.key.at, Finding{Level: LevelMistake, Service: d.name, Origin: origin(i.key.text),
			Message: fmt.Sprintf("is there again in line %d, which holds", i.key.at.line), Hint: "keep one of the two"})
	}
}

// servedPorts are ports, first to last, that a container seems to serve itself.
type servedPorts struct {
	first, last uint16
	why         string // "port 80 is published in line 7"
}

// served notes the ports that d declares and that are served in its network namespace, by itself or others.
func (l *linter) served(d *declarant, serves []servedPorts) {
	for _, b := range d.bindings.All() {
		for _, s := range serves {
			if b.Port < s.first || b.Port > s.last {
				continue
			}
			at := d.at
			if i, ok := d.origins[b.Origin]; ok {
				at = i.key.at
			}
			l.note(at, Finding{Level: LevelWarning, Service: d.name, Origin: b.Origin,
				Message: fmt.Sprintf("%s: what dials localhost:%d in there gets to %s instead, and in mode listen nothing else can listen there",
					s.why, b.Port, shorten.Text(shownTarget(b.Text), maxShown)),
				Hint: "declare a port that nothing in there serves"})
			break
		}
	}
}

// shownTarget is the text of a target, as a message has it.
func shownTarget(text string) string {
	if text == unknownTarget {
		return "the target"
	}
	return text
}
