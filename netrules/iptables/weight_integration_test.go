//go:build integration

package iptables

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/netlab"
	"github.com/ambassadord/ambassadord/netrules"
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

// TestProgramsAreEnded: one that does not come to an end is ended in its time; what it has
// started, and holds its output open, is not waited for.
func TestProgramsAreEnded(t *testing.T) {
	began := time.Now()
	_, err := run(t.Context(), "", "sh", "-c", "sleep 20; echo never")
	if took := time.Since(began); !errors.Is(err, context.DeadlineExceeded) || took < execTimeout || took > execTimeout+3*time.Second {
		t.Errorf("%v after %s; want it to be ended after %s", err, took, execTimeout)
	}
}

// TestLockWait: the legacy variant's programs are told to wait for the lock, and for less
// than they have in all.
func TestLockWait(t *testing.T) {
	r, err := New(t.Context(), Prefer(Legacy))
	if err != nil {
		t.Fatal(err)
	}
	if r.v4.wait != "5" || defaultLockWait >= execTimeout {
		t.Errorf("it waits %s s, of %s; want 5 s", r.v4.wait, execTimeout)
	}
}

// TestLegacyTableIsBounded: a table that is too large for us is not read, and the error
// says what to do; one that is as large as may be, is.
func TestLegacyTableIsBounded(t *testing.T) {
	r, err := New(t.Context(), Prefer(Legacy))
	if err != nil {
		t.Fatal(err)
	}
	const bytesOfOne = 440 // of a rule with a comment, as the kernel holds it
	for rules, fits := range map[int]bool{maxOutput/bytesOfOne - 100: true, maxOutput/bytesOfOne + 100: false} {
		lab := netlab.New(t)
		var b strings.Builder
		b.WriteString("*nat\n:MINE - [0:0]\n")
		for range rules {
			b.WriteString("-A MINE -m comment --comment x -j RETURN\n")
		}
		lab.Run(t, b.String()+"COMMIT\n", program(r, netrules.IPv4)+"-restore", "--noflush")
		_, err := r.Fingerprint(t.Context(), lab.NS(), netrules.IPv4)
		if (err == nil) != fits || !fits && (!strings.Contains(err.Error(), "bytes") || !strings.Contains(hint.Of(err), "who has put so many rules")) {
			t.Errorf("%d rules: %v, hint %q; want that they are read: %v", rules, err, hint.Of(err), fits)
		}
	}
}
