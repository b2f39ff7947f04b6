//go:build integration

package nft

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/ambassadord/ambassadord/internal/netlab"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/rulestest"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// script is what a namespace holds of ours as commands of nft, which makes the same of them.
func script(t *testing.T, lab *netlab.Lab) string {
	t.Helper()
	var b strings.Builder
	for _, f := range netrules.Families() {
		state := mustRead(t, lab, f)
		if len(state.Chains) == 0 {
			continue
		}
		fmt.Fprintf(&b, "add table %s %s\n", familyName(f), Table)
		for _, c := range state.Chains {
			if hook, ok := map[string]string{"OUTPUT": "output", "PREROUTING": "prerouting"}[c.Name]; ok {
				fmt.Fprintf(&b, "add chain %s %s %s { type nat hook %s priority -101; policy accept; }\n", familyName(f), Table, c.Name, hook)
			}
		}
		nothing := empty(f)
		for _, line := range netrules.Diff(nothing, changesTo(state)) {
			b.WriteString(line.Text + "\n")
		}
	}
	return b.String()
}

// changesTo lead from nothing to state.
func changesTo(state netrules.State) []netrules.Change {
	var changes []netrules.Change
	for _, c := range state.Chains {
		if c.Policy == "" {
			changes = append(changes, netrules.Change{Op: netrules.NewChain, Chain: c.Name})
		}
		for _, args := range c.Rules {
			changes = append(changes, netrules.Change{Op: netrules.Append, Chain: c.Name, Args: args})
		}
	}
	return changes
}

func mustRead(t *testing.T, lab *netlab.Lab, f netrules.Family) netrules.State {
	t.Helper()
	state, err := new(Rules).Read(t.Context(), lab.NS(), f)
	if err != nil {
		t.Fatal(err)
	}
	return state
}

func mustApply(t *testing.T, lab *netlab.Lab, chains ...netrules.Chain) []netrules.Change {
	t.Helper()
	changes, _, err := new(Rules).Apply(t.Context(), lab.NS(), chains...)
	if err != nil {
		t.Fatal(err)
	}
	return changes
}

func ruleset(t *testing.T, lab *netlab.Lab) string {
	t.Helper()
	return lab.Run(t, "", "nft", "list", "ruleset")
}

// sorted has the lines of a rule set in an order of its own: that of chains is the kernel's.
func sorted(ruleset string) []string {
	return slices.Sorted(strings.Lines(ruleset))
}

// TestGoldenInTheKernel applies every rule set of the matrix to a namespace: it is there as
// the golden file has it, nft makes the very same of that file, it reads back as it was
// planned, and once removed nothing is left.
func TestGoldenInTheKernel(t *testing.T) {
	for _, c := range rulestest.Cases() {
		t.Run(c.Name, func(t *testing.T) {
			lab, other := netlab.New(t), netlab.New(t)
			mustApply(t, lab, c.Chains...)
			got, path := script(t, lab), filepath.Join("testdata", c.Name+".golden")
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatalf("%v (go test -tags integration ./netrules/nft -update)", err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("-golden +got:\n%s", diff)
			}
			other.Run(t, got, "nft", "-f", "-")
			if diff := cmp.Diff(sorted(ruleset(t, lab)), sorted(ruleset(t, other))); diff != "" {
				t.Errorf("-ours +as nft makes it of what we print:\n%s", diff)
			}
			for _, chain := range c.Chains {
				for _, there := range []*netlab.Lab{lab, other} {
					if changes := netrules.Plan(chain, mustRead(t, there, chain.Family)); len(changes) > 0 {
						t.Errorf("applied, and yet to change: %v", changes)
					}
				}
			}
			if changes := mustApply(t, lab, c.Chains...); len(changes) > 0 {
				t.Errorf("applied twice: %v", changes)
			}
			removed, err := new(Rules).Remove(t.Context(), lab.NS())
			if err != nil {
				t.Fatal(err)
			}
			for _, chain := range c.Chains {
				if !slices.Equal(removed[chain.Family], []string{chain.Name}) {
					t.Errorf("removed of %s: %v", chain.Family, removed[chain.Family])
				}
			}
			if left := ruleset(t, lab); left != "" {
				t.Errorf("left behind:\n%s", left)
			}
		})
	}
}

// What nft prints of our rules it takes back, so that a host's rule set can be saved and
// loaded again.
func TestSavedRuleSetLoads(t *testing.T) {
	for _, c := range rulestest.Cases() {
		if !strings.HasSuffix(c.Name, "-both") {
			continue
		}
		lab := netlab.New(t)
		mustApply(t, lab, c.Chains...)
		before := ruleset(t, lab)
		lab.Run(t, "flush ruleset\n"+before, "nft", "-f", "-")
		for _, chain := range c.Chains {
			if changes := netrules.Plan(chain, mustRead(t, lab, chain.Family)); len(changes) > 0 {
				t.Errorf("%s: saved and loaded, and yet to change: %v", c.Name, changes)
			}
		}
	}
}

// No golden file outlives its case.
func TestNoGoldenFileIsLeft(t *testing.T) {
	var known []string
	for _, c := range rulestest.Cases() {
		known = append(known, c.Name+".golden")
	}
	files, err := os.ReadDir("testdata")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !slices.Contains(known, f.Name()) {
			t.Errorf("%s belongs to no case", f.Name())
		}
	}
}
