package lint

import (
	"strings"
	"unicode/utf8"

	"github.com/ambassadord/ambassadord/internal/binding"
)

// labelFile reads a file of labels as `docker run --label-file` does: KEY=VALUE a line, of which nothing
// is quoted; a line that is blank or begins with # says nothing.
func (l *linter) labelFile(content []byte) {
	d := &declarant{at: spot{1, 1}, overImage: true}
	number := 0
	for line := range strings.Lines(string(content)) {
		number++
		line = strings.TrimRight(line, "\r\n")
		if number == 1 {
			line = strings.TrimPrefix(line, "\ufeff")
		}
		text := strings.TrimLeft(line, " \t")
		if text == "" || text[0] == '#' {
			continue
		}
		d.labels = append(d.labels, keyValue(scalar{text: text, at: spot{number, 1 + len(line) - len(text)}, verbatim: true}))
	}
	l.declarations(d)
}

// declarations is all that is to be told of the labels and variables of d, which stand in one place.
func (l *linter) declarations(d *declarant) {
	l.twice(d, d.labels, binding.LabelOrigin)
	l.twice(d, d.env, binding.VariableOrigin)
	l.nearMisses(d)
	l.judge(d)
}

// keyValue takes KEY=VALUE apart. A text without = is a key, and its value is empty.
func keyValue(s scalar) item {
	key, value, found := strings.Cut(s.text, "=")
	i := item{key: scalar{text: key, at: s.at, verbatim: s.verbatim}, value: scalar{text: value, at: s.at, verbatim: s.verbatim, unknown: s.unknown}}
	if found && s.verbatim {
		i.value.at.column += utf8.RuneCountInString(key) + 1
	}
	return i
}
