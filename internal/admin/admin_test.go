package admin

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"go.uber.org/goleak"

	"github.com/ambassadord/ambassadord/internal/daemontest"
	"github.com/ambassadord/ambassadord/internal/events"
	"github.com/ambassadord/ambassadord/internal/status"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(asOtherUser); path != "" {
		os.Exit(dialAsOther(path))
	}
	goleak.VerifyTestMain(m)
}

// full is a view with a value in each field.
func full(t testing.TB) status.View {
	t.Helper()
	text, err := os.ReadFile("../status/testdata/snapshot.json")
	if err != nil {
		t.Fatal(err)
	}
	var v status.View
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// configured is a Config that serves full at a Unix socket of the test's own.
func configured(t *testing.T) Config {
	t.Helper()
	folder, err := os.MkdirTemp("/tmp", "admintest-") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	v := full(t)
	told := new(events.Log)
	slog.New(told.Handler(slog.NewTextHandler(io.Discard, nil), "")).Info("attached", "client", "web")
	return Config{
		Path: filepath.Join(folder, "admin.sock"), Program: "ambassadord v1", View: func() status.View { return v },
		NotReady: func() []Unready { return nil }, Events: told, Log: slog.New(slog.DiscardHandler),
	}
}

// started serves c until the test ends.
func started(t *testing.T, c Config) *Server {
	t.Helper()
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	s.Serve(nil)
	t.Cleanup(s.Close)
	return s
}

// over is a client by a Unix socket.
func over(t *testing.T, path string) *http.Client {
	t.Helper()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

// got is an answer.
type got struct {
	code int
	kind string
	body string
}

func ask(t *testing.T, c *http.Client, method, url string, header ...string) got {
	t.Helper()
	return send(t, c, method, url, nil, header...)
}

// send is ask with a body.
func send(t *testing.T, c *http.Client, method, url string, body io.Reader, header ...string) got {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		if header[i] == "Host" {
			r.Host = header[i+1]
		}
		r.Header.Set(header[i], header[i+1])
	}
	answer, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return got{answer.StatusCode, answer.Header.Get("Content-Type"), string(text)}
}

// TestAnswersAreWhatTheDocumentSays requests every route of the OpenAPI document from a real server, in
// each state, and holds the answer against the route's schema, of which it may have no field too many.
func TestAnswersAreWhatTheDocumentSays(t *testing.T) {
	c := configured(t)
	var missing atomic.Pointer[[]Unready]
	missing.Store(new([]Unready))
	c.NotReady = func() []Unready { return *missing.Load() }
	started(t, c)
	client := over(t, c.Path)
	_, api := newRoutes(c)
	served := ask(t, client, http.MethodGet, "http://localhost"+documentPath)
	document, err := json.Marshal(api.OpenAPI())
	if err != nil || served.body != string(document) || served.code != http.StatusOK {
		t.Fatalf("the document is served with %d, and is another than the API's: %v", served.code, err)
	}
	registry := api.OpenAPI().Components.Schemas
	for _, s := range registry.Map() {
		if s.AdditionalProperties == true {
			s.AdditionalProperties = false
		}
	}
	check := func(path, query string, code int) {
		t.Helper()
		answer := ask(t, client, http.MethodGet, "http://localhost"+path+query)
		if answer.code != code {
			t.Fatalf("%s%s is answered with %d %s; want %d", path, query, answer.code, answer.body, code)
		}
		responses := api.OpenAPI().Paths[path].Get.Responses
		response := responses[map[int]string{200: "200", 503: "503"}[code]]
		if response == nil {
			response = responses["default"]
		}
		kind, _, _ := strings.Cut(answer.kind, ";")
		content := response.Content[kind]
		if content == nil {
			t.Fatalf("%s%s: the document has no answer %d of %s", path, query, code, kind)
		}
		var value any
		if err := json.Unmarshal([]byte(answer.body), &value); err != nil {
			t.Fatal(err)
		}
		var result huma.ValidateResult
		huma.Validate(registry, content.Schema, huma.NewPathBuffer(nil, 0), huma.ModeReadFromServer, value, &result)
		for _, err := range result.Errors {
			t.Errorf("%s%s: %v", path, query, err)
		}
	}
	for path := range api.OpenAPI().Paths {
		check(path, "", http.StatusOK)
		check(path, "?nonsense=1", http.StatusUnprocessableEntity)
	}
	check("/v1/connections", "?limit=0", http.StatusUnprocessableEntity)
	check("/v1/events", "?since=1&client=web&level=info&limit=1", http.StatusOK)
	check("/v1/events", "?level=loud", http.StatusUnprocessableEntity)
	check("/v1/connections", "?port=65536", http.StatusUnprocessableEntity)
	missing.Store(&[]Unready{{What: "engine", Why: "it is away", Hint: "start it"}})
	check("/readyz", "", http.StatusServiceUnavailable)
	if n := len(api.OpenAPI().Paths); n != 8 {
		t.Errorf("the document has %d routes", n)
	}
}

// TestStatusIsTheView: nothing is lost on the way.
func TestStatusIsTheView(t *testing.T) {
	c := configured(t)
	started(t, c)
	answer := ask(t, over(t, c.Path), http.MethodGet, "http://localhost/v1/status")
	want, err := os.ReadFile("../status/testdata/snapshot.json")
	if err != nil {
		t.Fatal(err)
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, []byte(strings.TrimSpace(answer.body)), "", "  "); err != nil {
		t.Fatal(err)
	}
	if indented.String()+"\n" != string(want) {
		t.Errorf("%s\nwant\n%s", indented.String(), want)
	}
}

func TestBindingsAreOfAllContainers(t *testing.T) {
	c := configured(t)
	started(t, c)
	answer := ask(t, over(t, c.Path), http.MethodGet, "http://localhost/v1/bindings")
	if !strings.Contains(answer.body, `"client":"web","id":"0123456789ab","project":"shop","service":"web","port":6379,"target":"redis.example.com:6379"`) {
		t.Error(answer.body)
	}
}

func TestFilters(t *testing.T) {
	connection := status.ConnectionView{Client: "web", ID: "0123456789ab", Service: "shop", Port: 6379, Target: "redis:6379", Endpoint: "10.0.0.2:6379", EndpointName: "redis-1"}
	for _, test := range []struct {
		filter filter
		want   bool
	}{
		{filter{}, true},
		{filter{Client: "web"}, true},
		{filter{Client: "shop"}, true},
		{filter{Client: "0123"}, true},
		{filter{Client: "0123456789abcdef0123"}, true},
		{filter{Client: "012"}, false},
		{filter{Client: "we"}, false},
		{filter{Port: 6379, Target: "redis:6379"}, true},
		{filter{Port: 6380}, false},
		{filter{Target: "redis"}, false},
		{filter{Endpoint: "10.0.0.2"}, true},
		{filter{Endpoint: "::ffff:10.0.0.2"}, true},
		{filter{Endpoint: "10.0.0.2:6379"}, true},
		{filter{Endpoint: "redis-1"}, true},
		{filter{Endpoint: "10.0.0.20"}, false},
		{filter{Client: "web", Endpoint: "redis-2"}, false},
	} {
		if got := test.filter.matches(&connection); got != test.want {
			t.Errorf("%+v matches: %t; want %t", test.filter, got, test.want)
		}
	}
}

// TestConnectionsAreLimited: the oldest are listed, and all are counted.
func TestConnectionsAreLimited(t *testing.T) {
	v := status.View{}
	for i := range 5 {
		v.Connections = append(v.Connections, status.ConnectionView{Port: uint16(i), Accepted: time.Unix(int64(100-i), 0)})
	}
	c := configured(t)
	c.View = func() status.View { return v }
	started(t, c)
	answer := ask(t, over(t, c.Path), http.MethodGet, "http://localhost/v1/connections?limit=2")
	var all Connections
	if err := json.Unmarshal([]byte(answer.body), &all); err != nil {
		t.Fatal(err)
	}
	if all.Total != 5 || len(all.Connections) != 2 || all.Connections[0].Port != 4 || all.Connections[1].Port != 3 {
		t.Errorf("%+v", all)
	}
}

// TestASnapshotIsShared: however often it is asked for, one is taken in half a second.
func TestASnapshotIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		taken := 0
		s := &sharedView{take: func() status.View { taken++; return status.View{} }}
		for range 100 {
			s.load()
		}
		time.Sleep(fresh - time.Millisecond)
		s.load()
		synctest.Wait()
		if taken != 1 {
			t.Errorf("%d snapshots were taken; want one", taken)
		}
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		if s.view != nil {
			t.Error("it is held although nobody may have it any more")
		}
		s.load()
		if taken != 2 {
			t.Errorf("%d snapshots were taken; want another", taken)
		}
		s.forget()
		s.load()
		time.Sleep(fresh - time.Millisecond)
		s.load()
		if taken != 3 {
			t.Errorf("%d snapshots were taken; want another after an action, which holds as long", taken)
		}
		time.Sleep(time.Second)
	})
}

