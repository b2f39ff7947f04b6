package lint

import (
	"strings"

	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/option"
	"github.com/ambassadord/ambassadord/internal/shorten"
	"github.com/ambassadord/ambassadord/internal/suggest"
)

const (
	labelWord    = "connect"
	labelExample = "write the label connect.PORT=TARGET, for example connect.6379=redis.service.consul"
)

// declares reports whether the name of a label or variable is that of a declaration or of an option, by
// the form of it.
func declares(key string) bool { return ofLabel(key) || ofVariable(key) }

// ofLabel reports whether key has the form of a label that declares.
func ofLabel(key string) bool {
	return strings.HasPrefix(key, labelWord+".") || strings.HasPrefix(key, labelWord+"[")
}

// ofVariable reports whether key has the form of a variable that declares.
func ofVariable(key string) bool {
	word, rest, ok := strings.Cut(strings.ToUpper(shorten.Text(key, maxShown)), "_")
	return ok && (word == "CONNECT" || word == "BACKEND") && rest != "" && rest[0] >= '0' && rest[0] <= '9'
}

// labelOption is the option that a label sets, "" if it is none.
func labelOption(key string) string {
	if !ofLabel(key) {
		return ""
	}
	rest := strings.Replace(strings.Replace(key[len(labelWord)+1:], "].", ".", 1), "]", "", 1)
	if option.Known(rest) {
		return rest
	}
	_, name, _ := strings.Cut(rest, ".")
	if option.Known(name) {
		return name
	}
	return ""
}

// variableOption is the option that a variable sets, "" if it is none.
func variableOption(key string) string {
	if !ofVariable(key) {
		return ""
	}
	_, rest, _ := strings.Cut(key, "_")
	_, name, _ := strings.Cut(rest, "_")
	if name = strings.ReplaceAll(strings.ToLower(name), "_", "-"); option.Known(name) {
		return name
	}
	return ""
}

// nearMisses notes labels and variables of d that internal/binding takes for those of other programs, and
// which are probably meant for us.
func (l *linter) nearMisses(d *declarant) {
	for _, i := range last(d.labels) {
		key := shorten.Text(i.key.text, maxShown)
		word, rest := leadingWord(key)
		var fix string
		switch {
		case ofLabel(key):
			continue
		case strings.EqualFold(key, labelWord):
			fix = labelExample
		case near(word) && rest != "" && strings.IndexByte("/= ", rest[0]) >= 0 && startsWithDigit(rest[1:]):
			fix = "did you mean connect." + rest[1:] + "?"
		case word != labelWord && near(word) && rest != "" && rest[0] == '.' && option.Known(rest[1:]):
			fix = "did you mean connect" + rest + "?"
		default:
			continue
		}
		l.note(i.key.at, Finding{Level: LevelMistake, Service: d.name, Origin: binding.LabelOrigin(i.key.text),
			Message: "looks like a declaration but is none; passed over", Hint: fix})
	}
	for _, i := range last(d.env) {
		key := shorten.Text(i.key.text, maxShown)
		word, rest := leadingWord(key)
		meant := "CONNECT"
		if suggest.Distance(strings.ToUpper(word), "BACKEND") <= 1 {
			meant = "BACKEND"
		}
		switch {
		case rest == "" || !near(word) && suggest.Distance(strings.ToUpper(word), "BACKEND") > 1:
			continue
		case ofLabel(key):
			l.note(i.key.at, Finding{Level: LevelMistake, Service: d.name, Origin: binding.VariableOrigin(i.key.text),
				Message: "is the name of a label, and no variable; passed over", Hint: "write it as a label, or as the variable CONNECT_" +
					strings.ToUpper(strings.NewReplacer(".", "_", "-", "_", "[", "", "]", "").Replace(key[len(labelWord)+1:]))})
		case startsWithDigit(rest), strings.IndexByte(".-", rest[0]) >= 0 && startsWithDigit(rest[1:]):
			l.note(i.key.at, Finding{Level: LevelMistake, Service: d.name, Origin: binding.VariableOrigin(i.key.text),
				Message: "looks like a declaration but is none; passed over", Hint: "did you mean " + meant + "_" + strings.ToUpper(strings.TrimLeft(rest, ".-")) + "?"})
		}
	}
}

// near reports whether word may be a misspelt "connect".
func near(word string) bool {
	return len(word) >= len(labelWord)-1 && len(word) <= len(labelWord)+1 && suggest.Distance(strings.ToLower(word), labelWord) <= 1
}

// leadingWord is the letters that key begins with, and the rest of it.
func leadingWord(key string) (word, rest string) {
	end := strings.IndexFunc(key, func(r rune) bool { return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') })
	if end < 0 {
		return key, ""
	}
	return key[:end], key[end:]
}

func startsWithDigit(text string) bool { return text != "" && text[0] >= '0' && text[0] <= '9' }
