package kvlist

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/ambassadord/ambassadord/resolver/internal/answer"
	"github.com/ambassadord/ambassadord/resolver/sourcetest"
)

func TestRead(t *testing.T) {
	const none = "the store has no value at redis or below it"
	for name, tt := range map[string]struct {
		pairs []Pair
		want  []string
		note  string
		left  []string
	}{
		"own value":          {pairs: []Pair{{"redis", " a.test:1 , 10.0.0.1:2,\n[2001:db8::1]:3, "}}, want: []string{"10.0.0.1:2", "[2001:db8::1]:3", "a.test:1"}},
		"children first":     {pairs: []Pair{{"redis", "a:1"}, {"redis/", ""}, {"redis/2", "c:3,d:4"}, {"redis/1/deep", "b:2"}}, want: []string{"b:2", "c:3", "d:4"}},
		"empty folder":       {pairs: []Pair{{"redis", "a:1"}, {"redis/", ""}, {"redis/x", " "}}, want: []string{"a:1"}},
		"neighbours":         {pairs: []Pair{{"redis2", "a:1"}, {"redis-b/x", "b:2"}}, note: none},
		"nothing":            {note: none},
		"empty":              {pairs: []Pair{{"redis", ""}}, note: none},
		"twice":              {pairs: []Pair{{"redis/1", "a:1"}, {"redis/2", "a:1,b:2,a:1"}}, want: []string{"a:1", "b:2"}},
		"one bad":            {pairs: []Pair{{"redis/1", "a"}, {"redis/2", "b:2"}}, want: []string{"b:2"}, left: []string{`redis/1 lists "a" ("a" has no port)`}},
		"bad children stand": {pairs: []Pair{{"redis", "a:1"}, {"redis/1", "x:0"}}, left: []string{`redis/1 lists "x:0" ("0" is not a port)`}},
		"many bad":           {pairs: []Pair{{"redis", "a,b,c"}}, left: []string{`redis lists "a" ("a" has no port)`, `redis lists "b" ("b" has no port)`, `redis lists "c" ("c" has no port)`}},
		"odd key":            {pairs: []Pair{{"redis/\x1b[2J", "a"}}, left: []string{`redis/\x1b[2J lists "a" ("a" has no port)`}},

		// Registrator: prefix/service/id = ip:port, id being host:container:port.
		"Registrator's service": {
			pairs: []Pair{{"redis/h1:redis.1:6379", "10.0.0.1:31001"}, {"redis/h2:redis.1:6379", "10.0.0.2:31007"}},
			want:  []string{"10.0.0.1:31001", "10.0.0.2:31007"},
		},
		"Registrator's prefix": {
			pairs: []Pair{{"redis/b/h1:b:80", "10.0.0.1:1"}, {"redis/a/h1:a:80", "10.0.0.1:2"}, {"redis/a/h2:a:80", "10.0.0.2:2"}, {"redis/a-b/x", "10.0.0.9:2"}},
			note:  `redis holds the folders of 3 services: "a", "a-b", "b"; name one of them`,
		},
		"many services": {
			pairs: []Pair{{"redis/a/1", "a:1"}, {"redis/b/1", "a:1"}, {"redis/c/1", "a:1"}, {"redis/d/1", "a:1"}, {"redis/e/1", "a:1"}},
			note:  `redis holds the folders of 5 services: "a", "b", "c" and 2 more; name one of them`,
		},
		"one folder":           {pairs: []Pair{{"redis/a/1", "a:1"}, {"redis/a/2/3", "b:1"}}, want: []string{"a:1", "b:1"}},
		"services stay hidden": {pairs: []Pair{{"redis", "a:1"}, {"redis/a/1", "a:1"}, {"redis/b/1", "b:1"}}, note: `redis holds the folders of 2 services: "a", "b"; name one of them`},
	} {
		t.Run(name, func(t *testing.T) {
			got := Read("the store", "redis", tt.pairs)
			if !slices.Equal(sourcetest.Endpoints(got), tt.want) {
				t.Errorf("endpoints %v, want %v", got.Endpoints, tt.want)
			}
			if got.Note != tt.note {
				t.Errorf("note %q\nwant %q", got.Note, tt.note)
			}
			if left := sourcetest.LeftOut(got); !slices.Equal(left, tt.left) {
				t.Errorf("left out %q\nwant %q", left, tt.left)
			}
		})
	}
}

