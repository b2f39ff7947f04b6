package binding

import (
	"errors"
	"strconv"
	"strings"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/shorten"
	"github.com/ambassadord/ambassadord/internal/suggest"
)

// The words with which declarations begin.
const (
	connectLabel    = "connect"
	connectVariable = "CONNECT"
	backendVariable = "BACKEND"
)

// portLabel takes connect.PORT, connect[PORT], and either with .NAME behind it, apart.
func portLabel(key string) (port, name string, r rank, ok bool) {
	if rest, found := strings.CutPrefix(key, connectLabel+"."); found {
		port, name, _ = strings.Cut(rest, ".")
		return port, name, rankDotted, true
	}
	rest, found := strings.CutPrefix(key, connectLabel+"[")
	port, rest, closed := strings.Cut(rest, "]")
	if !found || !closed || rest != "" && rest[0] != '.' {
		return "", "", 0, false
	}
	return port, strings.TrimPrefix(rest, "."), rankBracketed, true
}

// misspeltLabel finds the port of a label whose first word may be a misspelt "connect".
// It looks at no more of key than that takes.
func misspeltLabel(key string) (port string, ok bool) {
	const farthest = 2 // edits
	word := key[:span(key, len(connectLabel)+farthest+1, isLetter)]
	rest := key[len(word):]
	if rest != "" && strings.IndexByte(".[_:-", rest[0]) >= 0 {
		rest = rest[1:]
	}
	port = rest[:span(rest, len(rest), isDigit)]
	if port == "" || len(word) < len(connectLabel)-farthest || len(word) > len(connectLabel)+farthest {
		return "", false
	}
	return port, suggest.Distance(strings.ToLower(word), connectLabel) <= farthest
}

// portVariable takes WORD_PORT and WORD_PORT_NAME apart, where WORD, in capitals, is
// CONNECT or BACKEND, or one edit away.
func portVariable(key string) (word, port, name string, ok bool) {
	const farthest = 1 // edits
	word = key[:span(key, len(connectVariable)+farthest+1, isLetter)]
	rest, found := strings.CutPrefix(key[len(word):], "_")
	port = rest[:span(rest, len(rest), isDigit)]
	if rest = rest[len(port):]; !found || port == "" || len(word) < len(connectVariable)-farthest || len(word) > len(connectVariable)+farthest {
		return "", "", "", false
	}
	if rest != "" {
		if name = rest[1:]; rest[0] != '_' || name == "" || span(name, len(name), inName) < len(name) {
			return "", "", "", false
		}
	}
	word = strings.ToUpper(word)
	near := func(known string) bool { return word == known || suggest.Distance(word, known) <= farthest }
	return word, port, name, near(connectVariable) || near(backendVariable)
}

// span is how many of the first most bytes of text are in a set, up to the first that is not.
func span(text string, most int, in func(byte) bool) int {
	for i := range min(most, len(text)) {
		if !in(text[i]) {
			return i
		}
	}
	return min(most, len(text))
}

func isDigit(b byte) bool  { return b >= '0' && b <= '9' }
func isLetter(b byte) bool { return b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' }
func inName(b byte) bool   { return isLetter(b) || isDigit(b) || b == '_' }

func parsePort(text string) (uint16, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	switch {
	case errors.Is(err, strconv.ErrSyntax) && strings.HasSuffix(strings.ToLower(text), "/udp"):
		return 0, hint.Errorf("only TCP is carried: let the client speak TCP, or reach the service without ambassadord", "%q is not a port", shorten.Text(text, maxShownName))
	case errors.Is(err, strconv.ErrSyntax) && strings.HasSuffix(strings.ToLower(text), "/tcp"):
		return 0, hint.Errorf("leave the /tcp out: only TCP is carried", "%q is not a port", shorten.Text(text, maxShownName))
	case errors.Is(err, strconv.ErrSyntax):
		return 0, hint.Errorf(labelHint, "%q is not a port", shorten.Text(text, maxShownName))
	case err != nil || n == 0:
		return 0, hint.Errorf(portHint, "%s is not a port", shorten.Text(text, maxShownName))
	}
	return uint16(n), nil
}
