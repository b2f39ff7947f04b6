package sharedwatch

import (
	"fmt"
	"testing"
	"unique"
)

// Of each service the first instance is looked at before any second one.
func TestCandidatesInTurn(t *testing.T) {
	w := &sharedWatch{subscribers: map[string]map[*Subscription]struct{}{}}
	for _, ids := range [][]string{{"a1", "a2", "a3"}, {"b1"}, {"c1", "c2"}, nil} {
		var known []Instance
		for _, id := range ids {
			known = append(known, Instance{Node: unique.Make("n"), ID: id, Index: 3})
		}
		w.subscribers[fmt.Sprint(ids)] = map[*Subscription]struct{}{{instances: known}: {}, {instances: known}: {}}
	}
	var ranks string
	for _, c := range w.candidates() {
		ranks += c.ID[1:]
	}
	if ranks != "111223" {
		t.Errorf("in turn: %s; want the first of each, then the second, then the third", ranks)
	}
}
