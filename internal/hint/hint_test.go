package hint

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
)

func TestHint(t *testing.T) {
	inner := Errorf("start the agent", "ask %s: %w", "consul", io.EOF)
	outer := fmt.Errorf("resolve redis: %w", inner)
	if got := outer.Error(); got != "resolve redis: ask consul: EOF" {
		t.Errorf("the text is %q; want it without the hint", got)
	}
	if got := Of(outer); got != "start the agent" {
		t.Errorf("Of = %q; want the hint through the wrapping", got)
	}
	if !errors.Is(outer, io.EOF) {
		t.Error("the cause is lost")
	}
	if got := Of(Wrap(outer, "look at the log")); got != "look at the log" {
		t.Errorf("Of = %q; want the outermost hint", got)
	}
	if Wrap(nil, "x") != nil || Wrap(io.EOF, "") != io.EOF { //nolint:errorlint // identity is what is tested
		t.Error("Wrap of nothing, or with nothing, must give its argument back")
	}
	if Of(io.EOF) != "" || Of(nil) != "" {
		t.Error("Of must be empty where there is no hint")
	}
}

// TestAttr: a line has the hint if there is one, and else nothing of it.
func TestAttr(t *testing.T) {
	for err, want := range map[error]string{
		io.EOF:                        "level=INFO msg=m error=EOF after=1\n",
		Wrap(io.EOF, "start the lot"): "level=INFO msg=m error=EOF hint=\"start the lot\" after=1\n",
	} {
		var text, json strings.Builder
		options := &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}}
		slog.New(slog.NewTextHandler(&text, options)).Info("m", "error", err, Attr(err), "after", 1)
		if text.String() != want {
			t.Errorf("%q; want %q", text.String(), want)
		}
		slog.New(slog.NewJSONHandler(&json, options)).With(Attr(err)).Info("m")
		if strings.Contains(json.String(), `"hint"`) != (Of(err) != "") || strings.Contains(json.String(), `""`) {
			t.Errorf("%s", json.String())
		}
	}
}

func TestJoin(t *testing.T) {
	a, b := Errorf("write x", "a is wrong"), errors.New("b is wrong")
	if Join() != nil || Join(nil, nil) != nil {
		t.Error("Join of nothing is something")
	}
	if err := Join(nil, a); err.Error() != "a is wrong" || Of(err) != "write x" {
		t.Errorf("Join of one = %q (%s); want it as it is", err, Of(err))
	}
	err := Join(a, nil, b)
	if err.Error() != "a is wrong (write x)\nb is wrong" || Of(err) != "mend each of these 2" || !errors.Is(err, b) {
		t.Errorf("Join of two = %q (%s); want each with its hint", err, Of(err))
	}
}
