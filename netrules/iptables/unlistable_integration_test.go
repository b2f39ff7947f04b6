//go:build integration

package iptables

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/netlab"
	"github.com/ambassadord/ambassadord/netrules"
)

// pretending is the tool of r with a program in iptables' place: a shell script.
func pretending(t *testing.T, r *Rules, script string) *tool {
	t.Helper()
	path := filepath.Join(t.TempDir(), "iptables")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	tool := *r.v4
	tool.path = path
	return &tool
}

// TestOtherFailuresAreNotUnlisted: what keeps iptables from its work, and is no rule, is said as
// it is, and not gone around.
func TestOtherFailuresAreNotUnlisted(t *testing.T) {
	r := newNFT(t)
	lab := netlab.New(t)
	mustApply(t, r, lab, redirect(netrules.IPv4, 6379))
	for script, unlisted := range map[string]bool{
		"echo 'iptables v1.8.9 (nf_tables): table `nat'\\'' is incompatible, use '\\''nft'\\'' tool.' >&2; exit 1":             true,
		"echo 'iptables v1.8.9 (nf_tables): Could not fetch rule set generation id: Permission denied' >&2; exit 4":            false,
		"echo 'iptables v1.8.9 (nf_tables):  RULE_APPEND failed (Cannot allocate memory)' >&2; exit 4":                         false,
		"echo 'iptables: error while loading shared libraries: libxtables.so.12: cannot open shared object file'>&2; exit 127": false,
		"kill -9 $$": false,
	} {
		tool := pretending(t, r, script)
		state, err := within(lab.NS(), func() (netrules.State, error) { return tool.read(t.Context()) })
		if unlisted != (err == nil) || unlisted != errors.Is(state.Unlisted, ErrUnlisted) {
			t.Errorf("%s: %v, unlisted: %v; want that it is unlisted: %t", script, err, state.Unlisted, unlisted)
		}
	}
}

// TestGoingAroundHasADeadline of its own, however many chains of ours iptables hangs over.
func TestGoingAroundHasADeadline(t *testing.T) {
	r := newNFT(t)
	lab := netlab.New(t)
	mustApply(t, r, lab, redirect(netrules.IPv4, 6379))
	for i := range readOurs {
		lab.Run(t, "", "nft", "add", "chain", "ip", "nat", fmt.Sprintf("AMBASSADORD_%d", i))
	}
	tool := pretending(t, r, `[ "$4" = -w ] || exec sleep 100
echo "table is incompatible" >&2; exit 1`)
	tool.around = 300 * time.Millisecond
	began := time.Now()
	_, err := within(lab.NS(), func() (netrules.State, error) { return tool.read(t.Context()) })
	if took := time.Since(began); err == nil || !strings.Contains(err.Error(), "took more than 300ms") || took > 5*time.Second {
		t.Errorf("%v, after %s; want that it took too long, soon", err, took)
	}
}
