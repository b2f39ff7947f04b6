package netrules_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/rulestest"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestGolden holds what is sent to the kernel where there is no nat table yet, and
// the chain as it reads back. What the kernel makes of it is for the golden files
// of package iptables.
func TestGolden(t *testing.T) {
	for _, c := range rulestest.Cases() {
		t.Run(c.Name, func(t *testing.T) {
			var b strings.Builder
			for _, chain := range c.Chains {
				fmt.Fprintf(&b, "# %s-restore --noflush, where there is no table\n", chain.Family.Command())
				nothing := netrules.State{Family: chain.Family, Table: chain.Table}
				b.WriteString(netrules.RestoreScript(chain.Table, netrules.Plan(chain, nothing)))
				fmt.Fprintf(&b, "# %s, as it reads back\n%s", chain.Family, chain)
			}
			path := filepath.Join("testdata", c.Name+".golden")
			if *update {
				if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), b.String()); diff != "" {
				t.Errorf("-golden +got:\n%s", diff)
			}
		})
	}
}

func TestRedirectLeavesItsArgumentAlone(t *testing.T) {
	ports := []netrules.Port{{Number: 2}, {Number: 1}, {Number: 2}}
	netrules.Redirect(netrules.IPv4, 15001, ports)
	if diff := cmp.Diff([]netrules.Port{{Number: 2}, {Number: 1}, {Number: 2}}, ports); diff != "" {
		t.Errorf("-before +after:\n%s", diff)
	}
}
