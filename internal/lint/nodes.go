package lint

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/shorten"
)

// root reads content as YAML; nil is an empty document.
func (l *composeReader) root(content []byte) (*yaml.Node, error) {
	const fix = "the file is YAML: check quotes, colons, and indentation, which is by spaces and never by tabs"
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	var document, more yaml.Node
	err := decoder.Decode(&document)
	if errors.Is(err, io.EOF) {
		return nil, nil
	}
	if err == nil {
		if err = decoder.Decode(&more); err == nil {
			l.note(spotOf(&more), Finding{Level: LevelNote, Message: "only the first document of the file is read", Hint: l.elsewhere()})
		} else if errors.Is(err, io.EOF) {
			err = nil
		}
	}
	switch e, ok := errors.AsType[*yaml.LoadError](err); {
	case err == nil:
		return document.Content[0], nil
	case ok:
		return nil, l.unreadable(spot{e.Mark.Line, e.Mark.Column}, fix, "%s", e.Message)
	}
	return nil, hint.Errorf(fix, "%s: %s", l.file, shorten.Text(err.Error(), maxMessage))
}

func spotOf(n *yaml.Node) spot { return spot{n.Line, n.Column} }

// behind follows aliases to what they stand for.
func behind(n *yaml.Node) *yaml.Node {
	for range maxAliases {
		if n.Kind != yaml.AliasNode || n.Alias == nil {
			break
		}
		n = n.Alias
	}
	return n
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// keyed is a key of a mapping, and its value, no alias.
type keyed struct{ key, value *yaml.Node }

// mapping is what n has, which is what of service, with what is merged into it. A key that is there twice
// is a mistake.
func (l *composeReader) mapping(n *yaml.Node, what, service string) []keyed {
	m := behind(n)
	if isNull(m) {
		return nil
	}
	if m.Kind != yaml.MappingNode {
		l.wrong(spotOf(n), service, hint.Errorf("write KEY: VALUE on lines of their own", "%s is not a mapping of keys to values", what))
		return nil
	}
	lines := map[string]int{}
	out := l.merge(nil, m, map[string]bool{}, func(key *yaml.Node) {
		if line, again := lines[key.Value]; again {
			l.wrong(spotOf(key), service, hint.Errorf("keep one of the two", "%q is there already, in line %d", shorten.Text(key.Value, maxShown), line))
		}
		lines[key.Value] = key.Line
	}, 0)
	return out
}

// merge adds to out the keys of m that are not in have, then those that it merges by <<. own is told of
// each key that m itself has; it may be nil.
func (l *composeReader) merge(out []keyed, m *yaml.Node, have map[string]bool, own func(*yaml.Node), depth int) []keyed {
	var merged []*yaml.Node
	for i := 0; i+1 < len(m.Content); i += 2 {
		key, value := behind(m.Content[i]), m.Content[i+1]
		if key.Kind != yaml.ScalarNode {
			continue
		}
		if key.Value == "<<" && key.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) == 0 {
			merged = append(merged, value)
			continue
		}
		if own != nil {
			own(key)
		}
		if own == nil && !l.mayMerge(key) {
			return out
		}
		if !have[key.Value] {
			have[key.Value] = true
			out = append(out, keyed{key, behind(value)})
		}
	}
	for _, value := range merged {
		maps := []*yaml.Node{behind(value)}
		if maps[0].Kind == yaml.SequenceNode {
			maps = maps[0].Content
		}
		for _, from := range maps {
			if from = behind(from); from.Kind == yaml.MappingNode && depth < maxAliases && l.mayMerge(from) {
				out = l.merge(out, from, have, nil, depth+1)
			}
		}
	}
	return out
}

// mayMerge counts one more key that is read anew, and says once, at n, when they are too many.
func (l *composeReader) mayMerge(n *yaml.Node) bool {
	l.merged++
	if l.merged == maxMerged {
		l.wrong(spotOf(n), "", hint.Errorf("write the keys out", "the file merges more than %d keys; what follows is not read", maxMerged))
	}
	return l.merged < maxMerged
}

