package static_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/sourcetest"
	"github.com/ambassadord/ambassadord/resolver/static"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSource(t *testing.T) {
	for _, text := range []string{"192.168.1.100:8080", "[2001:db8::7]:8080"} {
		t.Run(text, func(t *testing.T) {
			q, err := resolver.ParseHostPort(text)
			if err != nil {
				t.Fatal(err)
			}
			sourcetest.Run(t, sourcetest.Case{
				New:   func(testing.TB) (resolver.Source, func()) { return static.Source{}, nil },
				Query: q,
				Want:  []string{text},
			})
		})
	}
}

func TestPublishesOnce(t *testing.T) {
	w := sourcetest.Watch(t, static.Source{}, resolver.Query{Scheme: "static", Host: "10.0.0.1", Port: 80})
	if a := w.Next(t); a.Note != "" || len(a.Endpoints) != 1 || a.Endpoints[0].Weight != 1 {
		t.Errorf("answer %+v, want one endpoint of weight 1", a)
	}
	w.Stop(t)
	w.Quiet(t)
}

func TestCheckRefuses(t *testing.T) {
	for what, q := range map[string]resolver.Query{
		"a name":     {Host: "redis.example.com", Port: 80},
		"no port":    {Host: "10.0.0.1"},
		"no address": {Port: 80},
		"parameters": {Host: "10.0.0.1", Port: 80, Params: "a=b"},
		"a path":     {Host: "10.0.0.1", Port: 80, Path: "x"},
	} {
		err := static.Source{}.Check(q)
		if err == nil {
			t.Errorf("%s: accepted", what)
		} else if hint.Of(err) == "" {
			t.Errorf("%s: %v has no hint", what, err)
		}
		if err := (static.Source{}).Watch(t.Context(), q, func(resolver.Answer) {}); err == nil {
			t.Errorf("%s: Watch accepted it", what)
		}
	}
}
