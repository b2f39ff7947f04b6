package netrules

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxComment is the longest comment the kernel's comment match holds, in bytes
// (XT_MAX_COMMENT_LEN less the closing NUL).
const MaxComment = 255

// Rule is one rule of a chain.
type Rule struct {
	// Spec holds the match and target arguments as iptables takes them, one
	// argument each and unquoted, without the comment.
	Spec []string
	// Comment names the rule's owner. It may hold text that came from users: it
	// passes through [SafeComment] on the way out.
	Comment string
}

// Args returns the rule's complete arguments. The comment comes after the
// matches and before the target, which is where iptables-save prints it.
func (r Rule) Args() []string {
	comment := SafeComment(r.Comment)
	if comment == "" {
		return slices.Clone(r.Spec)
	}
	at := slices.IndexFunc(r.Spec, isTargetFlag)
	if at < 0 {
		at = len(r.Spec)
	}
	return slices.Concat(r.Spec[:at], []string{"-m", "comment", "--comment", comment}, r.Spec[at:])
}

// fit returns rules with comments that s has room for.
func (s State) fit(rules []Rule) []Rule {
	if s.MaxComment == 0 {
		return rules
	}
	fitting := slices.Clone(rules)
	for i := range fitting {
		fitting[i].Comment = cutComment(fitting[i].Comment, s.MaxComment)
	}
	return fitting
}

// Text returns the rule of the named chain as iptables-save prints it.
func (r Rule) Text(chain string) string {
	return RuleText(chain, r.Args())
}

// RuleText returns a rule that a [State] holds as iptables-save prints it.
func RuleText(chain string, args []string) string {
	return joinArgs(append([]string{string(Append), chain}, args...))
}

// SafeComment makes s fit for a rule's comment: what could end a quoted string
// or a line in iptables-restore's input, and what does not print, becomes "_";
// the result is at most [MaxComment] bytes and valid UTF-8.
func SafeComment(s string) string { return cutComment(s, MaxComment) }

// cutComment is SafeComment with another length.
func cutComment(s string, longest int) string {
	var b strings.Builder
	for _, r := range strings.TrimSpace(s) {
		switch {
		case r == '"', r == '\'', r == '\\', r == '`', r == utf8.RuneError, !unicode.IsPrint(r):
			r = '_'
		}
		if b.Len()+utf8.RuneLen(r) > longest {
			break
		}
		b.WriteRune(r)
	}
	return strings.TrimSpace(b.String())
}

func isTargetFlag(arg string) bool { return arg == "-j" || arg == "-g" }

// joinArgs writes arguments as one line that iptables-restore reads back as the
// same arguments, quoted the way iptables-save quotes them.
func joinArgs(args []string) string {
	var b strings.Builder
	for i, arg := range args {
		if i > 0 {
			b.WriteByte(' ')
		}
		switch {
		case i > 0 && args[i-1] == "--comment":
			b.WriteString(quoteSaved(arg))
		case arg == "" || strings.ContainsAny(arg, " \t\r\n\"'\\"):
			b.WriteString(quote(arg))
		default:
			b.WriteString(arg)
		}
	}
	return b.String()
}

// quoteSaved quotes a free string as iptables-save does: bare if it is only
// ASCII letters, digits, "_" and "-", in double quotes otherwise.
func quoteSaved(s string) string {
	plain := s != ""
	for i := 0; plain && i < len(s); i++ {
		c := s[i]
		plain = c == '_' || c == '-' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
	}
	if plain {
		return s
	}
	return quote(s)
}

func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for i := 0; i < len(s); i++ {
		if s[i] == '"' || s[i] == '\\' || s[i] == '\'' {
			b.WriteByte('\\')
		}
		b.WriteByte(s[i])
	}
	b.WriteByte('"')
	return b.String()
}
