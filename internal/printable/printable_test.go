package printable

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"
	"unicode"
)

func logged(value string) (line, back string, err error) {
	var out bytes.Buffer
	slog.New(slog.NewJSONHandler(Writer(&out), nil)).Info("declaration", "label", value)
	var parsed struct{ Label string }
	err = json.Unmarshal(out.Bytes(), &parsed)
	return out.String(), parsed.Label, err
}

func TestNothingUnseenIsWritten(t *testing.T) {
	for _, value := range []string{
		"redis:6379", "café:1 日本語 😀", "\u009b2J", "\u202eelpmaxe.com:1", "a\u200bb", "\u2066x\u2069", "\U000e0041tag", "\x1b[2J", "\u061c",
	} {
		line, back, err := logged(value)
		if err != nil || back != value {
			t.Errorf("%q came back as %q, %v", value, back, err)
		}
		if i := strings.IndexFunc(strings.TrimSuffix(line, "\n"), func(r rune) bool { return unicode.In(r, unicode.Cc, unicode.Cf) }); i >= 0 {
			t.Errorf("%q is written as %q", value, line)
		}
	}
	if line, _, _ := logged("café"); !strings.Contains(line, "café") {
		t.Errorf("a letter is written as %q", line)
	}
}

func TestPlainLinesCostNothing(t *testing.T) {
	line := []byte(strings.Repeat(`{"msg":"connection"}`, 15) + "\n")
	w := Writer(io.Discard)
	if n := testing.AllocsPerRun(100, func() { _, _ = w.Write(line) }); n != 0 {
		t.Errorf("%v allocations for a line, want none", n)
	}
}

func TestErrorsArePassedOn(t *testing.T) {
	broken := errors.New("broken")
	r, w := io.Pipe()
	r.CloseWithError(broken)
	for _, line := range []string{"plain", "\u202e"} {
		if n, err := Writer(w).Write([]byte(line)); n != 0 || !errors.Is(err, broken) {
			t.Errorf("Write(%q) = %d, %v; want 0 and the error", line, n, err)
		}
	}
}

func BenchmarkPlain(b *testing.B) {
	line := []byte(strings.Repeat(`{"msg":"connection"}`, 15) + "\n")
	w := Writer(io.Discard)
	for b.Loop() {
		_, _ = w.Write(line)
	}
}

// FuzzWriter: whatever is logged is one line of JSON that means the same.
func FuzzWriter(f *testing.F) {
	f.Add("a\u202eb")
	f.Add("\xff\u009b\x00")
	f.Fuzz(func(t *testing.T, value string) {
		line, back, err := logged(value)
		if want := string([]rune(value)); err != nil || back != want { // each byte that is no character is U+FFFD
			t.Fatalf("%q came back as %q, %v; want %q", value, back, err, want)
		}
		if strings.Count(line, "\n") != 1 || len(line) > 200+6*len(value) {
			t.Fatalf("%q is written as %q", value, line)
		}
	})
}

func TestText(t *testing.T) {
	for text, want := range map[string]string{
		"redis:6379":      "redis:6379",
		`café "日本語" 😀`:    `café "日本語" 😀`,
		"a\x1b[2J\u202eb": `a\x1b[2J\u202eb`,
		"\"\u009b\"\n":    `"\u009b"\n`,
	} {
		if got := Text(text); got != want {
			t.Errorf("Text(%q) = %s; want %s", text, got, want)
		}
	}
}
