package consul

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"unique"

	"github.com/ambassadord/ambassadord/resolver/consul/sharedwatch"
)

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

// One transaction tells of several instances: their indexes, those that the token may not read left
// out, or which are gone.
func TestRegistered(t *testing.T) {
	var status int
	var body string
	var asked []txnOperation
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/txn" || r.URL.Query().Get("dc") != "dc2" || !r.URL.Query().Has("stale") {
			t.Errorf("asked %s", r.URL)
		}
		if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
			t.Error(err)
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}))
	t.Cleanup(server.Close)
	client := newTestClient(t, Config{Address: addressOf(server)})
	a, err := client.agent(client.configured[0], true)
	if err != nil {
		t.Fatal(err)
	}
	source := &scopedAgent{agent: a, scope: scope{dc: "dc2", consistency: "stale"}}
	var some []sharedwatch.Candidate
	for _, id := range []string{"a", "b", "c"} {
		some = append(some, sharedwatch.Candidate{Instance: sharedwatch.Instance{Node: unique.Make("n"), ID: id, Index: 3}})
	}
	for name, test := range map[string]struct {
		status int
		body   string
		now    []uint64
		gone   []int
		fails  bool
	}{
		"all":       {200, `{"Results":[{"Service":{"ID":"a","ModifyIndex":3}},{"Service":{"ID":"b","ModifyIndex":9}},{"Service":{"ID":"c","ModifyIndex":4}}]}`, []uint64{3, 9, 4}, nil, false},
		"some":      {200, `{"Results":[{"Service":{"ID":"a","ModifyIndex":3}},{"Service":{"ID":"c","ModifyIndex":4}}]}`, []uint64{3, 0, 4}, nil, false},
		"gone":      {409, `{"Errors":[{"OpIndex":1},{"OpIndex":-1},{"OpIndex":7},{}]}`, nil, []int{1}, false},
		"forged":    {200, `{"Results":[{"Service":{"ID":"x","ModifyIndex":3}}]}`, nil, nil, true},
		"conflict":  {409, `{"Errors":[]}`, nil, nil, true},
		"forbidden": {403, `Permission denied`, nil, nil, true},
	} {
		status, body = test.status, test.body
		now, gone, err := source.Registered(t.Context(), some)
		if (err != nil) != test.fails || !slices.Equal(now, test.now) || !slices.Equal(slices.Sorted(maps.Keys(gone)), test.gone) {
			t.Errorf("%s: %v, %v, %v", name, now, gone, err)
		}
		if len(asked) != 3 || asked[1].Service.Verb != "get" || asked[1].Service.Node != "n" || asked[1].Service.Service.ID != "b" {
			t.Errorf("%s: asked %+v", name, asked)
		}
	}
}