// TestSlowClientsKeepNobodyOut has 200 clients that never end their request, and others that do not read
// their answers: whoever asks is answered at once, before any of their times has run out, and as many as there may
// be are left.
func TestSlowClientsKeepNobodyOut(t *testing.T) {
	c := configured(t)
	started(t, c)
	const clients = 200
	began := time.Now()
	var slow []net.Conn
	for i := range clients {
		conn, err := net.Dial("unix", c.Path)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		slow = append(slow, conn)
		text := "GET /v1/status HTTP/1.1\r\nHost: localhost\r\nX: "
		if i%2 == 0 {
			text = "G"
		}
		if _, err := io.WriteString(conn, text); err != nil && i < mostConnections {
			t.Fatal(err)
		}
	}
	for range 20 {
		client := over(t, c.Path)
		if answer := ask(t, client, http.MethodGet, "http://localhost/v1/status"); answer.code != http.StatusOK {
			t.Fatalf("%+v", answer)
		}
	}
	for i, conn := range slow[:clients-mostConnections] {
		_ = conn.SetReadDeadline(began.Add(headerPatience))
		if _, err := conn.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("slow client %d of %d has not made room for the last %d", i, clients, mostConnections)
		}
	}
	if took := time.Since(began); took >= headerPatience {
		t.Errorf("it took %s: not before the others' time had run out", took)
	}
}

