package option

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/shorten"
	"github.com/ambassadord/ambassadord/internal/suggest"
)

// maxText bounds a text: what is beyond is no request line and no handshake.
const maxText = 1024

// shown is what somebody wrote, as a message quotes it.
func shown(text string) string { return shorten.Text(text, maxShown) }

// maxShown is how many bytes of it.
const maxShown = 64

// sourceClient is the source address that is the client's.
const sourceClient = "client"

// spelled is d without the units that are 0: 5m and not 5m0s.
func spelled(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// between says what range is allowed: zero says what 0 means, "" that it is not
// allowed.
func between(zero, least, most string) string {
	if zero == "" {
		return least + " to " + most
	}
	return fmt.Sprintf("0 (%s) or %s to %s", zero, least, most)
}

func duration(name string, group Group, preset time.Duration, zero string, least, most time.Duration, help string, field func(*Set) *time.Duration) Option {
	allowed := between(zero, spelled(least), spelled(most))
	write := func(d time.Duration) string {
		if d == 0 {
			return "0"
		}
		return spelled(d)
	}
	return Option{
		Name: name, Group: group, Kind: Duration, Default: write(preset), Range: allowed, Help: help, size: durationSize, zero: zero,
		put: func(s *Set, text string) error {
			d, err := time.ParseDuration(text)
			switch {
			case err != nil && isNumber(text):
				return hint.Errorf(fmt.Sprintf("write %ss or %sms; %s takes %s", shown(text), shown(text), name, allowed), "%q has no unit", shown(text))
			case err != nil:
				return hint.Errorf(fmt.Sprintf("write a number with its unit, such as 2s or 500ms; %s takes %s", name, allowed), "%q is not a duration", shown(text))
			case d == 0 && zero != "":
			case d < least || d > most:
				return outOfRange(name, text, allowed)
			}
			*field(s) = d
			return nil
		},
		get: func(s *Set) string { return write(*field(s)) },
	}
}

func outOfRange(name, text, allowed string) error {
	return hint.Errorf(fmt.Sprintf("%s takes %s", name, allowed), "%s is out of range", shown(text))
}

func isNumber(text string) bool {
	_, err := strconv.ParseFloat(text, 64)
	return err == nil && !strings.ContainsAny(text, "xXnN+-_") // no hex, NaN, Inf
}

// integer is a whole number.
func integer[T int | uint16 | uint32](name string, group Group, preset int64, zero string, least, most int64, help string, field func(*Set) *T) Option {
	allowed := between(zero, strconv.FormatInt(least, 10), strconv.FormatInt(most, 10))
	return Option{
		Name: name, Group: group, Kind: Integer, Default: strconv.FormatInt(preset, 10), Range: allowed, Help: help, size: integerSize, zero: zero,
		put: func(s *Set, text string) error {
			n, err := strconv.ParseInt(text, 10, 64)
			switch {
			case err != nil && !errors.Is(err, strconv.ErrRange):
				return hint.Errorf(fmt.Sprintf("%s takes %s", name, allowed), "%q is not a whole number", shown(text))
			case err == nil && n == 0 && zero != "":
			case err != nil || n < least || n > most:
				return outOfRange(name, text, allowed)
			}
			*field(s) = T(n)
			return nil
		},
		get: func(s *Set) string { return strconv.FormatInt(int64(*field(s)), 10) },
	}
}

// percent takes a share with or without its sign.
func percent(name string, group Group, preset int64, help string, field func(*Set) *int) Option {
	const allowed = "0 to 100 percent"
	return Option{
		Name: name, Group: group, Kind: Percent, Default: strconv.FormatInt(preset, 10), Range: allowed, Help: help, size: integerSize,
		put: func(s *Set, text string) error {
			n, err := strconv.Atoi(strings.TrimSuffix(text, "%"))
			switch {
			case err != nil && !errors.Is(err, strconv.ErrRange):
				return hint.Errorf(fmt.Sprintf("%s takes %s", name, allowed), "%q is not a whole number", shown(text))
			case err != nil || n < 0 || n > 100:
				return outOfRange(name, text, allowed)
			}
			*field(s) = n
			return nil
		},
		get: func(s *Set) string { return strconv.Itoa(*field(s)) },
	}
}

func word[T ~string](name string, group Group, preset T, words []T, help string, field func(*Set) *T) Option {
	texts := make([]string, len(words))
	for i, w := range words {
		texts[i] = string(w)
	}
	return Option{
		Name: name, Group: group, Kind: Enumeration, Default: string(preset), Range: strings.Join(texts, ", "), Words: texts, Help: help,
		put: func(s *Set, text string) error {
			if !slices.Contains(texts, text) {
				return hint.Errorf(meant(name, text, texts), "%q is no word that %s knows", shown(text), name)
			}
			*field(s) = T(text)
			return nil
		},
		get: func(s *Set) string { return string(*field(s)) },
	}
}

// meant is the hint for a word that is none of words.
func meant(name, text string, words []string) string {
	allowed := fmt.Sprintf("%s takes %s", name, strings.Join(words, ", "))
	if s := suggest.Closest(strings.ToLower(text), words); s != "" {
		return fmt.Sprintf("did you mean %s? %s", s, allowed)
	}
	return allowed
}

// spelling is how a text is read and written.
type spelling struct {
	allowed string
	read    func(string) (string, error)
	write   func(string) string
}

// text is a text; only checks take any.
func text(name, preset string, as spelling, help string, field func(*Set) *string) Option {
	return Option{
		Name: name, Group: Health, Kind: Text, Default: preset, Range: as.allowed, Help: help,
		put: func(s *Set, text string) error {
			if len(text) > maxText {
				return hint.Errorf(fmt.Sprintf("%s takes %s", name, as.allowed), "%d bytes are more than %d", len(text), maxText)
			}
			value, err := as.read(text)
			if err != nil {
				return hint.Wrap(err, fmt.Sprintf("%s takes %s", name, as.allowed))
			}
			*field(s) = value
			return nil
		},
		get: func(s *Set) string { return as.write(*field(s)) },
	}
}

func same(text string) string { return text }

// lengthOf is how many characters an escape that is not known has at most, its backslash apart.
func lengthOf(escape string) int {
	if strings.HasPrefix(escape, "x") {
		return len("xHH")
	}
	return 1
}

// shownPath is a path for a message: its query may be a password.
func shownPath(text string) string {
	path, _, _ := strings.Cut(text, "?")
	return shown(path)
}

var pathOf = spelling{
	allowed: "a path that begins with /, a query included",
	read: func(text string) (string, error) {
		if !strings.HasPrefix(text, "/") {
			return "", fmt.Errorf("%q does not begin with /", shownPath(text))
		}
		if strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' || r == '#' }) {
			return "", fmt.Errorf("%q has characters that a request line cannot hold", shownPath(text))
		}
		return text, nil
	},
	write: same,
}

