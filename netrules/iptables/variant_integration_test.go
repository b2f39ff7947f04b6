//go:build integration

package iptables

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ambassadord/ambassadord/internal/netlab"
	"github.com/ambassadord/ambassadord/netrules"
)

func TestDockersVariantIsSeen(t *testing.T) {
	const docker = "*nat\n:DOCKER - [0:0]\n-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\nCOMMIT\n"
	for _, tt := range []struct {
		name string
		make map[string]string // input by command
		want []Variant
	}{
		{"nothing", nil, nil},
		{"nft", map[string]string{"iptables-nft-restore": docker}, []Variant{NFT}},
		{"legacy", map[string]string{"iptables-legacy-restore": docker}, []Variant{Legacy}},
		{"both", map[string]string{"iptables-nft-restore": docker, "iptables-legacy-restore": docker}, []Variant{NFT, Legacy}},
		{"Docker's nftables backend", map[string]string{"nft -f -": "add table ip docker-bridges\nadd chain ip docker-bridges x\n"}, []Variant{NFT}},
		{"another chain", map[string]string{
			"iptables-nft-restore":    "*nat\n:DOCKER_OUTPUT - [0:0]\nCOMMIT\n*filter\n:DOCKER - [0:0]\nCOMMIT\n",
			"iptables-legacy-restore": "*nat\n-A OUTPUT -m comment --comment DOCKER -j ACCEPT\nCOMMIT\n",
		}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			lab := netlab.New(t)
			for command, input := range tt.make {
				if command == "nft -f -" {
					lab.Run(t, input, "nft", "-f", "-")
				} else {
					lab.Run(t, input, command)
				}
			}
			before := netlab.SaveWith(t, lab.NS(), "iptables-legacy-save") + lab.Run(t, "", "nft", "list", "ruleset")
			var got []Variant
			lab.Do(t, func() error { got = dockerHere(); return nil })
			if !slices.Equal(got, tt.want) {
				t.Errorf("%v, want %v", got, tt.want)
			}
			after := netlab.SaveWith(t, lab.NS(), "iptables-legacy-save") + lab.Run(t, "", "nft", "list", "ruleset")
			if after != before {
				t.Errorf("looking changed\n%s\nto\n%s", before, after)
			}
		})
	}
}

// Docker runs on the machines of these tests, with the plain names' variant.
func TestNewFollowsDocker(t *testing.T) {
	r, err := New(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	choice := r.Choice()
	if len(choice.Docker) != 1 || choice.Docker[0] != choice.Variant || choice.Variant != r.Variant() {
		t.Errorf("%+v", choice)
	}
	if err := choice.Mixed(); err != nil {
		t.Errorf("mixed: %v", err)
	}
}

// Our rules are never in both packet filters.
func TestTheOtherVariantIsCleared(t *testing.T) {
	eachVariant(t, func(t *testing.T, r *Rules) {
		other, err := New(t.Context(), Prefer(other(r.Variant())))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			lab := netlab.New(t)
			chains := func(of *Rules) []string {
				t.Helper()
				names, err := of.Chains(lab.NS(), f)
				if err != nil {
					t.Fatal(err)
				}
				return names
			}
			lab.Run(t, "*nat\n:MINE - [0:0]\n-A OUTPUT -j MINE\nCOMMIT\n", program(other, f)+"-restore")
			foreign := save(t, other, lab, f)
			mustApply(t, other, lab, redirect(f, 80))

			elsewhere, err := r.Elsewhere(lab.NS(), f)
			if err != nil || !slices.Equal(elsewhere, []string{"AMBASSADORD"}) || len(chains(r)) > 0 {
				t.Errorf("%s: elsewhere %v, %v, here %v", f, elsewhere, err, chains(r))
			}
			mustApply(t, r, lab, redirect(f, 6379))
			if len(chains(other)) > 0 || len(chains(r)) != 1 {
				t.Errorf("%s: applied: there %v, here %v", f, chains(other), chains(r))
			}
			if diff := cmp.Diff(foreign, save(t, other, lab, f)); diff != "" {
				t.Errorf("%s: what is not ours there: -before +after:\n%s", f, diff)
			}
			// Remove cleans both, whichever the daemon that died had.
			if removed := mustRemove(t, other, lab, f); !slices.Equal(removed.Chains, []string{"AMBASSADORD"}) {
				t.Errorf("%s: removed %v", f, removed.Chains)
			}
			if len(chains(r)) > 0 {
				t.Errorf("%s: left behind: %v", f, chains(r))
			}
		}
	})
}

func TestCounters(t *testing.T) {
	eachVariant(t, func(t *testing.T, r *Rules) {
		for _, f := range families {
			lab := netlab.New(t)
			if s, err := r.ReadCounters(t.Context(), lab.NS(), f); err != nil || s.Exists {
				t.Errorf("%s: no table: %+v, %v", f, s, err)
			}
			serve(t, lab, loopback(f, listenPort), "listener")
			mustApply(t, r, lab, redirect(f, 6379, 5432))
			for range 3 {
				greeted(t, lab, loopback(f, 6379))
			}
			s, err := r.ReadCounters(t.Context(), lab.NS(), f)
			if err != nil {
				t.Fatal(err)
			}
			matched := map[uint16]uint64{}
			for _, name := range s.Ours() {
				c, _ := s.Chain(name)
				for i, args := range c.Rules {
					if e := netrules.Explain(name, args); e.Kind == netrules.KindRedirect {
						matched[e.Port] = c.Counters[i].Packets // the first of each connection
						if bytes := c.Counters[i].Bytes; bytes < 40*matched[e.Port] {
							t.Errorf("%s: port %d: %d bytes", f, e.Port, bytes)
						}
					}
				}
			}
			if diff := cmp.Diff(map[uint16]uint64{6379: 3, 5432: 0}, matched); diff != "" {
				t.Errorf("%s: -want +got:\n%s", f, diff)
			}
			// But for the counters it is what Read returns.
			plain, err := r.Read(t.Context(), lab.NS(), f)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(stateText(plain), stateText(s)); diff != "" {
				t.Errorf("%s: -read +with counters:\n%s", f, diff)
			}
		}
	})
}
