package sharedwatch

import (
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