func TestReadWeights(t *testing.T) {
	got := Read("the store", "redis", []Pair{{"redis/1", "a:1 3, 10.0.0.1:2 , [::1]:3\t0"}, {"redis/2", "b:1 heavy,c:1 2 3"}})
	var weights []string
	for _, e := range got.Endpoints {
		weights = append(weights, fmt.Sprint(e, " ", e.Weight))
	}
	if want := "a:1 3, 10.0.0.1:2 1, [::1]:3 0"; strings.Join(weights, ", ") != want {
		t.Errorf("weights %q; want %s", weights, want)
	}
	left := []string{`redis/2 lists "b:1 heavy" ("heavy" is not a weight from 0 to 65535)`, `redis/2 lists "c:1 2 3" ("3" follows the weight)`}
	if got := sourcetest.LeftOut(got); !slices.Equal(got, left) {
		t.Errorf("left out %q\nwant %q", got, left)
	}
}

func TestReadIsBounded(t *testing.T) {
	var items []string
	for i := range answer.MaxEndpoints + 3 {
		items = append(items, fmt.Sprintf("h:%d", i+1))
	}
	got := Read("the store", "k", []Pair{{"k", strings.Join(items, ",")}}, "some hidden")
	if len(got.Endpoints) != answer.MaxEndpoints {
		t.Errorf("%d endpoints", len(got.Endpoints))
	}
	if want := "some hidden; only the first 1000 of 1003 endpoints are used"; got.Note != want {
		t.Errorf("note %q, want %q", got.Note, want)
	}
}

// maxNote is more than any note needs, and bounds what a hostile store can make the
// daemon log.
const maxNote = 4000

// Whatever a store holds: no crash, notes of bounded size that a terminal can show,
// and endpoints that can be dialled.
func FuzzRead(f *testing.F) {
	f.Add("redis", "redis", "10.0.0.1:6379, redis.example.com:6379", "redis/a", "[::1]:1")
	f.Add("redis", "redis/a/1", "a:1", "redis/b/1", "b:1")
	f.Add("redis", "redis/1", "a:1 3, b:1 65536", "redis/2", "c:1 2 3,\td:1\t0")
	f.Add("a/b", "a/b/\x1b[2J", "\xff\xfe:1", "a/b", ":::")
	f.Add("k", "k/"+strings.Repeat("\x1b", 5000), strings.Repeat("x", 5000), "k/b/c", strings.Repeat(",", 5000))
	f.Fuzz(func(t *testing.T, path, key1, value1, key2, value2 string) {
		got := Read("the store", path, []Pair{{key1, value1}, {key2, value2}})
		for _, l := range got.LeftOut {
			text := l.String()
			if len(text) > maxNote || strings.ContainsFunc(text, unicode.IsControl) || !utf8.ValidString(text) {
				t.Errorf("left out: %d bytes, %q", len(text), text)
			}
		}
		if len(got.Note) > maxNote+4*len(path) {
			t.Errorf("a note of %d bytes", len(got.Note))
		}
		if utf8.ValidString(path) && strings.ContainsFunc(strings.ReplaceAll(got.Note, path, ""), func(r rune) bool { return r < ' ' && r != '\n' }) {
			t.Errorf("a note with control characters: %q", got.Note)
		}
		for _, e := range got.Endpoints {
			if !e.Addr.IsValid() && e.Host == "" || e.Addr.IsValid() && e.Addr.Port() == 0 || !e.Addr.IsValid() && e.Port == 0 {
				t.Errorf("endpoint %+v", e)
			}
		}
	})
}
