package file

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/ambassadord/ambassadord/internal/hint"
)

func TestParse(t *testing.T) {
	const content = "# servers\r\n\n10.0.0.1:6379\r\n  [2001:db8::7]:6379\t3 # more\n#10.0.0.9:1\nRedis.example.com:6379 0\n10.0.0.1:6380"
	endpoints, err := parse("/x", content)
	var got []string
	for _, e := range endpoints {
		got = append(got, fmt.Sprintf("%s %d", e, e.Weight))
	}
	want := "10.0.0.1:6379 1, [2001:db8::7]:6379 3, redis.example.com:6379 0, 10.0.0.1:6380 1"
	if err != nil || strings.Join(got, ", ") != want {
		t.Errorf("parse = %v, %v; want %s", got, err, want)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, test := range []struct {
		content      string
		line, column int
		msg          string
	}{
		{"10.0.0.1", 1, 9, `"10.0.0.1" has no port`},
		{"10.0.0.1:1\n\n  10.0.0.2:x", 3, 12, `"x" is not a port`},
		{"redis:1 heavy", 1, 9, `"heavy" is not a weight from 0 to 65535`},
		{"redis:1 65536", 1, 9, `"65536" is not a weight`},
		{"redis:1 -1", 1, 9, `"-1" is not a weight`},
		{"redis:1  2 3", 1, 12, `"3" follows the weight`},
		{"a:1\nb:1\nA:1", 3, 1, "a:1 stands in line 1 too"},
		{"a:1,b:1", 1, 1, `"a:1,b" is neither a name nor an address`},
		{"\x00", 1, 2, "has no port"},
		{"\xef\xbb\xbf10.0.0.1:1", 1, 1, "cannot stand in a name"},
	} {
		_, err := parse("/etc/x.list", test.content)
		e, ok := errors.AsType[*LineError](err)
		if !ok || e.Line != test.line || e.Column != test.column || !strings.Contains(e.Msg, test.msg) {
			t.Errorf("parse(%q): %v; want line %d, column %d: %s", test.content, err, test.line, test.column, test.msg)
			continue
		}
		if hint.Of(err) == "" || !strings.HasPrefix(err.Error(), "/etc/x.list, line ") {
			t.Errorf("parse(%q): %v (hint %q)", test.content, err, hint.Of(err))
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"10.0.0.1:80\n", "a:1 3 # c\r\n[::1]:2", "a:1\na:1", "a", " \t:1 ", "a:1 99999999999999999999", "#", "a:1 0 0"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, content string) {
		endpoints, err := parse("/x", content)
		if err == nil {
			for _, e := range endpoints {
				if !e.Addr.IsValid() && (e.Host == "" || e.Port == 0) {
					t.Errorf("%q: endpoint %+v is nowhere", content, e)
				}
			}
			return
		}
		e, ok := errors.AsType[*LineError](err)
		if !ok || hint.Of(err) == "" {
			t.Fatalf("%q: %v is no LineError with a hint", content, err)
		}
		all := strings.SplitAfter(content, "\n")
		if e.Line < 1 || e.Line > len(all) || e.Column < 1 || e.Column > len(all[e.Line-1])+1 {
			t.Errorf("%q: line %d, column %d lies outside of it", content, e.Line, e.Column)
		}
	})
}
