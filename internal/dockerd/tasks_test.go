package dockerd

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// TestTasksByTheEngine: a container is a task by the engine's word alone, which is asked for of
// those that have the labels.
func TestTasksByTheEngine(t *testing.T) {
	const label = `{"com.docker.swarm.service.name": "web"}`
	for name, test := range map[string]struct {
		labels, answer string
		status         int
		task, again    bool
	}{
		"a task":                  {label, `[{"Id": "c1"}]`, 200, true, false},
		"only its labels":         {label, `[]`, 200, false, false},
		"no labels":               {`{}`, `[{"Id": "c1"}]`, 200, false, false},
		"a proxy refuses":         {label, `{"message": "forbidden"}`, 403, false, false},
		"the engine fails":        {label, `{"message": "broken"}`, 500, false, true},
		"the answer is another's": {label, `[{"Id": "c2"}]`, 200, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := networksEngine(t, func(w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, "/c1/json") {
					fmt.Fprintf(w, `{"Id": "c1", "Name": "/web.1", "State": {"Running": true}, "Config": {"Labels": %s}, "HostConfig": {}, "NetworkSettings": {}}`, test.labels)
					return
				}
				if got := r.URL.Query().Get("filters"); got != `{"id":["c1"],"is-task":["true"]}` {
					t.Errorf("asked for %s", got)
				}
				w.WriteHeader(test.status)
				fmt.Fprint(w, test.answer)
			})
			c, err := e.inspect(t.Context(), "c1")
			if (err != nil) != test.again || err == nil && (c.Task != test.task || (c.Service() == "web") != test.task) {
				t.Errorf("%+v, %v; want a task: %t, an error: %t", c, err, test.task, test.again)
			}
		})
	}
}
