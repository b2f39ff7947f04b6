package consul

import (
	"slices"
	"strings"
	"testing"

	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/sourcetest"
)

// checkLeftOut compares who is left out of a, as "NAME (ADDRESS) WHY", and wants no
// note of them beside it.
func checkLeftOut(t testing.TB, a resolver.Answer, want ...string) {
	t.Helper()
	if got := sourcetest.LeftOut(a); !slices.Equal(got, want) {
		t.Errorf("left out:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if a.Note != "" {
		t.Errorf("note %q; want none", a.Note)
	}
}

func TestWhyFailing(t *testing.T) {
	for want, checks := range map[string][]*entryCheck{
		`is critical by its check "Redis answers"`:   {nil, {CheckID: "a", ServiceID: "r", Status: "warning"}, {CheckID: "b", Name: "Redis answers", ServiceID: "r", Status: "critical"}},
		`is critical by its node's check "disk"`:     {{CheckID: "disk", Status: "critical"}},
		`is warning by its check "a" and 2 more`:     {{CheckID: "a", ServiceID: "r", Status: "warning"}, {CheckID: "b", Status: "warning"}, {CheckID: "c", Status: "warning"}, {Status: "passing"}},
		`is in maintenance: "new \x1b[2Jdisk"`:       {{CheckID: "a", Status: "critical"}, {CheckID: "_service_maintenance:r", ServiceID: "r", Notes: "new \x1b[2Jdisk", Status: "critical"}},
		`is on a node in maintenance`:                {{CheckID: "_node_maintenance", Status: "critical"}},
		`is "sleepy" by its check "a"`:               {{CheckID: "a", ServiceID: "r", Status: "sleepy"}},
		`is critical by its node's check "aaa` + "…": {{Name: strings.Repeat("a", 1e6), Status: "critical"}},
	} {
		got := whyFailing(checks, statusOf(&serviceEntry{Checks: checks}))
		if strings.HasSuffix(want, "…") && len(got) < 300 && strings.HasPrefix(got, strings.TrimSuffix(want, "…")) {
			continue
		}
		if got != want {
			t.Errorf("%s; want %s", got, want)
		}
	}
}

// A hostile registry has as little room to say who is left out as anybody.
func TestLeftOutIsBounded(t *testing.T) {
	entries := make([]*serviceEntry, 3000)
	for i := range entries {
		entries[i] = &serviceEntry{
			Service: &entryService{ID: strings.Repeat("\x1b", 1e4)},
			Checks:  []*entryCheck{{Name: strings.Repeat("\x1b", 1e4), Status: "critical"}},
		}
	}
	a := service{name: "web"}.answer(entries, "", "")
	if len(a.LeftOut) != resolver.MaxLeftOut || a.Note != "2900 more are left out" {
		t.Errorf("%d left out, note %q", len(a.LeftOut), a.Note)
	}
	if text := a.LeftOut[0].String(); len(text) > 3000 || strings.Contains(text, "\x1b") {
		t.Errorf("%d bytes: %q", len(text), text)
	}
}
