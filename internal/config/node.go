package config

import (
	"fmt"
	"iter"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/suggest"
)

// fileReader reads a file's nodes and gathers what is wrong with them: the library
// decodes into structs, but its errors then know neither columns nor what was meant.
type fileReader struct {
	name  string
	file  *File
	top   []string // the keys of the file itself
	found []mistake
}

// knownKeys are those that a mapping may have.
type knownKeys struct {
	words []string          // none means that any may be there
	meant map[string]string // what to write instead of other words for them
	doc   string            // where they are described
}

// mistake is an error and where it is.
type mistake struct {
	line, column int
	err          error
}

// at is where node is: FILE:LINE:COLUMN.
func (r *fileReader) at(node *yaml.Node) string {
	return fmt.Sprintf("%s:%d:%d", r.name, node.Line, node.Column)
}

func (r *fileReader) wrong(node *yaml.Node, err error) {
	r.found = append(r.found, mistake{node.Line, node.Column, err})
}

// said reports whether something was found wrong with node itself.
func (r *fileReader) said(node *yaml.Node) bool {
	return slices.ContainsFunc(r.found, func(m mistake) bool { return m.line == node.Line && m.column == node.Column })
}

// mistakes is the error of all that was found wrong, in the file's order.
func (r *fileReader) mistakes() error {
	slices.SortStableFunc(r.found, func(a, b mistake) int {
		if a.line != b.line {
			return a.line - b.line
		}
		return a.column - b.column
	})
	errs := make([]error, len(r.found))
	for i, m := range r.found {
		errs[i] = fmt.Errorf("%s:%d:%d: %w", r.name, m.line, m.column, m.err)
	}
	return hint.Join(errs...)
}

// resolved follows an alias to what it stands for.
func resolved(node *yaml.Node) *yaml.Node {
	for range 8 {
		if node.Kind != yaml.AliasNode || node.Alias == nil {
			break
		}
		node = node.Alias
	}
	return node
}

// mapping goes through the keys of node. Keys that are not known, and those that are there
// twice, are mistakes and left out.
func (r *fileReader) mapping(node *yaml.Node, what string, known knownKeys) iter.Seq2[*yaml.Node, *yaml.Node] {
	return func(yield func(key, value *yaml.Node) bool) {
		m := resolved(node)
		if m.Kind != yaml.MappingNode {
			if !isNull(m) {
				r.wrong(node, hint.Errorf("write KEY: VALUE on lines of their own", "%s is not a mapping of keys to values", what))
			}
			return
		}
		seen := map[string]int{}
		for i := 0; i+1 < len(m.Content); i += 2 {
			key, value := m.Content[i], resolved(m.Content[i+1])
			if err := r.badKey(key, seen, known); err != nil {
				r.wrong(key, err)
				continue
			}
			seen[key.Value] = key.Line
			if !yield(key, value) {
				return
			}
		}
	}
}

func (r *fileReader) badKey(key *yaml.Node, seen map[string]int, known knownKeys) error {
	switch line, twice := seen[key.Value]; {
	case key.Kind != yaml.ScalarNode:
		return hint.Errorf("write a word before the colon", "a key that is no word")
	case twice:
		return hint.Errorf("keep one of the two", "%q is there already, in line %d", key.Value, line)
	case known.words == nil || slices.Contains(known.words, key.Value):
		return nil
	case key.Value == "<<":
		return hint.Errorf("write the keys out; an alias as a value will do", "merge keys are not read")
	}
	return hint.Errorf(r.keyMeant(key.Value, known), "unknown key %q", key.Value)
}

// keyMeant is the hint about a key that is not known.
func (r *fileReader) keyMeant(key string, known knownKeys) string {
	if meant := known.meant[strings.ToLower(key)]; meant != "" {
		return "write " + meant + " instead"
	}
	if s := suggest.Closest(key, known.words); s != "" {
		return "did you mean " + s + "?"
	}
	if slices.Contains(r.top, key) {
		return ofTheFile(key)
	}
	if len(known.words) <= 4 {
		return "the keys here are " + strings.Join(known.words, ", ")
	}
	return "see " + known.doc
}

func ofTheFile(key string) string {
	return key + " is a key of the file itself: write it at the beginning of a line"
}

func isNull(node *yaml.Node) bool {
	return node.Kind == yaml.ScalarNode && node.Tag == "!!null"
}

// sequence is the items of node.
func (r *fileReader) sequence(node *yaml.Node, what string) []*yaml.Node {
	s := resolved(node)
	switch {
	case isNull(s):
		return nil
	case s.Kind != yaml.SequenceNode:
		r.wrong(node, hint.Errorf("begin each item with - on a line of its own", "%s is not a list", what))
		return nil
	}
	items := make([]*yaml.Node, len(s.Content))
	for i, item := range s.Content {
		items[i] = resolved(item)
	}
	return items
}

// scalar is the text of node.
func (r *fileReader) scalar(node *yaml.Node, what string) (string, bool) {
	n := resolved(node)
	switch {
	case n.Kind != yaml.ScalarNode:
		r.wrong(node, hint.Errorf("write "+what+": VALUE", "%s takes one value", what))
		return "", false
	case isNull(n):
		r.wrong(node, hint.Errorf(`write "" for an empty one`, "%s has no value", what))
		return "", false
	}
	return n.Value, true
}

// values is one value or a list of them.
func (r *fileReader) values(node *yaml.Node, what string) []string {
	n := resolved(node)
	if n.Kind != yaml.SequenceNode {
		if text, ok := r.scalar(node, what); ok {
			return []string{text}
		}
		return nil
	}
	out := []string{} // a list of nothing is something
	for _, item := range n.Content {
		if text, ok := r.scalar(item, what); ok {
			out = append(out, text)
		}
	}
	return out
}
