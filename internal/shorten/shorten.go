// Package shorten makes what messages are made of: it cuts what strangers chose, a label, a target, a
// name, to a length that a message can carry, and says how many there are of something.
package shorten

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Text is s, if it is valid UTF-8 and not longer than most bytes. Else it is the valid part of its
// first most bytes, with a mark that says how long the whole is:
//
//	connect.6379=aaaaaaaa… (65,000 bytes)
//
// The mark comes on top of most. Bytes that are no UTF-8 become U+FFFD each.
func Text(s string, most int) string {
	if len(s) <= most {
		if utf8.ValidString(s) {
			return s
		}
		return strings.ToValidUTF8(s, "\uFFFD")
	}
	head := s[:max(0, most)]
	// Half a character at the cut is left out, and is no fault of who wrote it.
	for i := 1; i < utf8.UTFMax && i <= len(head); i++ {
		if c := head[len(head)-i]; utf8.RuneStart(c) {
			if !utf8.FullRuneInString(head[len(head)-i:]) {
				head = head[:len(head)-i]
			}
			break
		}
	}
	return fmt.Sprintf("%s… (%s bytes)", strings.ToValidUTF8(head, "\uFFFD"), grouped(len(s)))
}

// Count is how many there are of something, in words: "1 endpoint", "2 endpoints".
func Count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + many
}

// grouped is n with a comma before each three digits: 65,000.
func grouped(n int) string {
	digits := strconv.Itoa(n)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}
