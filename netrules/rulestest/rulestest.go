// Package rulestest has the rule sets that tests go through: every mode, for each
// family and both, with each kind of declaration.
package rulestest

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/ambassadord/ambassadord/netrules"
)

// Case is a rule set: the chains that one network namespace is to hold.
type Case struct {
	Name   string // MODE-OPTION-FAMILY, fit for a file's name
	Chains []netrules.Chain
}

// Cases returns the matrix.
func Cases() []Case {
	many := make([]netrules.Port, 0, 40)
	for i := range 40 {
		many = append(many, netrules.Port{Number: uint16(9000 - i), Comment: fmt.Sprintf("web (3f2a5c0e9b1d) label connect.%d", 9000-i)})
	}
	modes := map[string]func(netrules.Family) netrules.Chain{
		"link-10000": func(f netrules.Family) netrules.Chain { return netrules.Link(f, 10000) },
		"host-10000": func(f netrules.Family) netrules.Chain {
			addr := netip.MustParseAddr("169.254.7.7")
			if f == netrules.IPv6 {
				addr = netip.MustParseAddr("fd00:7::7")
			}
			return netrules.Host(f, addr, 10000)
		},
	}
	for name, ports := range map[string][]netrules.Port{
		"none": nil,
		"one":  {{Number: 6379, Comment: "web (3f2a5c0e9b1d) label connect.6379"}},
		"many": many,
		"hostile": {
			{Number: 6379, Comment: "web (3f2a5c0e9b1d) label connect.6379"},
			{Number: 5432, Comment: `o'ne "two" \three` + "\n-A OUTPUT -j DROP"},
			{Number: 6379, Comment: "declared twice, the first counts"},
			{Number: 1, Comment: "--comment -j DROP"},
			{Number: 65535, Comment: strings.Repeat("é", 300)},
			{Number: 53, Comment: " \x00\u202e "},
			{Number: 80},
		},
	} {
		modes["redirect-"+name] = func(f netrules.Family) netrules.Chain { return netrules.Redirect(f, 15001, ports) }
	}
	var cases []Case
	for name, chain := range modes {
		v4, v6 := chain(netrules.IPv4), chain(netrules.IPv6)
		cases = append(cases,
			Case{name + "-ipv4", []netrules.Chain{v4}},
			Case{name + "-ipv6", []netrules.Chain{v6}},
			Case{name + "-both", []netrules.Chain{v4, v6}})
	}
	return cases
}
