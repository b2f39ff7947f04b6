package lint

import (
	"strings"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/shorten"
)

// textRange is a part of an instruction's text, from start to end.
type textRange struct{ start, end int }

// splitWords splits text at blanks that are in no quotes and have no escape before them.
func splitWords(text string, escape byte) []textRange {
	var out []textRange
	start, quote := -1, byte(0)
	for i := 0; i < len(text); i++ {
		b := text[i]
		switch blank := b == ' ' || b == '\t'; {
		case quote == 0 && blank:
			if start >= 0 {
				out = append(out, textRange{start, i})
			}
			start = -1
			continue
		case b == escape && quote != '\'':
			if start < 0 {
				start = i
			}
			i++
			continue
		case quote == 0 && (b == '"' || b == '\''):
			quote = b
		case b == quote:
			quote = 0
		}
		if start < 0 {
			start = i
		}
	}
	if start >= 0 {
		out = append(out, textRange{start, len(text)})
	}
	return out
}

// pairs reads the KEY=VALUE of i, or KEY VALUE, the older form, in which the value is the rest of the
// text. A word that has no = is a mistake, but of ARG, where it has no value. d, which may be nil, is
// whose mistakes they are.
func (l *stageReader) pairs(d *declarant, i *instruction, escape byte, vars *variables) []item {
	words := splitWords(i.text, escape)
	stage := ""
	if d != nil {
		stage = d.name
	}
	if len(words) == 0 {
		l.wrong(i.at, stage, hint.Errorf("write "+i.word+" KEY=VALUE", "%s says nothing", i.word))
		return nil
	}
	if first := words[0]; i.word != "ARG" && !strings.Contains(i.text[first.start:first.end], "=") {
		if len(words) == 1 {
			l.wrong(i.spotOf(first.start), stage, hint.Errorf("write "+i.word+" KEY=VALUE", "%s %s has no value", i.word, shorten.Text(i.text[first.start:first.end], maxShown)))
			return nil
		}
		value := textRange{words[1].start, len(strings.TrimRight(i.text, " \t"))}
		return []item{{key: l.written(stage, i, first, escape, vars), value: l.written(stage, i, value, escape, vars)}}
	}
	var out []item
	for _, w := range words {
		key, _, found := strings.Cut(i.text[w.start:w.end], "=")
		split := w.start + len(key)
		if !found && i.word != "ARG" {
			l.wrong(i.spotOf(w.start), stage, hint.Errorf("write KEY=VALUE, with quotes around a value that has blanks",
				"%q has no =", shorten.Text(i.text[w.start:w.end], maxShown)))
			continue
		}
		p := item{key: l.written(stage, i, textRange{w.start, split}, escape, vars)}
		if found {
			p.value = l.written(stage, i, textRange{split + 1, w.end}, escape, vars)
		} else {
			p.value = scalar{at: p.key.at, unknown: noDefault}
		}
		out = append(out, p)
	}
	return out
}

// noDefault is what is unknown of an ARG that has no default.
const noDefault = "its value"

// written is the part of i's text at w, with what its quotes, escapes and variables say. A quote without an
// end is a mistake of stage.
func (l *stageReader) written(stage string, i *instruction, w textRange, escape byte, vars *variables) scalar {
	raw := i.text[w.start:w.end]
	s, quote := vars.expand(raw, escape)
	if len(raw) >= 2 && (raw[0] == '"' || raw[0] == '\'') && raw[len(raw)-1] == raw[0] {
		w = textRange{w.start + 1, w.end - 1}
	}
	s.at = i.spotOf(w.start)
	if quote != 0 {
		l.wrong(s.at, stage, hint.Errorf("write KEY=\"VALUE\", or \\ before a quote that is one of the value", "a quote %c that has no end", quote))
	}
	s.verbatim = s.unknown == "" && s.text == i.text[w.start:w.end] && i.oneLine(w.start, w.end)
	return s
}

// variables are those that a Dockerfile's texts may name: ENV of the stage and of those it is made from,
// and ARG of the stage.
type variables struct {
	env, args map[string]scalar
	// global are the ARGs before the first FROM, which a stage's ARG of that name takes over.
	global *variables
	// inherits says that the image below may have variables that the file does not show.
	inherits bool
	left     int // bytes that they may become
}

func newVariables(global *variables, left int) *variables {
	return &variables{env: map[string]scalar{}, args: map[string]scalar{}, global: global, left: left}
}

// nextStage forgets the arguments, which are one stage's.
func (v *variables) nextStage() { v.args = map[string]scalar{} }

func (v *variables) set(p item) { v.env[p.key.text] = p.value }

// argument takes ARG NAME=DEFAULT; without a default the global one's holds. What --build-arg says is not
// in the file, so the default is what is known.
func (v *variables) argument(p item) {
	if p.value.unknown == noDefault && v.global != nil {
		if value, ok := v.global.args[p.key.text]; ok {
			p.value = value
		}
	}
	v.args[p.key.text] = p.value
}

