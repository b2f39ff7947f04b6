//go:build integration

package iptables

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/ambassadord/ambassadord/internal/netlab"
	"github.com/ambassadord/ambassadord/netrules"
)

// TestNoProgramWithoutATable: where there is no table no program is started to say so, and where
// there is one, though empty, it is read.
func TestNoProgramWithoutATable(t *testing.T) {
	rules, err := New(t.Context(), Prefer(NFT))
	if err != nil {
		t.Fatal(err)
	}
	lab := netlab.New(t)
	called := filepath.Join(t.TempDir(), "called")
	program := filepath.Join(t.TempDir(), "iptables")
	script := "#!/bin/sh\n: >" + called + "\nexec " + rules.v4.path + " \"$@\"\n"
	if err := os.WriteFile(program, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	rules.v4.path = program
	read := func() (netrules.State, bool) {
		t.Helper()
		_ = os.Remove(called)
		state, err := rules.Read(t.Context(), lab.NS(), netrules.IPv4)
		if err != nil {
			t.Fatal(err)
		}
		_, err = os.Stat(called)
		return state, err == nil
	}
	if state, started := read(); started || state.Exists || len(state.Chains) > 0 {
		t.Errorf("without a table: started %v, %+v", started, state)
	}
	lab.Run(t, "", "nft", "add table ip nat")
	if state, started := read(); !started || !state.Exists {
		t.Errorf("with a table: started %v, %+v", started, state)
	}
}
