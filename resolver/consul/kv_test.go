package consul

import (
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/hashicorp/consul/api"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/internal/answer"
	"github.com/ambassadord/ambassadord/resolver/sourcetest"
)

func pair(key, value string) string {
	return fmt.Sprintf(`{"Key":%q,"Value":%q}`, key, base64.StdEncoding.EncodeToString([]byte(value)))
}

func kvQuery(agent, path string) resolver.Query {
	q := resolver.Query{Scheme: SchemeKV, Path: path}
	if host, port, err := net.SplitHostPort(agent); err == nil {
		n, _ := strconv.ParseUint(port, 10, 16)
		q.Host, q.Port = host, uint16(n)
	}
	return q
}

func TestKVAnswer(t *testing.T) {
	const none = "Consul's KV store has no value at redis or below it"
	for name, tt := range map[string]struct {
		pairs [][2]string
		want  []string
		note  string
		left  []string
	}{
		"own value":          {pairs: [][2]string{{"redis", " a.test:1 , 10.0.0.1:2,\n[2001:db8::1]:3, "}}, want: []string{"10.0.0.1:2", "[2001:db8::1]:3", "a.test:1"}},
		"children first":     {pairs: [][2]string{{"redis", "a:1"}, {"redis/", ""}, {"redis/2", "c:3,d:4"}, {"redis/1/deep", "b:2"}}, want: []string{"b:2", "c:3", "d:4"}},
		"empty folder":       {pairs: [][2]string{{"redis", "a:1"}, {"redis/", ""}, {"redis/x", " "}}, want: []string{"a:1"}},
		"neighbours":         {pairs: [][2]string{{"redis2", "a:1"}, {"redis-b/x", "b:2"}}, note: none},
		"nothing":            {note: none},
		"empty":              {pairs: [][2]string{{"redis", ""}}, note: none},
		"twice":              {pairs: [][2]string{{"redis/1", "a:1"}, {"redis/2", "a:1,b:2,a:1"}}, want: []string{"a:1", "b:2"}},
		"one bad":            {pairs: [][2]string{{"redis/1", "a"}, {"redis/2", "b:2"}}, want: []string{"b:2"}, left: []string{`redis/1 lists "a" ("a" has no port)`}},
		"bad children stand": {pairs: [][2]string{{"redis", "a:1"}, {"redis/1", "x:0"}}, left: []string{`redis/1 lists "x:0" ("0" is not a port)`}},
		"many bad":           {pairs: [][2]string{{"redis", "a,b,c"}}, left: []string{`redis lists "a" ("a" has no port)`, `redis lists "b" ("b" has no port)`, `redis lists "c" ("c" has no port)`}},
	} {
		t.Run(name, func(t *testing.T) {
			pairs := api.KVPairs{nil}
			for _, p := range tt.pairs {
				pairs = append(pairs, &api.KVPair{Key: p[0], Value: []byte(p[1])})
			}
			got := kvAnswer(pairs, "redis", "")
			if !slices.Equal(sourcetest.Endpoints(got), tt.want) {
				t.Errorf("endpoints %v, want %v", got.Endpoints, tt.want)
			}
			if got.Note != tt.note {
				t.Errorf("note %q\nwant %q", got.Note, tt.note)
			}
			if left := sourcetest.LeftOut(got); !slices.Equal(left, tt.left) {
				t.Errorf("left out %q\nwant %q", left, tt.left)
			}
		})
	}
}

func TestKVIsBounded(t *testing.T) {
	var items []string
	for i := range answer.MaxEndpoints + 3 {
		items = append(items, fmt.Sprintf("h:%d", i+1))
	}
	got := kvAnswer(api.KVPairs{{Key: "k", Value: []byte(strings.Join(items, ","))}}, "k", "some hidden")
	if len(got.Endpoints) != answer.MaxEndpoints {
		t.Errorf("%d endpoints", len(got.Endpoints))
	}
	if want := "some hidden; only the first 1000 of 1003 endpoints are used"; got.Note != want {
		t.Errorf("note %q, want %q", got.Note, want)
	}
	hostile := kvAnswer(api.KVPairs{{Key: "k/" + strings.Repeat("\x1b", 1e6), Value: []byte(strings.Repeat("x", 1e6))}}, "k", "")
	if hostile.Note != "" || len(hostile.LeftOut) != 1 {
		t.Fatalf("answer %.2000v; want one left out", hostile)
	}
	if text := hostile.LeftOut[0].String(); len(text) > 2000 || strings.Contains(text, "\x1b") {
		t.Errorf("%d bytes of what is left out", len(text))
	}
}