// TestAnswersThatNobodyReads: health is told beside as many clients that do not read as are answered at
// once, and they end.
func TestAnswersThatNobodyReads(t *testing.T) {
	v := status.View{Connections: make([]status.ConnectionView, 20_000)} // more than a socket's buffers hold
	c := configured(t)
	c.View = func() status.View { return v }
	started(t, c)
	var conns []net.Conn
	for range mostHeavy {
		conn, err := net.Dial("unix", c.Path)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "GET /v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n")
		if _, err := bufio.NewReaderSize(conn, 16).Peek(1); err != nil { // its turn has come
			t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	client := over(t, c.Path)
	if answer := ask(t, client, http.MethodGet, "http://localhost/readyz"); answer.code != http.StatusOK {
		t.Errorf("beside clients that do not read, readiness is answered with %+v", answer)
	}
	answer := ask(t, client, http.MethodGet, "http://localhost/v1/targets")
	if answer.code != http.StatusServiceUnavailable || !strings.Contains(answer.body, "too many requests") {
		t.Errorf("beside clients that do not read, targets are answered with %+v", answer)
	}
	for _, conn := range conns {
		conn.Close()
	}
	if answer := ask(t, client, http.MethodGet, "http://localhost/v1/targets"); answer.code != http.StatusOK {
		t.Errorf("after them, targets are answered with %d %.100s", answer.code, answer.body)
	}
}

// TestOneSocketsClientsDoNotKeepTheOthersWaiting: who has a token and reads nothing takes the turns of the
// clients that come by TCP, and no others.
func TestOneSocketsClientsDoNotKeepTheOthersWaiting(t *testing.T) {
	v := status.View{Connections: make([]status.ConnectionView, 100_000)} // more than a socket's buffers hold
	log := &daemontest.Log{}
	c := configured(t)
	c.View, c.Log = func() status.View { return v }, slog.New(slog.NewTextHandler(log, nil))
	c.TCP = &TCP{Address: "127.0.0.1:0", TokenFile: written(t, "token", goodToken, 0o600)}
	started(t, c)
	log.Wait(t, "address=")
	address := regexp.MustCompile(`address=(\S+)`).FindStringSubmatch(log.String())[1]
	for range mostHeavy {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "GET /v1/status HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer "+goodToken+"\r\n\r\n")
		if _, err := bufio.NewReaderSize(conn, 16).Peek(1); err != nil { // its turn has come
			t.Fatal(err)
		}
	}
	if answer := ask(t, over(t, c.Path), http.MethodGet, "http://localhost/v1/targets"); answer.code != http.StatusOK {
		t.Errorf("beside clients by TCP that do not read, targets are answered with %d %.100s by the Unix socket", answer.code, answer.body)
	}
}

