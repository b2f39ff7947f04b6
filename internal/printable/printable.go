// Package printable keeps characters that nobody sees out of what people read: out of a JSON log
// (Writer), and out of lines for a terminal (Text).
//
// JSON lets all of them through but those below U+0020. A terminal acts on some: U+009B
// begins a control sequence as ESC [ does, and U+202E has what follows run from right to
// left, so that a line says something else than it seems to. A declaration of a container, or
// an answer of a name server, must not do that to a reader of the log.
package printable

import (
	"encoding/binary"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Writer returns a Writer to which JSON is written, and which writes it to w with control
// and format characters (the categories Cc and Cf of Unicode) as \uXXXX, which means the
// same (RFC 8259, section 7). Each Write must have whole characters. It holds nothing back.
func Writer(w io.Writer) io.Writer { return writer{w} }

type writer struct{ to io.Writer }

// Write says that all of p was written when what it became was.
func (w writer) Write(p []byte) (int, error) {
	if plain(p) {
		return w.to.Write(p)
	}
	if _, err := w.to.Write(escaped(p)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// plain reports whether p is ASCII, as nearly every line is.
func plain(p []byte) bool {
	const high = 0x8080808080808080
	for len(p) >= 8 {
		if binary.NativeEndian.Uint64(p)&high != 0 {
			return false
		}
		p = p[8:]
	}
	for _, b := range p {
		if b >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

func escaped(p []byte) []byte {
	out := make([]byte, 0, len(p)+64)
	for len(p) > 0 {
		r, size := utf8.DecodeRune(p)
		switch {
		case r < utf8.RuneSelf || !unicode.In(r, unicode.Cc, unicode.Cf):
			out = append(out, p[:size]...)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
		p = p[size:]
	}
	return out
}

// Text is text with escapes of Go in place of characters that cannot be seen, or act on a terminal.
func Text(text string) string {
	for _, r := range text {
		if !unicode.IsPrint(r) || r == utf8.RuneError {
			quoted := strconv.Quote(text)
			return strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
		}
	}
	return text
}
