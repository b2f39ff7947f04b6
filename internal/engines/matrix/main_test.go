package main

import (
	"slices"
	"testing"
)

// Every package is in one of both parts, and what shares the machine's engine in the one where
// nothing runs beside it.
func TestWholeParts(t *testing.T) {
	parts, err := wholeParts(t.Context(), "../../..")
	if err != nil {
		t.Fatal(err)
	}
	if len(parts) != 2 {
		t.Fatalf("%d parts; want two", len(parts))
	}
	together, apart := parts[0].args, parts[1].args
	for pkg, in := range map[string][]string{"e2e": together, "netrules/iptables": together, "internal/dockerd": together, "proxy": apart, "resolver/etcd": apart} {
		for _, args := range [][]string{together, apart} {
			if slices.Contains(args, module+"/"+pkg) != (&args[0] == &in[0]) {
				t.Errorf("%s is in another part than it should be, or in both", pkg)
			}
		}
	}
	if at := slices.Index(together, "-p"); at < 0 || together[at+1] != "1" {
		t.Errorf("%v runs packages beside each other", together[:at])
	}
}
