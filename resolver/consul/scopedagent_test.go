package consul

import "testing"

// What an agent sends that is no instance, or one that a transaction cannot ask for, is passed over.
func TestInstancesOfEntries(t *testing.T) {
	entries := []*serviceEntry{
		nil, {}, {Service: &entryService{ID: "no node", ModifyIndex: 1}}, {Node: &entryNode{}, Service: &entryService{ID: "no index"}},
		{Node: &entryNode{Node: "n"}, Service: &entryService{ID: "a1", ModifyIndex: 3}},
	}
	got := instancesOf(entries)
	if len(got) != 1 || got[0].Node.Value() != "n" || got[0].ID != "a1" || got[0].Index != 3 {
		t.Errorf("instances %+v; want a1 on n, registered at 3", got)
	}
}
