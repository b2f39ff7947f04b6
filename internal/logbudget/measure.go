package logbudget

import (
	"fmt"
	"log/slog"
	"unicode"
	"unicode/utf8"

	"github.com/ambassadord/ambassadord/internal/shorten"
)

const (
	// overhead is what a line takes beside its attributes: time and level.
	overhead = 64
	// widest is how many bytes one byte of a value takes at most when it is written:
	// "\u0000".
	widest = 6
	// marked is room for what says that a value was cut.
	marked = 32
)

// measure is what a Handler has to know of a record.
type measure struct {
	size int  // about as many bytes as the line takes
	long bool // some value is too long, or not known to be short

	id, client, source, target, reason string
}

// add looks at an attribute. It takes a pointer because a slog.Attr is large.
func (m *measure) add(a *slog.Attr) {
	m.size += len(a.Key) + 2
	switch a.Value.Kind() {
	case slog.KindString:
		text := a.Value.String()
		taken := len(text)
		if taken > Field/widest {
			taken = width(text)
			m.long = m.long || taken > Field
		}
		m.size += taken
	case slog.KindGroup:
		group := a.Value.Group()
		for i := range group {
			m.add(&group[i])
		}
	case slog.KindAny, slog.KindLogValuer:
		m.long = true // until it is written nobody knows
	default:
		m.size += 12
	}
	m.long = m.long || tooLong(a.Key)
}

// identify looks for what says whose a record is.
func (m *measure) identify(r *slog.Record) {
	r.Attrs(func(a slog.Attr) bool {
		m.note(&a)
		return true
	})
}

func (m *measure) note(a *slog.Attr) {
	switch a.Value.Kind() {
	case slog.KindString:
	case slog.KindGroup:
		group := a.Value.Group()
		for i := range group {
			m.note(&group[i])
		}
		return
	default:
		return
	}
	switch text := a.Value.String(); a.Key {
	case "id", "reporter_id": // the latter of whoever has an endpoint ejected
		m.id = text
	case "client", "reported_by":
		m.client = text
	case "source":
		m.source = text
	case "target":
		m.target = text
	case "reason":
		m.reason = text
	}
}

// shortened is r with values that are short enough, in room bytes. A value that has no room
// is left out, and how much that is stands at the end.
func shortened(r slog.Record, room int) slog.Record {
	short := slog.NewRecord(r.Time, r.Level, cut(r.Message, Field), r.PC)
	room -= overhead + len(short.Message)
	without := 0
	r.Attrs(func(a slog.Attr) bool {
		a = cutAttr(a, min(Field, max(room, 0)))
		var m measure
		m.add(&a)
		if m.size > room {
			without++
			return true
		}
		room -= m.size
		short.AddAttrs(a)
		return true
	})
	if without > 0 {
		short.AddAttrs(slog.Int("fields_left_out", without))
	}
	return short
}

// cutAttr is a with a value that takes most bytes, or each of a group's as many.
func cutAttr(a slog.Attr, most int) slog.Attr {
	a.Key = cut(a.Key, Field)
	a.Value = a.Value.Resolve()
	switch a.Value.Kind() {
	case slog.KindString:
		a.Value = slog.StringValue(cut(a.Value.String(), most))
	case slog.KindGroup:
		group := a.Value.Group()
		cuts := make([]slog.Attr, 0, len(group))
		room := Line / 2
		for _, of := range group {
			of = cutAttr(of, most)
			var m measure
			m.add(&of)
			if room -= m.size; room < 0 {
				cuts = append(cuts, slog.Int("fields_left_out", len(group)-len(cuts)))
				break
			}
			cuts = append(cuts, of)
		}
		a.Value = slog.GroupValue(cuts...)
	case slog.KindAny:
		a.Value = cutAny(a.Value, most)
	default: // numbers and times are short
	}
	return a
}

// cutAny writes an error once, and leaves what else is short as it is: a format may have
// a form of its own for it.
func cutAny(v slog.Value, most int) slog.Value {
	if err, ok := v.Any().(error); ok {
		return slog.StringValue(cut(errorText(err), most))
	}
	if text := fmt.Sprintf("%+v", v.Any()); width(text) > most {
		return slog.StringValue(cut(text, most))
	}
	return v
}

// errorText is what err says. A nil pointer in an error's clothes panics, which is no
// reason to end here.
func errorText(err error) (text string) {
	defer func() {
		if p := recover(); p != nil {
			text = fmt.Sprintf("!PANIC: %v", p)
		}
	}()
	return err.Error()
}

func tooLong(text string) bool { return len(text) > Field/widest && width(text) > Field }

// cut is text in most bytes as it is written, and what says that it was cut.
func cut(text string, most int) string {
	if len(text) <= most/widest || width(text) <= most {
		return text
	}
	room, end := most-marked, 0
	for end < len(text) {
		r, n := utf8.DecodeRuneInString(text[end:])
		if room -= runeWidth(r, n); room < 0 {
			break
		}
		end += n
	}
	return shorten.Text(text, end)
}

// width is how many bytes text takes at most, quoted, in either format. It is asked of
// texts that are long, and stops when it knows that one is too long.
func width(text string) int {
	total := 0
	for i := 0; i < len(text); {
		if c := text[i]; c >= ' ' && c < 0x7f && c != '"' && c != '\\' { // nearly all
			total++
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(text[i:])
		total += runeWidth(r, n)
		i += n
		if total > Line {
			break
		}
	}
	return total
}

func runeWidth(r rune, n int) int {
	switch {
	case r == '\n', r == '\t', r == '\r', r == '"', r == '\\':
		return 2
	case r == utf8.RuneError && n == 1, r <= 0xffff && !unicode.IsPrint(r):
		return widest
	case !unicode.IsPrint(r): // "\U0001f3fb" for its four bytes
		return 10
	}
	return n
}
