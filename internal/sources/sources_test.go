package sources

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/resolver"
)

// TestMistakesOfSpelling: the hint of a target that is nearly right is the right one.
func TestMistakesOfSpelling(t *testing.T) {
	built, err := Build(config.Default(), "", nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(built.Close)
	for text, want := range map[string]string{
		"docker:redis:6379":                 "write docker://redis:6379",
		"Docker:/redis:6379":                "write docker://redis:6379",
		"10.0.0.1:80 | docker:redis:6379":   "write docker://redis:6379",
		"consul-service:redis":              "write consul-service://redis",
		"docker://app=redis:6379":           "write docker://?label=app=redis&port=6379",
		"tcp://redis:6379":                  "write redis:6379 alone",
		"tcp://[2001:db8::7]:6379":          "write [2001:db8::7]:6379 alone",
		"redis://redis:6379/0":              "write redis:6379 alone",
		"https://example.com":               "a target has no scheme for what is said over the connection: write HOST:PORT",
		"dcoker://redis:6379":               "did you mean docker://?",
		"nonsense:redis:6379":               "write HOST:PORT, for example redis.example.com:6379 or [2001:db8::7]:6379",
		"docker:redis":                      "a port is a number from 1 to 65535", // which a host named docker needs, too
		"consul-service:redis?colour=green": "a port is a number from 1 to 65535",
	} {
		if _, err := built.Resolver.Parse(text); err == nil || hint.Of(err) != want {
			t.Errorf("%s: %v, hint %q; want %q", text, err, hint.Of(err), want)
		}
	}
}

// scriptedSource publishes one answer, and fails.
type scriptedSource struct {
	resolver.Source
	answer resolver.Answer
	err    error
}

func (s scriptedSource) Watch(_ context.Context, _ resolver.Query, publish func(resolver.Answer)) error {
	publish(s.answer)
	return s.err
}

// TestAdviceComesWithFailures: advice takes the place of the source's hint where there is nobody.
func TestAdviceComesWithFailures(t *testing.T) {
	advised := func(s scriptedSource, advice string) (answer resolver.Answer, err error) {
		source := advisedSource{s, func(context.Context, resolver.Query) string { return advice }}
		err = source.Watch(t.Context(), resolver.Query{}, func(a resolver.Answer) { answer = a })
		return answer, err
	}
	failure := hint.Errorf("dig", "silent")
	for _, test := range []struct {
		name, advice, answer, err string
		source                    scriptedSource
	}{
		{"nobody", "do that", "do that", "", scriptedSource{answer: resolver.Answer{Hint: "this"}}},
		{"nobody, and no advice", "", "this", "", scriptedSource{answer: resolver.Answer{Hint: "this"}}},
		{"somebody", "do that", "", "", scriptedSource{answer: resolver.Answer{Endpoints: []resolver.Endpoint{{}}}}},
		{"a failure", "do that", "do that", "do that", scriptedSource{err: failure}},
		{"a failure, and no advice", "", "", "dig", scriptedSource{err: failure}},
	} {
		answer, err := advised(test.source, test.advice)
		if answer.Hint != test.answer || hint.Of(err) != test.err || !errors.Is(err, test.source.err) {
			t.Errorf("%s: hint %q, %v with %q; want %q and %q", test.name, answer.Hint, err, hint.Of(err), test.answer, test.err)
		}
	}
}
