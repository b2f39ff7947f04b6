package rulescmd

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ambassadord/ambassadord/netrules"
)

func TestExplainRules(t *testing.T) {
	const saved = `*nat
:OUTPUT ACCEPT [0:0]
:PREROUTING ACCEPT [0:0]
:AMBASSADORD - [0:0]
:AMBASSADORD_OLD - [0:0]
:MINE - [0:0]
[9:540] -A OUTPUT -m comment --comment ambassadord -j AMBASSADORD
[4:4] -A OUTPUT -j MINE
[2:120] -A AMBASSADORD -d 127.0.0.0/8 -p tcp -m tcp --dport 6379 --tcp-flags FIN,SYN,RST,ACK SYN -m comment --comment "ambassadord: web (3f2a) label connect.6379" -j REDIRECT --to-ports 61000
[1:1] -A AMBASSADORD -j DROP
[0:0] -A AMBASSADORD_OLD -d 127.0.0.0/8 -p tcp -m tcp --dport 80 -m comment --comment "ambassadord: old" -j REDIRECT --to-ports 9
COMMIT
`
	state, err := netrules.ParseState(netrules.IPv4, "nat", saved)
	if err != nil {
		t.Fatal(err)
	}
	type row struct {
		Chain, Client, ID, Declared string
		Kind                        netrules.Kind
		Packets                     uint64
	}
	var got []row
	for _, r := range explainRules(state) {
		got = append(got, row{r.Chain, r.Client, r.ID, r.Declared, r.Kind, r.Counters.Packets})
		if r.Text == "" || r.Why == "" {
			t.Errorf("%+v", r)
		}
	}
	want := []row{
		{"OUTPUT", "web", "3f2a", "", netrules.KindJump, 9},
		{"AMBASSADORD", "web", "3f2a", "label connect.6379", netrules.KindRedirect, 2},
		{"AMBASSADORD", "web", "3f2a", "", netrules.KindUnknown, 1},
		{"AMBASSADORD_OLD", "", "", "old", netrules.KindRedirect, 0},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}

	for _, tt := range []struct {
		listening map[uint16]bool
		want      []Orphan
	}{
		{map[uint16]bool{61000: true, 9: true}, []Orphan{{"AMBASSADORD_OLD", "nothing leads to it"}}},
		{nil, []Orphan{
			{"AMBASSADORD", "it leads to port 61000, where nobody listens"},
			{"AMBASSADORD_OLD", "it leads to port 9, where nobody listens"},
		}},
	} {
		if diff := cmp.Diff(tt.want, orphans(state, tt.listening)); diff != "" {
			t.Errorf("listening on %v: -want +got:\n%s", tt.listening, diff)
		}
	}
}

// TestSharedChainHasNoOwner: a chain of several containers is no single one's.
func TestSharedChainHasNoOwner(t *testing.T) {
	chain := netrules.Redirect(netrules.IPv4, 61000, []netrules.Port{
		{Number: 1, Comment: "web (3f2a) label connect.1"}, {Number: 2, Comment: "side (4e1b) label connect.2"},
	})
	nothing := netrules.State{Family: netrules.IPv4, Table: "nat", Exists: true}
	for _, r := range explainRules(nothing.After(netrules.Plan(chain, nothing))) {
		if (r.Client != "") != (r.Kind == netrules.KindRedirect) {
			t.Errorf("%s: %q", r.Text, r.Client)
		}
	}
}
