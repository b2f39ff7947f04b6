package admin

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/status"
)

// acted is what was done.
type acted struct {
	level   atomic.Int64
	stopped atomic.Int64
	orders  []EndpointOrder
}

// withActions is configured with actions, and connections of the view that may be closed.
func withActions(t *testing.T) (Config, *acted) {
	c := configured(t)
	a := &acted{}
	v := full(t)
	c.Actions = &Actions{
		Decided: func() []DecidedEndpoint { return nil },
		Decide: func(o EndpointOrder) ([]DecidedEndpoint, error) {
			if o.Endpoint == "redis-2" {
				return nil, hint.Errorf("did you mean redis-1?", "no such endpoint")
			}
			a.orders = append(a.orders, o)
			return []DecidedEndpoint{{Address: "10.0.0.2:6379", DecidedView: status.DecidedView{State: "drained", Weight: &o.Weight}}}, nil
		},
		LogLevel: func(l slog.Level) { a.level.Store(int64(l)) }, Stop: func() { a.stopped.Add(1) },
		Close: func(match func(*status.ConnectionView) bool) (n int) {
			for i := range v.Connections {
				if match(&v.Connections[i]) {
					n++
				}
			}
			return n
		},
	}
	return c, a
}

func post(t *testing.T, client *http.Client, url, body string, header ...string) got {
	t.Helper()
	return send(t, client, http.MethodPost, url, strings.NewReader(body), append([]string{"Content-Type", "application/json"}, header...)...)
}

func TestActions(t *testing.T) {
	c, a := withActions(t)
	started(t, c)
	client := over(t, c.Path)
	source := full(t).Connections[0].Source
	for _, test := range []struct {
		path, body string
		code       int
		says       string
	}{
		{"/v1/endpoints", `{"endpoint":"redis-1","action":"drain"}`, 200, `{"endpoints":[{"address":"10.0.0.2:6379","state":"drained"`},
		{"/v1/endpoints", `{"endpoint":"10.0.0.2:6379","action":"eject","for":"10m"}`, 200, ""},
		{"/v1/endpoints", `{"endpoint":"10.0.0.2:6379","action":"weight","weight":0}`, 200, `"weight":0`},
		{"/v1/endpoints", `{"endpoint":"10.0.0.2:6379","action":"restore"}`, 200, ""},
		{"/v1/endpoints", `{"endpoint":"redis-2","action":"drain"}`, 422, "did you mean redis-1?"},
		{"/v1/endpoints", `{"endpoint":"redis-1","action":"drain","for":"10m"}`, 422, "for is of eject alone"},
		{"/v1/endpoints", `{"endpoint":"redis-1","action":"eject","for":"soon"}`, 422, "for is of eject alone"},
		{"/v1/endpoints", `{"endpoint":"redis-1","action":"stop"}`, 422, "action"},
		{"/v1/endpoints", `{"endpoint":"redis-1","action":"weight","weight":70000}`, 422, ""},
		{"/v1/endpoints", `{"endpoint":"redis-1","action":"drain","unknwon":true}`, 422, "unknwon"},
		{"/v1/endpoints", `{`, 400, ""},
		{"/v1/endpoints", ``, 400, ""},
		{"/v1/endpoints", `{"endpoint":"` + strings.Repeat("x", 300) + `","action":"drain"}`, 422, ""},
		{"/v1/connections/close", `{"client":"web"}`, 200, `{"closed":1}`},
		{"/v1/connections/close", `{"source":"` + source + `","client":"web"}`, 200, `{"closed":1}`},
		{"/v1/connections/close", `{"source":"192.0.2.1:1","client":"web"}`, 200, `{"closed":0}`},
		{"/v1/connections/close", `{"all":true}`, 200, `{"closed":1}`},
		{"/v1/connections/close", `{}`, 422, "is not said"},
		{"/v1/connections/close", `{"all":true,"client":"web"}`, 422, "twice"},
		{"/v1/loglevel", `{"level":"debug"}`, 200, "level debug"},
		{"/v1/loglevel", `{"level":"loud"}`, 422, ""},
		{"/v1/drain", `{}`, 200, "stops"},
	} {
		if answer := post(t, client, "http://localhost"+test.path, test.body); answer.code != test.code || !strings.Contains(answer.body, test.says) {
			t.Errorf("%s %s is answered with %d %s; want %d, %s", test.path, test.body, answer.code, answer.body, test.code, test.says)
		}
	}
	if slog.Level(a.level.Load()) != slog.LevelDebug || a.stopped.Load() != 1 {
		t.Errorf("the level is %d, and the daemon was stopped %d times", a.level.Load(), a.stopped.Load())
	}
	want := []EndpointOrder{
		{Endpoint: "redis-1", Action: "drain"}, {Endpoint: "10.0.0.2:6379", Action: "eject", For: 10 * time.Minute},
		{Endpoint: "10.0.0.2:6379", Action: "weight"}, {Endpoint: "10.0.0.2:6379", Action: "restore"},
	}
	if diff := cmp.Diff(want, a.orders); diff != "" {
		t.Errorf("the orders are (-want +got)\n%s", diff)
	}
	if answer := ask(t, client, http.MethodGet, "http://localhost/v1/endpoints"); answer.code != 200 || answer.body != "{\"endpoints\":[]}\n" {
		t.Errorf("the list is %+v", answer)
	}
}