// scalarOf is the value n with its variables in. exact asks for the place of each of its bytes.
func (l *composeReader) scalarOf(n *yaml.Node, service string, exact bool) scalar {
	in := interpolate(n.Value, 0)
	s := scalar{text: in.text, at: spotOf(n), unknown: in.unknown}
	if in.bad != "" {
		l.wrong(s.at, service, hint.Errorf("write $$ for a $ that is none, and ${NAME} for a variable", "%q is no variable of Compose's", in.bad))
		s.text, s.unknown, s.told = n.Value, in.bad, true
	}
	if exact && s.unknown == "" && s.text == n.Value {
		l.locate(&s, n)
	}
	return s
}

// longLine is how many bytes a line has in which no place is looked for: that would take time for each.
const longLine = 4096

// locate finds the text of s, that of n, in the file.
func (l *composeReader) locate(s *scalar, n *yaml.Node) {
	if n.Line < 1 || n.Line > len(l.lines) || len(l.lines[n.Line-1]) > longLine {
		return
	}
	line, column := l.lines[n.Line-1], n.Column
	for range column - 1 {
		_, size := utf8.DecodeRuneInString(line)
		line = line[size:]
	}
	if n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0 && line != "" {
		line, column = line[1:], column+1
	}
	if strings.HasPrefix(line, s.text) {
		s.at.column, s.verbatim = column, true
	}
}

// items reads a mapping of names to values, or a list of NAME=VALUE, which is what of service, as labels
// and variables are written. A value that is not there is missing: "" means that it is empty.
func (l *composeReader) items(n *yaml.Node, what, service, missing string) []item {
	n = behind(n)
	var out []item
	switch {
	case isNull(n):
	case n.Kind == yaml.MappingNode:
		for _, e := range l.mapping(n, what, service) {
			i := item{key: scalar{text: e.key.Value, at: spotOf(e.key)}}
			switch {
			case isNull(e.value):
				i.value = scalar{at: spotOf(e.key), unknown: missing}
			case e.value.Kind != yaml.ScalarNode:
				l.wrong(spotOf(e.value), service, hint.Errorf("write "+shorten.Text(e.key.Value, maxShown)+": VALUE", "%s takes one value", shorten.Text(e.key.Value, maxShown)))
				continue
			case declares(e.key.Value):
				i.value = l.scalarOf(e.value, service, true)
			default:
				i.value = l.scalarOf(e.value, service, false)
			}
			out = append(out, i)
		}
	case n.Kind == yaml.SequenceNode:
		for _, node := range n.Content {
			node = behind(node)
			if node.Kind != yaml.ScalarNode {
				l.wrong(spotOf(node), service, hint.Errorf(what+" is a list of NAME=VALUE, or a mapping of NAME: VALUE without dashes", "an item of %s is no text%s", what, firstKey(node)))
				continue
			}
			out = append(out, l.listed(node, service, missing))
		}
	default:
		l.wrong(spotOf(n), service, hint.Errorf("write NAME: VALUE on lines of their own", "%s is neither a mapping nor a list", what))
	}
	return out
}

// listed is an item NAME=VALUE of a list.
func (l *composeReader) listed(n *yaml.Node, service, missing string) item {
	raw := keyValue(scalar{text: n.Value})
	s := l.scalarOf(n, service, declares(raw.key.text))
	if s.unknown == "" || s.told {
		i := keyValue(s)
		i.value.told = s.told
		if !strings.Contains(s.text, "=") {
			i.value.unknown = missing
		}
		return i
	}
	key, value := interpolate(raw.key.text, 0), interpolate(raw.value.text, 0)
	i := item{key: scalar{text: key.text, at: s.at, unknown: key.unknown}, value: scalar{text: value.text, at: s.at, unknown: value.unknown}}
	if key.unknown != "" {
		i.key.text = raw.key.text
	}
	return i
}

// firstKey names the first key of a mapping that is an item of a list.
func firstKey(n *yaml.Node) string {
	if n.Kind != yaml.MappingNode || len(n.Content) == 0 {
		return ""
	}
	return fmt.Sprintf(" but a mapping that begins with %q", shorten.Text(n.Content[0].Value, maxShown))
}
