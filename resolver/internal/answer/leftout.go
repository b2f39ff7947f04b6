package answer

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/ambassadord/ambassadord/resolver"
)

// maxWord bounds, in bytes, what a registry has to say of one left-out instance.
const maxWord = 200

// LeftOut gathers who is left out of an answer. It counts them all and keeps
// resolver.MaxLeftOut, so that a registry full of nonsense takes no memory. The zero
// value is empty.
type LeftOut struct {
	kept []resolver.LeftOut
	more int
}

// Add notes one, whose words may be a registry's own.
func (l *LeftOut) Add(one resolver.LeftOut) {
	if len(l.kept) == resolver.MaxLeftOut {
		l.more++
		return
	}
	l.kept = append(l.kept, resolver.LeftOut{
		Name: Word(one.Name), Addr: Word(one.Addr), Why: Plain(one.Why, 3*maxWord), Unhealthy: one.Unhealthy,
	})
}

// Answer is New with those who were left out, in an order of its own: what has not
// changed reads the same.
func (l *LeftOut) Answer(endpoints []resolver.Endpoint, notes ...string) resolver.Answer {
	if l.more > 0 {
		notes = append(slices.Clip(notes), fmt.Sprintf("%d more are left out", l.more))
	}
	a := New(endpoints, notes...)
	a.LeftOut = slices.SortedFunc(slices.Values(l.kept), CompareLeftOut)
	return a
}

// CompareLeftOut is a total order of left-out instances.
func CompareLeftOut(a, b resolver.LeftOut) int {
	return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Addr, b.Addr), cmp.Compare(a.Why, b.Why))
}

// Word is Plain for a name or an address.
func Word(text string) string { return Plain(text, maxWord) }

// Plain bounds what somebody else wrote, in bytes, and escapes what a terminal would
// take for more than text.
func Plain(text string, n int) string {
	text = Shorten(text, n)
	odd := func(r rune) bool { return !unicode.IsPrint(r) }
	if utf8.ValidString(text) && !strings.ContainsFunc(text, odd) {
		return text
	}
	quoted := strconv.Quote(text)
	return quoted[1 : len(quoted)-1]
}

// Shorten bounds what somebody else wrote, in bytes.
func Shorten(text string, n int) string {
	if len(text) <= n {
		return text
	}
	return strings.ToValidUTF8(text[:n], "") + "…"
}
