//go:build integration

package netns_test

import (
	"testing"

	"github.com/ambassadord/ambassadord/internal/netlab"
)

// TestLinks tells the interfaces of one namespace from another's, and a new one that is
// like one that has gone from that.
func TestLinks(t *testing.T) {
	lab, elsewhere := netlab.New(t), netlab.New(t)
	links, err := lab.NS().Links()
	if err != nil {
		t.Fatal(err)
	}
	defer links.Close()
	want := func(index int, want bool) {
		t.Helper()
		if got := links.Has(index); got != want {
			t.Errorf("there is an interface %d: %t, want %t", index, got, want)
		}
	}
	add := func(l *netlab.Lab, name, index string) {
		t.Helper()
		l.Run(t, "", "ip", "link", "add", name, "index", index, "type", "veth", "peer", "name", name+"-end")
	}
	want(1, true) // lo
	want(0, false)
	want(-1, false)
	want(7001, false)
	add(elsewhere, "veth0", "7001")
	want(7001, false)
	add(lab, "veth0", "7001")
	want(7001, true)
	lab.Run(t, "", "ip", "link", "del", "veth0")
	want(7001, false)
	add(lab, "veth0", "7002")
	want(7001, false)
	want(7002, true)
	if err := links.Close(); err != nil {
		t.Error(err)
	}
	want(7002, false)
}
