package dialfault

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestFaultsAreDocumented: docs/balancing.md lists every errno that a dial may fail with, and
// whose fault it is.
func TestFaultsAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../../../docs/balancing.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range faults {
		whose := "the endpoint's"
		if f.Own {
			whose = "this host's"
		}
		var names []string
		for _, errno := range f.errnos {
			names = append(names, unix.ErrnoName(errno))
		}
		if row := fmt.Sprintf("| `%s` | %s |", strings.Join(names, "`, `"), whose); !strings.Contains(string(text), row) {
			t.Errorf("docs/balancing.md has no row %s", row)
		}
	}
}
