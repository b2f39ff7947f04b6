package consul

import (
	"fmt"
	"maps"
	"slices"
	"testing"
)

func TestChangedChecks(t *testing.T) {
	web, redis := failingCheck{"n1", "c1", "web", 7}, failingCheck{"n1", "c2", "redis", 8}
	node := failingCheck{Node: "n1", CheckID: "serfHealth", ModifyIndex: 9}
	again := web
	again.ModifyIndex = 12
	for name, test := range map[string]struct {
		before, now failingChecks
		want        []string
	}{
		"nothing":           {failingChecks{web}, failingChecks{web}, nil},
		"one more":          {failingChecks{web}, failingChecks{redis, web}, []string{"redis"}},
		"one less":          {failingChecks{web, redis}, failingChecks{web}, []string{"redis"}},
		"another output":    {failingChecks{web}, failingChecks{again}, []string{"web"}},
		"a node's":          {nil, failingChecks{node}, nil},
		"both come and go":  {failingChecks{web, node}, failingChecks{redis}, []string{"redis", "web"}},
		"from the first on": {nil, failingChecks{web}, []string{"web"}},
	} {
		if got := slices.Sorted(maps.Keys(test.before.changed(test.now))); !slices.Equal(got, test.want) {
			t.Errorf("%s: %v; want %v", name, got, test.want)
		}
	}
}

// Of each service the first instance is looked at before any second one, and what an agent sends
// that is no instance is passed over.
func TestSuspectsInTurn(t *testing.T) {
	instance := func(id string) *serviceEntry {
		return &serviceEntry{Node: &entryNode{Node: "n"}, Service: &entryService{ID: id, ModifyIndex: 3}}
	}
	c := &crowd{members: map[string]map[*member]struct{}{}}
	for _, ids := range [][]string{{"a1", "a2", "a3"}, {"b1"}, {"c1", "c2"}, nil} {
		entries := []*serviceEntry{nil, {}, {Service: &entryService{ID: "no node", ModifyIndex: 1}}, {Node: &entryNode{}, Service: &entryService{ID: "no index"}}}
		for _, id := range ids {
			entries = append(entries, instance(id))
		}
		known := registrationsOf(entries)
		c.members[fmt.Sprint(ids)] = map[*member]struct{}{{instances: known}: {}, {instances: known}: {}}
	}
	var ranks string
	for _, s := range c.suspects() {
		ranks += s.id[1:]
	}
	if ranks != "111223" {
		t.Errorf("in turn: %s; want the first of each, then the second, then the third", ranks)
	}
}
