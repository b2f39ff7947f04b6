package consul

import (
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/resolver/sourcetest"
)

// What a container asks of another datacenter, of which the agent's answers are slow to come, is
// no reason to call the agent silent, and keeps nobody else from hearing that the servers were
// restored. A restored backup there is no change to watches of here.
func TestAnotherDatacentersIndex(t *testing.T) {
	t.Parallel()
	agent := newFakeAgent(t, list(pair("k", "a:1")))
	var index, there, held atomic.Int64
	index.Store(20)
	there.Store(9) // less than what the watch waits for
	stop := make(chan struct{})
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/"+nowhere) {
			agent.ServeHTTP(w, r)
			return
		}
		at := &index
		switch dc := r.URL.Query().Get("dc"); {
		case strings.HasPrefix(dc, "slow"):
			held.Add(1)
			select {
			case <-stop:
			case <-r.Context().Done():
			}
			return
		case strings.HasPrefix(dc, "denied"):
			w.WriteHeader(http.StatusForbidden)
			return
		case dc == "restless":
			at = &there
			there.Add(-1) // restored from a backup all the time
		}
		w.Header().Set("X-Consul-Index", strconv.FormatInt(at.Load(), 10))
		_, _ = w.Write([]byte("[]"))
	}))
	t.Cleanup(func() { close(stop); front.CloseClientConnections(); front.Close() })
	client := newTestClient(t, Config{Address: addressOf(front), Heartbeat: time.Second})
	w := sourcetest.Watch(t, client.KV(), kvQuery("", "k"))
	w.Await(t, "a:1")
	for _, dc := range []string{"slow1", "slow2", "denied1", "denied2", "denied3", "denied4", "restless"} {
		q := kvQuery("", "k")
		q.Params = "dc=" + dc
		defer sourcetest.Watch(t, client.KV(), q).Stop(t)
	}
	eventually(t, "the others' indexes are asked for", func() bool { return held.Load() >= 2 && there.Load() < 9 })
	asked := func() (ours int) {
		for _, r := range agent.asked() {
			if r.URL.Query().Get("dc") == "" {
				ours++
			}
		}
		return ours
	}
	ours := asked()
	if ours > 2 { // the first question, and the one that waits
		t.Errorf("the watch has asked %d times for what happens to others", ours)
	}
	index.Store(3)
	began := time.Now()
	eventually(t, "the watch asks again", func() bool { return asked() > ours })
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("a restored backup was noticed after %v", took)
	}
	w.Quiet(t) // or the agent was called silent
	w.Stop(t)
}