// lookup is the value of name; ok is false if it has none.
func (v *variables) lookup(name string) (value scalar, ok bool) {
	if value, ok = v.env[name]; ok {
		return value, true
	}
	if value, ok = v.args[name]; ok {
		if value.unknown != "" {
			value.unknown = "$" + name
		}
		return value, true
	}
	if v.inherits {
		return scalar{unknown: "$" + name}, true
	}
	return scalar{}, false
}

// expand is raw without quotes and escapes, and with the values of variables in place of their names; quote
// is the one that has no end, 0 for none.
func (v *variables) expand(raw string, escape byte) (s scalar, quote byte) {
	var out strings.Builder
	for i := 0; i < len(raw); i++ {
		b := raw[i]
		switch {
		case quote == 0 && (b == '"' || b == '\''):
			quote = b
		case quote != 0 && b == quote:
			quote = 0
		case b == escape && quote != '\'' && i+1 == len(raw): // of nothing
		case b == escape && quote != '\'':
			next := raw[i+1]
			if quote == '"' && next != '"' && next != '$' && next != escape {
				out.WriteByte(b)
			}
			out.WriteByte(next)
			i++
		case b == '$' && quote != '\'':
			value, length := v.variable(raw[i:], escape, 0)
			if v.left -= len(value.text); v.left < 0 {
				value = scalar{unknown: "what is left of its variables"}
			}
			if value.unknown != "" && s.unknown == "" {
				s.unknown = value.unknown
			}
			out.WriteString(value.text)
			i += length - 1
		default:
			out.WriteByte(b)
		}
	}
	s.text = out.String()
	return s, quote
}

// variable is what stands for the variable at the beginning of raw, and how many bytes that is in raw:
// $NAME, ${NAME}, ${NAME:-WORD}, ${NAME:+WORD}, ${NAME-WORD}, ${NAME+WORD}; other forms are not known.
func (v *variables) variable(raw string, escape byte, depth int) (scalar, int) {
	if len(raw) < 2 || raw[1] != '{' {
		n := 1 + nameLength(raw[1:])
		if n == 1 {
			return scalar{text: "$"[:1-min(1, parameterLength(raw[1:]))]}, 1 + parameterLength(raw[1:])
		}
		value, _ := v.lookup(raw[1:n])
		return value, n
	}
	end := closing(raw)
	if end < 0 {
		return scalar{unknown: shorten.Text(raw, maxShown)}, len(raw)
	}
	body := raw[2:end]
	n := nameLength(body)
	name, operator := body[:n], body[n:]
	value, set := v.lookup(name)
	whole := scalar{unknown: shorten.Text(raw[:end+1], maxShown)}
	if operator == "" {
		return value, end + 1
	}
	if value.unknown != "" || depth >= maxNested {
		return whole, end + 1
	}
	word, emptyToo := strings.CutPrefix(operator, ":")
	if word == "" {
		return whole, end + 1
	}
	holds := set && (!emptyToo || value.text != "")
	other := scalar{text: word[1:]}
	if strings.Contains(other.text, "$") {
		other = v.nested(other.text, escape, depth+1)
	}
	switch {
	case word[0] == '-' && holds, word[0] == '?' && holds:
		return value, end + 1
	case word[0] == '-', word[0] == '+' && holds:
		return other, end + 1
	case word[0] == '+':
		return scalar{}, end + 1
	}
	return whole, end + 1
}

// nested is the word of a variable, with the variables in it.
func (v *variables) nested(text string, escape byte, depth int) scalar {
	var out strings.Builder
	var s scalar
	for i := 0; i < len(text); {
		if text[i] != '$' {
			out.WriteByte(text[i])
			i++
			continue
		}
		value, n := v.variable(text[i:], escape, depth)
		if v.left -= len(value.text); v.left < 0 {
			value = scalar{unknown: "what is left of its variables"}
		}
		if value.unknown != "" && s.unknown == "" {
			s.unknown = value.unknown
		}
		out.WriteString(value.text)
		i += n
	}
	s.text = out.String()
	return s
}

// parameterLength is how long the parameter of a shell is that text begins with, $1 or $$; in a Dockerfile
// they are empty.
func parameterLength(text string) int {
	if text != "" && strings.IndexByte("@*#?-$!0", text[0]) >= 0 {
		return 1
	}
	return len(text) - len(strings.TrimLeft(text, "0123456789"))
}

// nameLength is how long the name of a variable is that text begins with.
func nameLength(text string) int {
	for i := range len(text) {
		b := text[i]
		letter := b == '_' || b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z'
		if !letter && (i == 0 || b < '0' || b > '9') {
			return i
		}
	}
	return len(text)
}

// closing is where the } of the ${ stands that text begins with, -1 without one.
func closing(text string) int {
	depth := 0
	for i := range len(text) {
		switch text[i] {
		case '{':
			depth++
		case '}':
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return -1
}
