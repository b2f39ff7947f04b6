//go:build integration

package iptables

import (
	"fmt"
	"strings"
	"testing"

	"github.com/ambassadord/ambassadord/internal/netlab"
)

// foreignRules is input for iptables-restore: so many rules, or chains.
func foreignRules(rules, chains int) string {
	var b strings.Builder
	b.WriteString("*nat\n:MINE - [0:0]\n")
	for i := range chains {
		fmt.Fprintf(&b, ":MINE%d - [0:0]\n", i)
	}
	for i := range rules {
		fmt.Fprintf(&b, "-A MINE -p tcp --dport %d -j RETURN\n", i+1)
	}
	return b.String() + "COMMIT\n"
}

func TestHeavy(t *testing.T) {
	eachVariant(t, func(t *testing.T, r *Rules) {
		for _, f := range families {
			for _, test := range []struct {
				rules, chains int
				want          bool
			}{{0, 0, false}, {100, 10, false}, {2 * manyRules, 0, true}, {0, 2 * manyRules, true}} {
				lab := netlab.New(t)
				mustApply(t, r, lab, redirect(f, 6379))
				lab.Run(t, foreignRules(test.rules, test.chains), program(r, f)+"-restore", "--noflush")
				if heavy, err := r.Heavy(lab.NS()); heavy != test.want || err != nil {
					t.Errorf("%s: %d rules, %d chains: %v, %v", f, test.rules, test.chains, heavy, err)
				}
			}
		}
	})
}

// To ask makes nothing, and where there is nothing that is not much.
func TestHeavyMakesNoTable(t *testing.T) {
	eachVariant(t, func(t *testing.T, r *Rules) {
		lab := netlab.New(t)
		if heavy, err := r.Heavy(lab.NS()); heavy || err != nil {
			t.Errorf("%v, %v", heavy, err)
		}
		for _, f := range families {
			if got := save(t, r, lab, f); got != "" && strings.Contains(got, "nat") {
				t.Errorf("%s: asking made\n%s", f, got)
			}
		}
	})
}

// What a program prints beyond the bound is not kept, and it is ended.
func TestOutputIsBounded(t *testing.T) {
	_, err := run(t.Context(), "", "yes", strings.Repeat("x", 1000))
	if err == nil || !strings.Contains(err.Error(), "printed more than") {
		t.Errorf("a program that prints for ever ended by %v", err)
	}
	if out, err := run(t.Context(), "", "echo", "few"); out != "few\n" || err != nil {
		t.Errorf("%q, %v", out, err)
	}
}
