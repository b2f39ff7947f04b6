package lint

import (
	"strings"

	"github.com/ambassadord/ambassadord/internal/shorten"
)

// interpolated is a value of a Compose file once its variables are in, by Compose's rules: $NAME, ${NAME}
// and the forms with -, ?, + and their twins with a colon; $$ is $, and so is a $ before anything else. What the environment and .env will
// say is not known; of a variable with a default that is what counts.
type interpolated struct {
	text    string
	unknown string // the first variable that is not known, as it is written
	bad     string // what is no variable, though ${ begins it; Compose refuses the file then
}

func interpolate(text string, depth int) interpolated {
	if !strings.Contains(text, "$") {
		return interpolated{text: text}
	}
	var out strings.Builder
	var r interpolated
	for i := 0; i < len(text) && r.bad == ""; {
		if text[i] != '$' {
			n := strings.IndexByte(text[i:], '$')
			if n < 0 {
				n = len(text) - i
			}
			out.WriteString(text[i : i+n])
			i += n
			continue
		}
		rest := text[i:]
		if strings.HasPrefix(rest, "$$") {
			out.WriteByte('$')
			i += 2
			continue
		}
		value, n := composeVariable(rest, depth)
		out.WriteString(value.text)
		if r.unknown == "" {
			r.unknown = value.unknown
		}
		r.bad = value.bad
		i += n
	}
	r.text = out.String()
	return r
}

// composeVariable is what stands for the variable at the beginning of text, which is n bytes.
func composeVariable(text string, depth int) (value interpolated, n int) {
	if !strings.HasPrefix(text, "${") {
		n = 1 + nameLength(text[1:])
		if n == 1 {
			return interpolated{text: "$"}, 1
		}
		return interpolated{unknown: shorten.Text(text[:n], maxShown)}, n
	}
	end := closing(text)
	if end < 0 {
		return interpolated{bad: shorten.Text(text, maxShown)}, len(text)
	}
	whole := shorten.Text(text[:end+1], maxShown)
	body := text[2:end]
	length := nameLength(body)
	operator := strings.TrimPrefix(body[length:], ":")
	switch {
	case length == 0, operator == "" && length < len(body):
		return interpolated{bad: whole}, end + 1
	case operator == "":
		return interpolated{unknown: whole}, end + 1
	case depth >= maxNested || operator[0] == '+' || operator[0] == '?':
		return interpolated{unknown: whole}, end + 1
	case operator[0] == '-':
		return interpolate(operator[1:], depth+1), end + 1
	}
	return interpolated{bad: whole}, end + 1
}