var hostOf = spelling{
	allowed: "a name or an address, with a port or without",
	read: func(text string) (string, error) {
		if strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`/\@?#"`, r) }) {
			return "", fmt.Errorf("%q is no host", shown(text))
		}
		return text, nil
	},
	write: same,
}

// escapedOf lets a label, which is one line, say \r\n.
var escapedOf = spelling{
	allowed: `a text with the escapes \r \n \t \\ \xHH`,
	read: func(text string) (string, error) {
		var out strings.Builder
		for rest := text; rest != ""; {
			before, after, found := strings.Cut(rest, `\`)
			out.WriteString(before)
			if !found {
				break
			}
			b, n := unescape(after)
			if n == 0 {
				return "", fmt.Errorf(`it has an escape that is not known: \%.*s`, lengthOf(after), after) // and not all of it: it may be a password
			}
			out.WriteByte(b)
			rest = after[n:]
		}
		return out.String(), nil
	},
	write: func(text string) string {
		var out strings.Builder
		for _, b := range []byte(text) {
			switch i := strings.IndexByte("\r\n\t\\", b); {
			case i >= 0:
				out.WriteString([]string{`\r`, `\n`, `\t`, `\\`}[i])
			case b < ' ' || b > '~':
				fmt.Fprintf(&out, `\x%02x`, b)
			default:
				out.WriteByte(b)
			}
		}
		return out.String()
	},
}

// unescape reads what comes after a backslash and says how long it is; 0 if it is
// nothing.
func unescape(text string) (b byte, length int) {
	if text == "" {
		return 0, 0
	}
	if i := strings.IndexByte(`rnt\`, text[0]); i >= 0 {
		return "\r\n\t\\"[i], 1
	}
	if text[0] == 'x' && len(text) >= 3 {
		if n, err := strconv.ParseUint(text[1:3], 16, 8); err == nil {
			return byte(n), 3
		}
	}
	return 0, 0
}

func address(name string, group Group, help string, field func(*Set) *Source) Option {
	allowed := "an IP address or " + sourceClient
	return Option{
		Name: name, Group: group, Kind: Address, Range: allowed, Words: []string{sourceClient}, Help: help,
		put: func(s *Set, text string) error {
			if text == "" || text == sourceClient {
				*field(s) = Source{Client: text == sourceClient}
				return nil
			}
			addr, err := netip.ParseAddr(text)
			addr = addr.Unmap()
			switch {
			case err != nil:
				fix := fmt.Sprintf("%s takes %s", name, allowed)
				if suggest.Closest(strings.ToLower(text), []string{sourceClient}) != "" {
					fix = "did you mean client? " + fix
				}
				return hint.Errorf(fix, "%q is no IP address", shown(text))
			case addr.IsUnspecified() || addr.IsMulticast():
				return hint.Errorf(fmt.Sprintf("%s takes %s", name, allowed), "%s is no address to connect from", shown(text))
			}
			*field(s) = Source{Addr: addr}
			return nil
		},
		get: func(s *Set) string { return field(s).String() },
	}
}
