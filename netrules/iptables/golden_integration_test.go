//go:build integration

package iptables

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ambassadord/ambassadord/internal/netlab"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/rulestest"
)

var update = flag.Bool("update", false, "write the golden files and docs/rules.md anew")

// sameAsFile compares got with what a file holds, or with -update writes it.
func sameAsFile(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (go test -tags integration ./netrules/iptables -update)", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s: -file +got:\n%s", path, diff)
	}
}

// TestGoldenInTheKernel applies every rule set of the matrix to a namespace: it is
// there as the golden file has it, it reads back as it was planned, and once
// removed it is gone.
func TestGoldenInTheKernel(t *testing.T) {
	eachVariant(t, func(t *testing.T, r *Rules) {
		for _, c := range rulestest.Cases() {
			t.Run(c.Name, func(t *testing.T) {
				lab := netlab.New(t)
				all := func() string {
					return save(t, r, lab, netrules.IPv4) + "# IPv6\n" + save(t, r, lab, netrules.IPv6)
				}
				before := all()
				for _, chain := range c.Chains {
					mustApply(t, r, lab, chain)
				}
				sameAsFile(t, filepath.Join("testdata", string(r.Variant()), c.Name+".golden"), all())
				for _, chain := range c.Chains {
					state, err := r.Read(t.Context(), lab.NS(), chain.Family)
					if err != nil {
						t.Fatal(err)
					}
					if changes := netrules.Plan(chain, state); len(changes) > 0 {
						t.Errorf("applied, and yet to change: %v", changes)
					}
					nothing := netrules.State{Family: chain.Family, Table: chain.Table}
					if diff := cmp.Diff(ourText(nothing.After(netrules.Plan(chain, nothing))), ourText(state)); diff != "" {
						t.Errorf("%s: -planned +read back:\n%s", chain.Family, diff)
					}
					if removed := mustRemove(t, r, lab, chain.Family); !removed.MadeTable {
						t.Errorf("%s: the mark is missing", chain.Family)
					}
					mustDrop(t, r, lab, chain.Family)
				}
				if after := all(); after != before && r.Variant() == NFT || strings.Contains(after, "AMBASSADORD") {
					t.Errorf("left behind:\n%s", after)
				}
			})
		}
	})
}

// ourText is the chains of ours in a state.
func ourText(s netrules.State) string {
	var b strings.Builder
	for _, name := range s.Ours() {
		c, _ := s.Chain(name)
		for _, args := range c.Rules {
			b.WriteString(netrules.RuleText(name, args) + "\n")
		}
	}
	return b.String()
}

// No golden file outlives its case.
func TestNoGoldenFileIsLeft(t *testing.T) {
	var known []string
	for _, c := range rulestest.Cases() {
		known = append(known, c.Name+".golden")
	}
	for _, dir := range []string{"testdata/nf_tables", "testdata/legacy", "../testdata"} {
		files, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if !slices.Contains(known, f.Name()) && !f.IsDir() { // fuzzing keeps its finds in a folder
				t.Errorf("%s belongs to no case", filepath.Join(dir, f.Name()))
			}
		}
	}
}
