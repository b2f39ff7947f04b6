//go:build integration

package guard_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ambassadord/ambassadord/internal/netlab"
	"github.com/ambassadord/ambassadord/netrules/guard"
)

// What Install and Bind put into the kernel is what Wanted says, and Read reads.
func TestRead(t *testing.T) {
	lab := netlab.New(t)
	name := guard.TableName + "_test"
	ours := []netip.Addr{netip.MustParseAddr("fd00::1"), netip.MustParseAddr("10.0.0.1")}
	install := func(name string) *guard.Guard {
		t.Helper()
		g, err := guard.Install(lab.NS(), name, ours, nil)
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	stranger := install("somebodys")
	defer stranger.Close()
	g := install(name)
	bindings := []guard.Binding{
		{Port: 9, Addr: netip.MustParseAddr("fd00::9"), Owner: "web (3f2a5c0e9b1d)"},
		{Port: 300, Addr: netip.MustParseAddr("10.0.0.9"), Owner: "web (3f2a5c0e9b1d)"},
		{Port: 7, Addr: netip.MustParseAddr("10.0.0.7")},
		{Port: 300, Addr: netip.MustParseAddr("10.0.0.9"), Owner: "twice"},
	}
	if err := g.Bind(bindings); err != nil {
		t.Fatal(err)
	}
	read := func() []guard.State {
		t.Helper()
		states, err := guard.Read(lab.NS())
		if err != nil {
			t.Fatal(err)
		}
		return states
	}
	states := read()
	if len(states) != 1 {
		t.Fatalf("read %d tables, want ours alone: %v", len(states), states)
	}
	want := guard.Wanted(name, ours, bindings).Lines()
	if diff := cmp.Diff(want, states[0].Lines()); diff != "" {
		t.Errorf("wanted and read: -want +got:\n%s", diff)
	}
	if text := strings.Join(want, "\n"); !strings.Contains(text, "\nbound 10.0.0.9 to port 300: web (3f2a5c0e9b1d)\n") || strings.Count(text, "\ndrop ") != 9 {
		t.Errorf("the lines:\n%s", text)
	}

	// A name too long for a comment is cut, and no reason to fail.
	if err := g.Bind([]guard.Binding{{Port: 1, Addr: ours[1], Owner: strings.Repeat("n", 1000)}}); err != nil {
		t.Error(err)
	}
	if s := read(); len(s) != 1 || len(s[0].Bindings) != 1 || !strings.HasPrefix(s[0].Bindings[0].Owner, "nnn") {
		t.Errorf("bound under a long name: %v", s)
	}
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	if s := read(); len(s) > 0 {
		t.Errorf("read after the end: %v", s)
	}
}