// TestHeavyAnswersArePaced: however fast somebody asks, few answers are made of a snapshot in a second, and
// readiness is told to everybody.
func TestHeavyAnswersArePaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := Config{View: func() status.View { return status.View{} }, NotReady: func() []Unready { return nil }}
		routes, _ := newRoutes(c)
		handler := newTurns().of(routes)
		codes := map[string]int{}
		began := time.Now()
		for time.Since(began) < 10*time.Second {
			for _, path := range []string{"/readyz", "/v1/targets"} {
				w := httptest.NewRecorder()
				handler.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
				codes[fmt.Sprint(path, " ", w.Code)]++
			}
		}
		if n := codes["/v1/targets 200"]; n < 10*heavyPerSecond || n > 10*heavyPerSecond+heavyAtOnce+1 || len(codes) != 2 {
			t.Errorf("in ten seconds: %v; want about %d answers", codes, 10*heavyPerSecond)
		}
		time.Sleep(time.Minute) // the last snapshot is let go of
	})
}

// TestMetrics is answered by who makes them, as rarely as what is made of a snapshot.
func TestMetrics(t *testing.T) {
	c := configured(t)
	c.Metrics = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "up 1\n") })
	started(t, c)
	client := over(t, c.Path)
	if answer := ask(t, client, http.MethodGet, "http://localhost/metrics"); answer.code != http.StatusOK || answer.body != "up 1\n" {
		t.Errorf("answered with %d %q", answer.code, answer.body)
	}
	if answer := ask(t, client, http.MethodGet, "http://localhost/metrics", "Origin", "http://other"); answer.code != http.StatusForbidden {
		t.Errorf("a page of another origin is answered with %d", answer.code)
	}
	synctest.Test(t, func(t *testing.T) {
		routes, _ := newRoutes(c)
		handler := newTurns().of(routes)
		answered, began := 0, time.Now()
		for time.Since(began) < 10*time.Second {
			w := httptest.NewRecorder()
			if handler.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil)); w.Code == http.StatusOK {
				answered++
			}
		}
		if answered < 10*heavyPerSecond || answered > 10*heavyPerSecond+heavyAtOnce+1 {
			t.Errorf("%d answers in ten seconds; want about %d", answered, 10*heavyPerSecond)
		}
	})
}

// TestHugeRequests: neither a body nor a header is taken in whole.
func TestHugeRequests(t *testing.T) {
	c := configured(t)
	started(t, c)
	for name, text := range map[string]string{
		"413": "GET /v1/status HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n",
		"405": "POST /v1/status HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n",
		"431": "GET /v1/status HTTP/1.1\r\nHost: localhost\r\nX: " + strings.Repeat("x", 1<<20) + "\r\n\r\n",
		"400": "GET /v1/status HTTP/1.1\r\n\r\n",
		"404": "GET /v2/status HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"422": "GET /v1/connections?client=" + strings.Repeat("x", 4000) + " HTTP/1.1\r\nHost: localhost\r\n\r\n",
	} {
		conn, err := net.Dial("unix", c.Path)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		go func() { // the server may have had enough before the end
			_, _ = io.WriteString(conn, text)
			body := make([]byte, 64<<10)
			for range 16 << 4 { // 16 MiB
				if _, err := conn.Write(body); err != nil {
					return
				}
			}
		}()
		answer, err := bufio.NewReader(conn).ReadString('\n')
		if err != nil || !strings.HasPrefix(answer, "HTTP/1.1 "+name) {
			t.Errorf("answered %q (%v); want %s", answer, err, name)
		}
		conn.Close()
	}
	if answer := ask(t, over(t, c.Path), http.MethodGet, "http://localhost/healthz"); answer.code != http.StatusOK {
		t.Errorf("then healthz: %+v", answer)
	}
}

// TestTheDaemonGoesOnWithoutIt: what cannot be made is told, with what to do.
func TestTheDaemonGoesOnWithoutIt(t *testing.T) {
	c := configured(t)
	log := &daemontest.Log{}
	c.Log = slog.New(slog.NewTextHandler(log, nil))
	if err := os.WriteFile(c.Path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	started(t, c).Close()
	if text := log.String(); !strings.Contains(text, "is no socket") || !strings.Contains(text, "hint=") {
		t.Errorf("the log says %s", text)
	}
	if b, err := os.ReadFile(c.Path); err != nil || string(b) != "precious" {
		t.Errorf("%q, %v: what was there has not stayed", b, err)
	}
}

// TestNoServer: a daemon that serves none can do all with it.
func TestNoServer(t *testing.T) {
	s, err := New(Config{})
	if s != nil || err != nil {
		t.Fatalf("%v, %v", s, err)
	}
	s.Serve(nil)
	s.HandOver()
	s.Close()
}
