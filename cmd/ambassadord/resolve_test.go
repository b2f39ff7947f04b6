package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/resolver"
)

// exampleStatus is a chain whose first choice fails and knows what was before, and
// leaves somebody out.
func exampleStatus(t *testing.T, now time.Time) resolver.Status {
	t.Helper()
	target, err := resolver.Parse("docker://web:80 | file:///etc/web.list")
	if err != nil {
		t.Fatal(err)
	}
	web := resolver.Endpoint{Addr: netip.MustParseAddrPort("172.17.0.2:80"), Name: "web", Weight: 1, Health: "healthy", Distance: resolver.SameHost}
	other := resolver.Endpoint{Addr: netip.MustParseAddrPort("10.0.0.9:80"), Weight: 3, Priority: 1}
	return resolver.Status{
		Target: target, Endpoints: []resolver.Endpoint{web}, Choice: 0,
		Queries: []resolver.QueryStatus{
			{
				Query: target.Choices[0].Queries[0], Choice: 0, Endpoints: []resolver.Endpoint{web},
				LeftOut:  []resolver.LeftOut{{Name: "web-2", Addr: "172.17.0.3:80", Why: "is paused"}, {Name: "web-3", Why: "is not running"}},
				Answered: now.Add(-90 * time.Second), Failing: now.Add(-30 * time.Second),
				Err: hint.Errorf("start it", "the engine is away"),
			},
			{
				Query: target.Choices[1].Queries[0], Choice: 1, Endpoints: []resolver.Endpoint{other},
				Notes: []string{"an old list"}, Answered: now.Add(-time.Hour),
			},
		},
	}
}

func TestPrintStatus(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	d := describe(exampleStatus(t, now), now)
	var text bytes.Buffer
	d.write(&text, true)
	want := strings.Join([]string{
		"172.17.0.2:80  priority=0  weight=1  age=1m30s  health=healthy  source=docker://web:80  web",
		"# left out: web-2 (172.17.0.3:80) is paused, by docker://web:80",
		"# left out: web-3 is not running, by docker://web:80",
		"# failing: docker://web:80 for 30s, its answer is 1m30s old: the engine is away",
		"# note: an old list, by file:///etc/web.list",
		"# not in use: file:///etc/web.list, endpoints: 1",
		"",
	}, "\n")
	if diff := cmp.Diff(want, text.String()); diff != "" {
		t.Errorf("text (-want +got):\n%s", diff)
	}
	encoded, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	const wantJSON = `{
  "target": "docker://web:80 | file:///etc/web.list",
  "time": "2026-01-02T03:04:05Z",
  "choice": 1,
  "endpoints": [
    {
      "address": "172.17.0.2:80",
      "name": "web",
      "priority": 0,
      "weight": 1,
      "health": "healthy",
      "distance": "host",
      "source": "docker://web:80",
      "age_seconds": 90
    }
  ],
  "left_out": [
    {
      "name": "web-2",
      "address": "172.17.0.3:80",
      "why": "is paused",
      "source": "docker://web:80"
    },
    {
      "name": "web-3",
      "why": "is not running",
      "source": "docker://web:80"
    }
  ],
  "sources": [
    {
      "source": "docker://web:80",
      "choice": 1,
      "state": "failing",
      "endpoints": 1,
      "age_seconds": 90,
      "failing_seconds": 30,
      "error": "the engine is away",
      "hint": "start it"
    },
    {
      "source": "file:///etc/web.list",
      "choice": 2,
      "state": "well",
      "endpoints": 1,
      "age_seconds": 3600,
      "notes": [
        "an old list"
      ]
    }
  ]
}`
	if diff := cmp.Diff(wantJSON, string(encoded)); diff != "" {
		t.Errorf("the JSON that programs rely on (-want +got):\n%s", diff)
	}
}

func TestPrintStatusOfNobody(t *testing.T) {
	now := time.Now()
	s := exampleStatus(t, now)
	s.Choice, s.Endpoints, s.Err = -1, nil, errors.New("nobody serves")
	s.Queries = s.Queries[:1]
	s.Queries[0] = resolver.QueryStatus{Query: s.Queries[0].Query}
	d := describe(s, now)
	if d.Choice != 0 || len(d.Endpoints) != 0 || d.Sources[0].State != "waiting" || d.Error != "nobody serves" {
		t.Errorf("%+v", d)
	}
	var text bytes.Buffer
	d.write(&text, true)
	if text.String() != "# nobody serves\n" {
		t.Errorf("printed %q", text.String())
	}
}

// TestTargetsPageNamesEveryField: of what resolve prints as JSON.
func TestTargetsPageNamesEveryField(t *testing.T) {
	text, err := os.ReadFile("../../docs/targets.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, printed := range []any{resolvedJSON{}, resolvedEndpoint{}, resolvedLeftOut{}, resolvedSource{}} {
		for _, field := range reflect.VisibleFields(reflect.TypeOf(printed)) {
			if name, _, _ := strings.Cut(field.Tag.Get("json"), ","); !strings.Contains(string(text), "`"+name+"`") {
				t.Errorf("docs/targets.md lacks %s of %T", name, printed)
			}
		}
	}
}
