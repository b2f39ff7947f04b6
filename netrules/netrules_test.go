package netrules

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestSafeComment(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                          "plain",
		"  spaces ":                      "spaces",
		"a\"b'c\\d`e":                    "a_b_c_d_e",
		"line\nbreak\ttab\x00nul\x7fdel": "line_break_tab_nul_del",
		"größe ✓":                        "größe ✓",
		"bad \xff utf8":                  "bad _ utf8",
		"right\u202eleft":                "right_left",
		"":                               "",
		strings.Repeat("x", 300):         strings.Repeat("x", 255),
		strings.Repeat("é", 200):         strings.Repeat("é", 127), // two bytes each: never half of one
	} {
		if got := SafeComment(in); got != want {
			t.Errorf("SafeComment(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzSafeComment(f *testing.F) {
	for _, s := range []string{"web", "a\nb", `"`, `\`, "\xff", strings.Repeat("é", 200), "--comment", "-j DROP"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		safe := SafeComment(s)
		if len(safe) > MaxComment || !utf8.ValidString(safe) || strings.ContainsAny(safe, "\n\r\x00\"'\\`") {
			t.Errorf("SafeComment(%q) = %q", s, safe)
		}
		if again := SafeComment(safe); again != safe {
			t.Errorf("SafeComment is not stable: %q, then %q", safe, again)
		}
		// Whatever the comment says, the rule reads back as one rule, the same one.
		rule := Rule{Spec: []string{"-p", "tcp", "-j", "RETURN"}, Comment: s}
		state, err := ParseState(IPv4, "nat", "-N C\n"+rule.Text("C")+"\n")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([][]string{rule.Args()}, state.Chains[0].Rules); diff != "" {
			t.Errorf("-rule +read back:\n%s", diff)
		}
	})
}

func FuzzParseState(f *testing.F) {
	f.Add(dockerRules)
	f.Add("-P OUTPUT ACCEPT\n-N AMBASSADORD\n-A OUTPUT -j AMBASSADORD\n-A AMBASSADORD -j AMBASSADORD\n")
	f.Add("-N A\n-A A -m comment --comment \"a\\\"b\nc\" -j A\n")
	f.Fuzz(func(t *testing.T, text string) {
		state, err := ParseState(IPv4, "nat", text)
		if err != nil {
			return
		}
		for _, c := range PlanRemove(state) {
			ours := strings.HasPrefix(c.Chain, ChainPrefix)
			jump := c.Op == Delete && strings.HasPrefix(Target(c.Args), ChainPrefix)
			if !ours && !jump {
				t.Errorf("removal touches what is not ours: %s", c)
			}
		}
		// What was read can be written and read again.
		var b strings.Builder
		for _, c := range state.Chains {
			if c.Policy == "" {
				b.WriteString(joinArgs([]string{"-N", c.Name}) + "\n")
			} else {
				b.WriteString(joinArgs([]string{"-P", c.Name, c.Policy}) + "\n")
			}
		}
		for _, c := range state.Chains {
			for _, args := range c.Rules {
				b.WriteString(joinArgs(append([]string{"-A", c.Name}, args...)) + "\n")
			}
		}
		again, err := ParseState(IPv4, "nat", b.String())
		if err != nil {
			t.Fatalf("%v in\n%s", err, b.String())
		}
		if !slices.EqualFunc(state.Chains, again.Chains, func(a, b ChainState) bool {
			return a.Name == b.Name && a.Policy == b.Policy && slices.EqualFunc(a.Rules, b.Rules, slices.Equal)
		}) {
			t.Error(cmp.Diff(state, again))
		}
	})
}
