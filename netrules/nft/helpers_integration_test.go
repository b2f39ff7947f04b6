//go:build integration

package nft

import (
	"os/exec"
	"testing"

	"github.com/google/nftables"

	"github.com/ambassadord/ambassadord/internal/netlab"
	"github.com/ambassadord/ambassadord/netrules/owned"
)

// tryCommand runs a command of nft's in the calling thread's namespace.
func tryCommand(line string) error { return exec.Command("nft", line).Run() }

// own makes our table the property of this process's socket.
func own(t *testing.T, lab *netlab.Lab) {
	t.Helper()
	table, err := owned.Make(lab.NS(), nftables.TableFamilyIPv4, Table, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = table.Close() })
}
