package netrules

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestExplainKnowsAllWeWrite: every rule that is planned has a reason to be there.
func TestExplainKnowsAllWeWrite(t *testing.T) {
	hostile := `-j "RETURN" --to-ports 1 ` + strings.Repeat("é", 200)
	for _, f := range []Family{IPv4, IPv6} {
		for _, c := range []Chain{
			Redirect(f, 61000, []Port{{6379, "web (3f2a) label connect.6379"}, {53, hostile}, {80, ""}}),
			Link(f, 10000),
			Host(f, hostAddr(f), 10000),
		} {
			for _, change := range Plan(c, State{Family: f, Table: c.Table}) {
				if change.Args == nil {
					continue
				}
				e := Explain(change.Chain, change.Args)
				if e.Kind == KindUnknown || e.Why == "" {
					t.Errorf("%s: %+v", change, e)
				}
			}
		}
	}
}

func hostAddr(f Family) netip.Addr {
	if f == IPv6 {
		return netip.MustParseAddr("fd00:7::7")
	}
	return netip.MustParseAddr("169.254.7.7")
}

func TestExplain(t *testing.T) {
	redis := Redirect(IPv6, 61000, []Port{{6379, "web (3f2a) label connect.6379"}}).Rules[0].Args()
	for _, tt := range []struct {
		chain string
		args  []string
		want  Explanation
	}{
		{"OUTPUT", Chain{Name: "AMBASSADORD"}.Jump().Args(), Explanation{Kind: KindJump}},
		{"AMBASSADORD", marker().Args(), Explanation{Kind: KindMarker}},
		{"AMBASSADORD", Redirect(IPv4, 1, nil).Rules[0].Args(), Explanation{Kind: KindDNS}},
		{"AMBASSADORD", redis, Explanation{Kind: KindRedirect, Port: 6379, Listen: 61000, Owner: "web (3f2a) label connect.6379"}},
		{"AMBASSADORD", Link(IPv6, 10000).Rules[0].Args(), Explanation{Kind: KindLink, Listen: 10000}},
		{"AMBASSADORD_HOST", Host(IPv6, hostAddr(IPv6), 10000).Rules[0].Args(), Explanation{Kind: KindHost, Listen: 10000}},

		{"OUTPUT", []string{"-j", "AMBASSADORD"}, Explanation{Kind: KindUnknown}},
		{"AMBASSADORD", []string{"-j", "DROP"}, Explanation{Kind: KindUnknown}},
		{"AMBASSADORD", append(redis[:len(redis):len(redis)], "--random"), Explanation{Kind: KindUnknown, Listen: 61000}},
		{"AMBASSADORD", []string{"-m", "comment", "--comment", "--to-ports", "7", "-j", "AMBASSADORD"}, Explanation{Kind: KindUnknown}},
	} {
		got := Explain(tt.chain, tt.args)
		if got.Why == "" {
			t.Errorf("%s %q: no reason", tt.chain, tt.args)
		}
		got.Why = ""
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s %q: -want +got:\n%s", tt.chain, tt.args, diff)
		}
	}
}

// TestExplainOlderRules: a rule of an older version, which did not ask for SYN, is told from
// others', and where it leads is known: a living daemon's must not be taken for nobody's.
func TestExplainOlderRules(t *testing.T) {
	for _, tt := range []struct {
		rule string
		want Explanation
	}{
		{`-d 127.0.0.0/8 -p tcp -m tcp --dport 6379 -m comment --comment "ambassadord: web (3f2a) label connect.6379" -j REDIRECT --to-ports 61000`,
			Explanation{Kind: KindRedirect, Port: 6379, Listen: 61000, Owner: "web (3f2a) label connect.6379"}},
		{`-d ::1/128 -p tcp -m tcp --dport 80 -m comment --comment "ambassadord: comment" -j REDIRECT --to-ports 61001`,
			Explanation{Kind: KindRedirect, Port: 80, Listen: 61001, Owner: "comment"}},
		{`! -i lo -p tcp -m addrtype --dst-type LOCAL -m tcp ! --dport 10000 -m comment --comment "ambassadord: any port of ours to the link listener" -j REDIRECT --to-ports 10000`,
			Explanation{Kind: KindLink, Listen: 10000}},
		{`-d 10.0.0.0/8 -p tcp -m tcp --dport 80 -m comment --comment "ambassadord: web" -j REDIRECT --to-ports 61001`,
			Explanation{Kind: KindUnknown, Listen: 61001}},
	} {
		got := Explain("AMBASSADORD", splitArgs(tt.rule))
		if older := strings.Contains(got.Why, "an older version"); older != (tt.want.Kind != KindUnknown) {
			t.Errorf("%s: %q", tt.rule, got.Why)
		}
		got.Why = ""
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s: -want +got:\n%s", tt.rule, diff)
		}
	}
}
