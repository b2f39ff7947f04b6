package shorten

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestText(t *testing.T) {
	for _, test := range []struct {
		text string
		most int
		want string
	}{
		{"", 0, ""},
		{"redis:6379", 10, "redis:6379"},
		{"redis:6379", 9, "redis:637… (10 bytes)"},
		{strings.Repeat("a", 65_000), 3, "aaa… (65,000 bytes)"},
		{strings.Repeat("a", 1_234_567), 1, "a… (1,234,567 bytes)"},
		{"héé", 2, "h… (5 bytes)"},
		{"héé", 3, "hé… (5 bytes)"},
		{"€€", 5, "€… (6 bytes)"},
		{"a\xff", 9, "a\uFFFD"},
		{"a\xffbc", 2, "a\uFFFD… (4 bytes)"},
		{"abc", -1, "… (3 bytes)"},
	} {
		if got := Text(test.text, test.most); got != test.want || !utf8.ValidString(got) {
			t.Errorf("Text(%.20q, %d) = %q; want %q", test.text, test.most, got, test.want)
		}
	}
}
