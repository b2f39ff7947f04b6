package netrules

import (
	"net/netip"
	"slices"
)

// Loopback is the address by which a client in a network namespace means itself, of one family.
func Loopback(f Family) netip.Addr {
	if f == IPv6 {
		return netip.IPv6Loopback()
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

// FamilyNames are families as the log names them.
func FamilyNames(families []Family) []string {
	names := make([]string, len(families))
	for i, f := range families {
		names[i] = f.String()
	}
	return names
}

// FamiliesIn are those that changes are about.
func FamiliesIn(changes []Change) []Family {
	var found []Family
	for _, f := range Families() {
		if slices.ContainsFunc(changes, func(c Change) bool { return c.Family == f }) {
			found = append(found, f)
		}
	}
	return found
}
