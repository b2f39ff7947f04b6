package netrules

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func diffText(lines []DiffLine) string {
	var b strings.Builder
	for _, l := range lines {
		b.WriteString(string(l.Sign) + l.Text + "\n")
	}
	return b.String()
}

func TestDiff(t *testing.T) {
	desired := Redirect(IPv4, 15001, []Port{{6379, "web"}})
	lines := func(sign, text string) string {
		var b strings.Builder
		for line := range strings.Lines(text) {
			b.WriteString(sign + line)
		}
		return b.String()
	}
	const chain = "-N AMBASSADORD\n"
	for _, tt := range []struct{ name, current, want string }{
		{"nothing there", dockerRules, lines("+", chain+ourDNS+ourRedis+ourJump)},
		{"all there", dockerRules + chain + ourJump + ourDNS + ourRedis, lines(" ", chain+ourDNS+ourRedis+ourJump)},
		{"one rule differs", builtin + chain + ourJump + ourDNS + strings.Replace(ourRedis, "15001", "61000", 1),
			lines(" ", chain+ourDNS) + lines("-", strings.Replace(ourRedis, "15001", "61000", 1)) + lines("+", ourRedis) + lines(" ", ourJump)},
		{"hooked twice", builtin + chain + ourJump + ourJump + ourDNS + ourRedis,
			lines(" ", chain+ourDNS+ourRedis+ourJump) + lines("-", ourJump)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			current := parse(t, tt.current)
			got := diffText(Diff(current, Plan(desired, current)))
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
	missing := State{Family: IPv4, Table: "nat"}
	if diff := cmp.Diff(lines("+", chain+ourMark+ourDNS+ourRedis+ourJump), diffText(Diff(missing, Plan(desired, missing)))); diff != "" {
		t.Errorf("no table: -want +got:\n%s", diff)
	}
	current := parse(t, dockerRules+chain+ourJump+ourDNS)
	if diff := cmp.Diff(lines("-", chain+ourDNS+ourJump), diffText(Diff(current, PlanRemove(current)))); diff != "" {
		t.Errorf("removal: -want +got:\n%s", diff)
	}
}

// However many rules somebody put into our chain, a diff stays affordable.
func TestDiffIsBounded(t *testing.T) {
	var before []string
	for i := range 100_000 {
		before = append(before, fmt.Sprint(i))
	}
	after := before[:1000]
	if lines := DiffLines(before, after); len(lines) != len(before)+len(after) {
		t.Errorf("%d lines", len(lines))
	}
}

// TestAfter: the plan's changes lead to a state for which there is no plan left,
// and what is not ours is as it was.
func TestAfter(t *testing.T) {
	desired := Redirect(IPv4, 15001, []Port{{6379, "web"}, {5432, "web"}})
	for _, text := range []string{
		builtin, dockerRules,
		dockerRules + "-N AMBASSADORD\n" + ourJump + ourJump + ourRedis,
		dockerRules + "-N AMBASSADORD_OLD\n-A OUTPUT -j AMBASSADORD_OLD\n-A AMBASSADORD_OLD -j RETURN\n",
	} {
		before := parse(t, text)
		after := before.After(Plan(desired, before))
		if changes := Plan(desired, after); len(changes) > 0 {
			t.Errorf("after the plan's changes there is more to do: %v\n%s", changes, text)
		}
		removed := after.After(PlanRemove(after))
		if ours := removed.Ours(); len(ours) > 0 {
			t.Errorf("after the removal: %v", ours)
		}
		foreign := func(s State) (lines []string) {
			for _, c := range s.Chains {
				if c.ours() {
					continue
				}
				for _, args := range c.Rules {
					if !strings.HasPrefix(Target(args), ChainPrefix) {
						lines = append(lines, RuleText(c.Name, args))
					}
				}
			}
			return lines
		}
		if !slices.Equal(foreign(before), foreign(removed)) {
			t.Error(cmp.Diff(foreign(before), foreign(removed)))
		}
		if diff := cmp.Diff(parse(t, text).Chains, before.Chains); diff != "" {
			t.Errorf("After changed what it was called on:\n%s", diff)
		}
	}
}
