package consul

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/sourcetest"
)

func preparedQuery(name, params string) resolver.Query {
	return resolver.Query{Scheme: SchemeQuery, Host: name, Params: params}
}

func TestPreparedQuery(t *testing.T) {
	agent := newFakeAgent(t, `{"Service":"web","Datacenter":"dc2","Failovers":1,"Nodes":`+
		list(instance("a", "10.0.0.1", "", 80, 3, "passing"), instance("b", "", "", 80, 1), instance("c", "10.0.0.3", "", 80, 7, "warning"))+`}`)
	client := newTestClient(t, Config{Address: agent.address})
	w := sourcetest.Watch(t, client.Queries(), preparedQuery("nearest", "near=_agent&dc=dc1"))
	got := w.Next(t)
	want := []resolver.Endpoint{
		{Addr: netip.MustParseAddrPort("10.0.0.1:80"), Name: "a", Weight: 3},
		{Addr: netip.MustParseAddrPort("10.0.0.3:80"), Name: "c", Weight: 1},
	}
	if !slices.Equal(got.Endpoints, want) {
		t.Errorf("endpoints %+v\nwant %+v", got.Endpoints, want)
	}
	if want := "they are in datacenter dc2, by the query's failover"; got.Note != want {
		t.Errorf("note %q, want %q", got.Note, want)
	}
	if left := sourcetest.LeftOut(got); !slices.Equal(left, []string{"b is registered without a usable address and port"}) {
		t.Errorf("left out %q", left)
	}
	w.Stop(t)
	r := agent.asked()[0]
	if values := r.URL.Query(); r.URL.Path != "/v1/query/nearest/execute" || values.Get("near") != "_agent" || values.Get("dc") != "dc1" || values.Has("index") {
		t.Errorf("request %s", r.URL)
	}
}

func TestPreparedQueryFindsNothing(t *testing.T) {
	agent := newFakeAgent(t, `{"Service":"web","Nodes":[]}`)
	client := newTestClient(t, Config{Address: agent.address})
	w := sourcetest.Watch(t, client.Queries(), preparedQuery("nearest", "dc=dc1"))
	if a := w.Next(t); a.Note != "prepared query nearest in datacenter dc1 finds no healthy instance of service web" {
		t.Errorf("note %q", a.Note)
	}
	w.Stop(t)
	agent.respond(http.StatusNotFound, 1, "Query not found")
	checkError(t, sourcetest.Watch(t, client.Queries(), preparedQuery("neerest", "")).Err(t), "check the name", "prepared query neerest", "Query not found")
	agent.respond(http.StatusOK, 1, "null")
	checkError(t, sourcetest.Watch(t, client.Queries(), preparedQuery("nearest", "")).Err(t), "HTTP port", "no result")
	for params, says := range map[string]string{"tag=a": `unknown parameter "tag"`, "near=": "near is empty"} {
		if err := client.Queries().Check(preparedQuery("nearest", params)); err == nil || hint.Of(err) == "" || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", params, err)
		}
	}
}
