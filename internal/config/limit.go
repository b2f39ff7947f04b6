package config

import (
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/option"
)

// AddLimit adds to limits what text says of the option name, or of all whose names begin
// with what stands before its last *; origin is where that was written.
func AddLimit(limits option.Limited, name, text, origin string) error {
	return addLimits(limits, name, func(o *option.Option) (option.Limit, error) { return option.ParseLimit(o, text, origin) })
}

func addLimits(limits option.Limited, name string, parse func(*option.Option) (option.Limit, error)) error {
	matched, err := optionsNamed(name)
	if err != nil {
		return err
	}
	for _, o := range matched {
		limit, err := parse(&o)
		if err != nil {
			return err
		}
		limits[o.Name] = limit
	}
	return nil
}

// optionsNamed are the options that name means.
func optionsNamed(name string) ([]option.Option, error) {
	prefix, many := strings.CutSuffix(name, "*")
	if !many {
		o, err := option.Lookup(name)
		return []option.Option{o}, err
	}
	matched := slices.DeleteFunc(option.All(), func(o option.Option) bool { return !strings.HasPrefix(o.Name, prefix) })
	if len(matched) == 0 {
		return nil, hint.Errorf("the options are listed in docs/options.md", "no option begins with %q", prefix)
	}
	return matched, nil
}

// boundKeys are the keys of a limit that has bounds.
var boundKeys = knownKeys{
	words: []string{"min", "max"}, doc: optionsDoc,
	meant: map[string]string{"least": "min:", "minimum": "min:", "from": "min:", "floor": "min:", "most": "max:", "maximum": "max:", "to": "max:", "ceiling": "max:"},
}

// limits reads the mapping of options to what containers may choose.
func (r *fileReader) limits(node *yaml.Node) {
	for key, value := range r.mapping(node, keyLimits, knownKeys{}) {
		if err := r.limit(key, value); err != nil {
			r.wrong(value, err)
		}
	}
}

// limit reads one of them: a text as --limit takes it, a list of words, or least and most.
func (r *fileReader) limit(key, value *yaml.Node) error {
	if _, err := optionsNamed(key.Value); err != nil {
		if slices.Contains(r.top, key.Value) { // a limit of the daemon's
			err = hint.Wrap(err, ofTheFile(key.Value))
		}
		r.wrong(key, err)
		return nil
	}
	if r.file.Limits == nil {
		r.file.Limits = option.Limited{}
	}
	origin := r.at(key)
	switch value.Kind {
	case yaml.SequenceNode:
		return AddLimit(r.file.Limits, key.Value, strings.Join(r.values(value, key.Value), ","), origin)
	case yaml.MappingNode:
		var least, most string
		for bound, text := range r.mapping(value, key.Value, boundKeys) {
			said, _ := r.scalar(text, bound.Value)
			if bound.Value == "min" {
				least = said
			} else {
				most = said
			}
		}
		if least == "" && most == "" && r.said(value) {
			return nil
		}
		return addLimits(r.file.Limits, key.Value, func(o *option.Option) (option.Limit, error) {
			return option.BetweenLimit(o, least, most, origin)
		})
	}
	text, ok := r.scalar(value, key.Value)
	if !ok {
		return nil
	}
	return AddLimit(r.file.Limits, key.Value, text, origin)
}