func TestKVMissingKey(t *testing.T) {
	agent := newFakeAgent(t, "")
	agent.respond(http.StatusNotFound, 5, "")
	client := newTestClient(t, Config{Address: agent.address})
	w := sourcetest.Watch(t, client.KV(), kvQuery("", "redis"))
	if a := w.Next(t); len(a.Endpoints) != 0 || !strings.Contains(a.Note, "no value at redis") {
		t.Errorf("answer %+v", a)
	}
	agent.set(6, list(pair("redis", "a:1")))
	w.Await(t, "a:1")
	w.Stop(t)
}

// Whoever writes a target may name any agent; the configured token is not theirs.
func TestSecretsGoToTheConfiguredAgentAlone(t *testing.T) {
	t.Setenv("CONSUL_HTTP_TOKEN", "secret")
	t.Setenv("CONSUL_HTTP_AUTH", "user:password")
	body := list(pair("redis", "a:1"))
	configured, other := newFakeAgent(t, body), newFakeAgent(t, body)
	client := newTestClient(t, Config{Address: "http://" + configured.address})
	for _, q := range []resolver.Query{
		kvQuery("", "redis"),
		kvQuery(configured.address, "redis"),
		kvQuery(strings.Replace(configured.address, "127.0.0.1", "localhost", 1), "redis"),
		kvQuery(other.address, "redis"),
	} {
		w := sourcetest.Watch(t, client.KV(), q)
		w.Await(t, "a:1")
		w.Stop(t)
	}
	for _, r := range configured.asked() {
		if _, _, ok := r.BasicAuth(); !ok || r.Header.Get("X-Consul-Token") != "secret" {
			t.Error("the configured agent got no token")
		}
	}
	if len(other.asked()) == 0 {
		t.Error("the other agent was not asked")
	}
	for _, r := range other.asked() {
		if _, _, ok := r.BasicAuth(); ok || r.Header.Get("X-Consul-Token") != "" {
			t.Error("another agent got our secrets")
		}
	}
}

func TestRedirectIsNotFollowed(t *testing.T) {
	t.Setenv("CONSUL_HTTP_TOKEN", "secret")
	other := newFakeAgent(t, list(pair("redis", "a:1")))
	server := httptest.NewServer(http.RedirectHandler("http://"+other.address+"/v1/kv/redis?recurse=", http.StatusTemporaryRedirect))
	t.Cleanup(server.Close)
	client := newTestClient(t, Config{Address: server.URL})
	checkError(t, sourcetest.Watch(t, client.KV(), kvQuery("", "redis")).Err(t), "", "status 307")
	if n := len(other.asked()); n != 0 {
		t.Errorf("the token went along a redirect: %d requests", n)
	}
}

func TestKVCheck(t *testing.T) {
	source := New(Config{}).KV()
	for _, q := range []resolver.Query{kvQuery("10.0.0.1:8500", "a/b/"), kvQuery("", "a")} {
		if err := source.Check(q); err != nil {
			t.Errorf("%s: %v", q, err)
		}
	}
	for what, q := range map[string]resolver.Query{
		"no key":     kvQuery("10.0.0.1:8500", "/"),
		"parameters": {Host: "10.0.0.1", Port: 8500, Path: "a", Params: "recurse="},
	} {
		if err := source.Check(q); err == nil || hint.Of(err) == "" {
			t.Errorf("%s: error %v, hint %q", what, err, hint.Of(err))
		}
	}
}
