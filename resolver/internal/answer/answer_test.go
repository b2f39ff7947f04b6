package answer

import (
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/ambassadord/ambassadord/resolver"
)

func endpoint(addr string) resolver.Endpoint {
	return resolver.Endpoint{Addr: netip.MustParseAddrPort(addr), Weight: 1}
}

func leaving(a resolver.Answer, name string) resolver.Answer {
	a.LeftOut = []resolver.LeftOut{{Name: name, Why: "is away"}}
	return a
}

func TestOnChangePublishesWhatIsNew(t *testing.T) {
	a, b := endpoint("10.0.0.1:80"), endpoint("10.0.0.2:80")
	heavier := b
	heavier.Weight = 5

	var got []resolver.Answer
	publish := OnChange(func(a resolver.Answer) { got = append(got, a) })
	steps := []struct {
		what   string
		answer resolver.Answer
		want   bool
	}{
		{"first, empty", New(nil), true},
		{"empty again", New(nil), false},
		{"a note alone", New(nil, "gone"), true},
		{"two", New([]resolver.Endpoint{b, a}), true},
		{"the same two in another order", New([]resolver.Endpoint{a, b}), false},
		{"another weight", New([]resolver.Endpoint{a, heavier}), true},
		{"one twice is not two", New([]resolver.Endpoint{a, a}), true},
		{"one gone", New([]resolver.Endpoint{a}), true},
		{"another left out", leaving(New([]resolver.Endpoint{a}), "b"), true},
		{"the same left out", leaving(New([]resolver.Endpoint{a}), "b"), false},
		{"nobody", New(nil), true},
		{"a failure", resolver.Answer{Err: io.EOF}, true},
		{"another", resolver.Answer{Err: io.ErrUnexpectedEOF}, true},
		{"nobody, as before the failure", New(nil), true},
		{"nobody, still", New(nil), false},
	}
	for _, s := range steps {
		before := len(got)
		publish(s.answer)
		if published := len(got) > before; published != s.want {
			t.Errorf("%s: published = %v, want %v", s.what, published, s.want)
		}
	}
	if order := got[2].Endpoints; !slices.Equal(order, []resolver.Endpoint{b, a}) {
		t.Errorf("the source's own order was not kept: %v", order)
	}
}

func TestNewBoundsEndpoints(t *testing.T) {
	many := make([]resolver.Endpoint, MaxEndpoints+1)
	got := New(many, "", "2 left out")
	if len(got.Endpoints) != MaxEndpoints {
		t.Errorf("%d endpoints, want %d", len(got.Endpoints), MaxEndpoints)
	}
	if want := "2 left out; only the first 1000 of 1001"; !strings.HasPrefix(got.Note, want) {
		t.Errorf("note %q does not start with %q", got.Note, want)
	}
}