// TestActionsAreRefused to pages, to bodies that are none, and to those who may only look.
func TestActionsAreRefused(t *testing.T) {
	c, a := withActions(t)
	c.TCP = &TCP{Address: "127.0.0.1:0", TokenFile: filepath.Join(t.TempDir(), "token")}
	if err := os.WriteFile(c.TCP.TokenFile, []byte("0123456789abcdef\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.TCP.Address = free(t)
	started(t, c)
	client := over(t, c.Path)
	byTCP := &http.Client{Transport: new(http.Transport), Timeout: 20 * time.Second}
	defer byTCP.CloseIdleConnections()
	const drain = "http://localhost/v1/drain"
	for name, test := range map[string]struct {
		got  got
		code int
	}{
		"a page's":                {post(t, client, drain, `{}`, "Origin", "http://localhost"), http.StatusForbidden},
		"a form's":                {post(t, client, drain, `{}`, "Content-Type", "text/plain"), http.StatusUnsupportedMediaType},
		"one that is too long":    {post(t, client, drain, `{"x":"`+strings.Repeat("x", 5000)+`"}`), http.StatusMethodNotAllowed},
		"one to another route":    {post(t, client, "http://localhost/v1/status", `{}`), http.StatusMethodNotAllowed},
		"one by GET":              {ask(t, client, http.MethodGet, drain), http.StatusNotFound},
		"one by DELETE":           {ask(t, client, http.MethodDelete, "http://localhost/v1/endpoints"), http.StatusMethodNotAllowed},
		"one by TCP, with token":  {post(t, byTCP, "http://"+c.TCP.Address+"/v1/drain", `{}`, "Authorization", "Bearer 0123456789abcdef"), http.StatusForbidden},
		"one by TCP, without one": {post(t, byTCP, "http://"+c.TCP.Address+"/v1/drain", `{}`), http.StatusForbidden},
	} {
		if test.got.code != test.code {
			t.Errorf("%s is answered with %d %s; want %d", name, test.got.code, test.got.body, test.code)
		}
	}
	if a.stopped.Load() != 0 {
		t.Error("the daemon was stopped")
	}
}

// free is an address at which nobody listens.
func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// TestActionsAreNotOfTheGroup: its members may look.
func TestActionsAreNotOfTheGroup(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to be another user")
	}
	c, a := withActions(t)
	c.Group = "65533"
	started(t, c)
	if err := os.Chmod(filepath.Dir(c.Path), 0o755); err != nil {
		t.Fatal(err)
	}
	program, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	for route, want := range map[string]string{"GET /v1/endpoints": "200", "POST /v1/drain": "403", "POST /v1/endpoints": "403"} {
		cmd := exec.Command("/proc/self/fd/3")
		cmd.ExtraFiles, cmd.Dir = []*os.File{program}, "/"
		cmd.Env = []string{asOtherUser + "=" + c.Path, asOtherUserAsk + "=" + route, "GORACE=atexit_sleep_ms=0"}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65533}}
		out, err := cmd.CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte("HTTP/1.1 "+want+" ")) {
			t.Errorf("%s by a user of the group: %s (%v); want %s", route, out, err, want)
		}
	}
	if a.stopped.Load() != 0 {
		t.Error("the daemon was stopped")
	}
}

// asOtherUserAsk has the test program ask what asOtherUser has it dial.
const asOtherUserAsk = "ADMIN_TEST_ASK"

func askAsOther(conn net.Conn, route string) {
	fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}", route)
	_, _ = io.Copy(os.Stdout, conn)
}

// Who asks without an end keeps no operator waiting, for actions or events.
func TestOperatorsHaveTurnsOfTheirOwn(t *testing.T) {
	handler := fairTurns(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusOK) }))
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ask := func(ctx context.Context, method, path string) int {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequestWithContext(ctx, method, path, nil))
		return w.Code
	}
	ours := context.WithValue(t.Context(), countedKey{}, &counted{Conn: conn})
	for _, path := range []string{"/v1/status", eventsPath} {
		var flood sync.WaitGroup
		var refused atomic.Int64
		for range 100 { // more than there are turns in heavyPatience
			flood.Go(func() {
				if ask(t.Context(), http.MethodGet, path) == http.StatusServiceUnavailable {
					refused.Add(1)
				}
			})
		}
		for refused.Load() == 0 {
			runtime.Gosched()
		}
		for _, wanted := range [][2]string{{http.MethodPost, "/v1/endpoints"}, {http.MethodGet, "/v1/status"}, {http.MethodGet, eventsPath}} {
			if code := ask(ours, wanted[0], wanted[1]); code != http.StatusOK {
				t.Errorf("while others ask for %s, an operator's %s is answered with %d", path, wanted, code)
			}
		}
		flood.Wait()
	}
}

// A container whose name is the beginning of another's ID, or begins with it, is closed alone.
func TestANameThatIsAnID(t *testing.T) {
	const id = "3fa2b1c4d5e6"
	for _, name := range []string{"3fa2", id + "x"} {
		all := []status.ConnectionView{{Client: name, ID: "0123456789ab"}, {Client: "victim", ID: id}}
		c := Config{View: func() status.View { return status.View{Connections: all} }, Actions: &Actions{Close: func(match func(*status.ConnectionView) bool) (n int) {
			for i := range all {
				if match(&all[i]) {
					n++
				}
			}
			return n
		}}}
		r := &routes{config: c, view: &sharedView{take: c.View}}
		for of, want := range map[string]int{name: 1, "3fa2b1": 1, "victim": 1} {
			order := &closing{}
			order.Body.Client = of
			answer, err := r.closeConnections(t.Context(), order)
			if err != nil || answer.Body.Closed != want {
				t.Errorf("close --client %s: %v, %+v; want %d", of, err, answer, want)
			}
		}
	}
}
