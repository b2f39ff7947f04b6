package dockerd

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// patience is how long a test waits for what must happen. It is only spent by
// a test that fails.
const patience = 10 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeEngine answers the requests of the Docker API that a Watcher makes,
// and does wrong what a real engine cannot be asked to do wrong.
type fakeEngine struct {
	t      *testing.T
	path   string
	server *http.Server
	wg     sync.WaitGroup
	done   chan struct{} // closed by stop: hung handlers end

	mu          sync.Mutex
	changed     chan struct{} // closed and replaced at every change below
	containers  map[string]*fakeContainer
	streams     map[chan string]struct{}
	opened      int                 // event streams so far
	asked       map[string][]string // the filters of the last of them
	lists       int
	listed      int // lists answered
	inspects    map[string]int
	inspecting  int
	mostAtOnce  int
	dropStreams int                                              // this many streams are closed once opened
	onInspect   func(w http.ResponseWriter, id string) (ok bool) // ok: answer as usual
	onList      func(w http.ResponseWriter) (ok bool)
	root        string        // the engine's folder
	engineID    string        // the engine's ID
	identified  int           // times it was asked who it is
	manyIDs     bool          // it is another one each time, as Podman's
	version     string        // the answer to /version; none if empty
	noted       []string      // events that no stream tells of yet
	catchUps    int           // times these were asked for
	hang        chan struct{} // non-nil: every request waits for its closing
}

type fakeContainer struct {
	Name    string
	Running bool
	Health  string

	NetworkMode string

	StartedAt  time.Time
	StopSignal string
}

func newFakeEngine(t *testing.T) *fakeEngine {
	t.Helper()
	dir, err := os.MkdirTemp("", "dockerd") // t.TempDir is too long for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return &fakeEngine{
		t:          t,
		path:       filepath.Join(dir, "docker.sock"),
		changed:    make(chan struct{}),
		containers: make(map[string]*fakeContainer),
		streams:    make(map[chan string]struct{}),
		inspects:   make(map[string]int),
	}
}

func (f *fakeEngine) start() {
	f.t.Helper()
	l, err := net.Listen("unix", f.path)
	if err != nil {
		f.t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /containers/json", f.list)
	mux.HandleFunc("GET /containers/{id}/json", f.inspect)
	mux.HandleFunc("GET /events", f.events)
	mux.HandleFunc("GET /_ping", func(_ http.ResponseWriter, r *http.Request) { f.waitHang(r) })
	mux.HandleFunc("GET /info", func(w http.ResponseWriter, _ *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		id := f.engineID
		f.identified++
		close(f.changed)
		f.changed = make(chan struct{})
		if f.manyIDs {
			f.engineID += "'"
		}
		fmt.Fprintf(w, `{"DockerRootDir":%q, "ID":%q}`, f.root, id)
	})
	mux.HandleFunc("GET /version", func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.version == "" {
			http.NotFound(w, r)
			return
		}
		fmt.Fprint(w, f.version)
	})
	f.done = make(chan struct{})
	server := &http.Server{Handler: mux}
	f.server = server
	f.wg.Go(func() { _ = server.Serve(l) })
	f.t.Cleanup(f.stop)
}

// stop is the engine's sudden death.
func (f *fakeEngine) stop() {
	if f.server == nil {
		return
	}
	close(f.done)
	_ = f.server.Close()
	f.wg.Wait()
	f.server = nil
}

func (f *fakeEngine) set(id string, c fakeContainer) {
	f.update(func() { f.containers[id] = &c })
}

// update changes the fake under its lock and wakes those in until.
func (f *fakeEngine) update(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
	close(f.changed)
	f.changed = make(chan struct{})
}

// until waits for a condition on the fake's own state.
func (f *fakeEngine) until(what string, condition func() bool) {
	f.t.Helper()
	deadline := time.After(patience)
	for {
		f.mu.Lock()
		ok, changed := condition(), f.changed
		f.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			f.t.Fatalf("timed out waiting for the fake engine: %s", what)
		}
	}
}

// replaceBy has other listen at the fake's socket, which still answers on the connections that
// it has.
func (f *fakeEngine) replaceBy(other *fakeEngine) {
	f.t.Helper()
	if err := os.Rename(other.path, f.path); err != nil {
		f.t.Fatal(err)
	}
}

// closeStreams ends every event stream.
func (f *fakeEngine) closeStreams() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for s := range f.streams {
		close(s)
	}
	clear(f.streams)
}

// emit sends one container event to every stream.
func (f *fakeEngine) emit(action, id string) {
	f.emitRaw(fmt.Sprintf(`{"Type":"container","Action":%q,"Actor":{"ID":%q},"time":1}`, action, id))
}

// emitRaw sends event, on one line, as engines do.
func (f *fakeEngine) emitRaw(event string) {
	event = strings.ReplaceAll(event, "\n", " ")
	f.mu.Lock()
	defer f.mu.Unlock()
	for s := range f.streams {
		s <- event
	}
}

func (f *fakeEngine) waitHang(r *http.Request) {
	f.mu.Lock()
	hang := f.hang
	f.mu.Unlock()
	if hang != nil {
		f.block(r, hang)
	}
}

// block waits for release, unless the client or the server goes first.
func (f *fakeEngine) block(r *http.Request, release <-chan struct{}) {
	select {
	case <-release:
	case <-f.done:
	case <-r.Context().Done():
	}
}

func (f *fakeEngine) list(w http.ResponseWriter, r *http.Request) {
	f.waitHang(r)
	if r.URL.Query().Has("filters") { // it is about one container
		f.listOne(w, r)
		return
	}
	var ids []string
	var hook func(http.ResponseWriter) bool
	f.update(func() {
		f.lists++
		ids = slices.Collect(maps.Keys(f.containers))
		hook = f.onList
	})
	if hook != nil && !hook(w) {
		return
	}
	out := make([]map[string]string, 0, len(ids))
	for _, id := range ids {
		out = append(out, map[string]string{"Id": id})
	}
	_ = json.NewEncoder(w).Encode(out)
	f.update(func() { f.listed++ })
}

func (f *fakeEngine) listOne(w http.ResponseWriter, r *http.Request) {
	var filters struct{ ID []string }
	if err := json.Unmarshal([]byte(r.URL.Query().Get("filters")), &filters); err != nil || len(filters.ID) != 1 {
		f.t.Errorf("asked for the list of %s", r.URL)
	}
	f.mu.Lock()
	c := f.containers[filters.ID[0]]
	f.mu.Unlock()
	if c == nil {
		fmt.Fprint(w, "[]")
		return
	}
	_ = json.NewEncoder(w).Encode([]map[string]any{{"Id": filters.ID[0], "HostConfig": map[string]any{"NetworkMode": c.NetworkMode}}})
}

func (f *fakeEngine) inspect(w http.ResponseWriter, r *http.Request) {
	f.waitHang(r)
	id := r.PathValue("id")
	var hook func(http.ResponseWriter, string) bool
	f.update(func() {
		f.inspects[id]++
		f.inspecting++
		f.mostAtOnce = max(f.mostAtOnce, f.inspecting)
		hook = f.onInspect
	})
	defer f.update(func() { f.inspecting-- })
	if hook != nil && !hook(w, id) {
		return
	}
	f.mu.Lock()
	c := f.containers[id]
	f.mu.Unlock()
	if c == nil {
		w.WriteHeader(http.StatusNotFound)
		_, _ = w.Write([]byte(`{"message":"No such container"}`))
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{
		"Id": id, "Name": "/" + c.Name,
		"State":  map[string]any{"Running": c.Running, "StartedAt": c.StartedAt, "Health": map[string]any{"Status": c.Health}},
		"Config": map[string]any{"StopSignal": c.StopSignal}, "HostConfig": map[string]any{}, "NetworkSettings": map[string]any{},
	})
}

func (f *fakeEngine) events(w http.ResponseWriter, r *http.Request) {
	f.waitHang(r)
	if r.URL.Query().Get("stream") == "false" {
		f.update(func() {
			f.catchUps++
			for _, event := range f.noted {
				_, _ = fmt.Fprintln(w, event)
			}
		})
		return
	}
	stream := make(chan string, 100)
	drop := false
	var asked map[string][]string
	if err := json.Unmarshal([]byte(r.URL.Query().Get("filters")), &asked); err != nil {
		f.t.Errorf("filters of an event stream: %v", err)
	}
	f.update(func() {
		f.opened++
		f.asked = asked
		if drop = f.dropStreams > 0; drop {
			f.dropStreams--
		}
		f.streams[stream] = struct{}{}
	})
	defer f.update(func() { delete(f.streams, stream) })
	w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(w).Flush()
	if drop {
		return
	}
	for {
		select {
		case event, open := <-stream:
			if !open {
				return
			}
			_, _ = fmt.Fprintln(w, event)
			_ = http.NewResponseController(w).Flush()
		case <-f.done:
			return
		case <-r.Context().Done():
			return
		}
	}
}

// watch runs a Watcher on the fake until the test ends.
func (f *fakeEngine) watch(cfg Config, adjust ...func(*engine)) *Watcher {
	f.t.Helper()
	cfg.Endpoint = "unix://" + f.path
	w, err := New(cfg)
	if err != nil {
		f.t.Fatal(err)
	}
	w.minBackoff, w.minRetry = 10*time.Millisecond, 10*time.Millisecond
	for _, a := range adjust {
		a(w.engine)
	}
	runWatcher(f.t, w)
	return w
}

func runWatcher(t *testing.T, w *Watcher) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v, want nil once its context has ended", err)
		}
	})
}

// await returns the first snapshot from now on that meets the condition.
func await(t *testing.T, w *Watcher, what string, condition func(*Snapshot) bool) *Snapshot {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var last *Snapshot
	for {
		s, err := w.Wait(ctx, last)
		if err != nil {
			t.Fatalf("timed out waiting for a snapshot: %s; last: %s; Err: %v", what, describe(last), w.Err())
		}
		if condition(s) {
			return s
		}
		last = s
	}
}

func describe(s *Snapshot) string {
	if s == nil {
		return "none"
	}
	var b strings.Builder
	for _, c := range s.Containers() {
		fmt.Fprintf(&b, "%s %s running=%t paused=%t health=%q; ", c.ShortID(), c.Name, c.Running, c.Paused, c.Health)
	}
	return b.String()
}

func running(id string) func(*Snapshot) bool {
	return func(s *Snapshot) bool { c := s.Get(id); return c != nil && c.Running }
}

func stopped(id string) func(*Snapshot) bool {
	return func(s *Snapshot) bool { c := s.Get(id); return c != nil && !c.Running }
}

// until polls for what has no event to wait for.
func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("timed out waiting: %s", what)
		}
	}
}

// records counts log records by message.
type records struct {
	mu    sync.Mutex
	count map[string]int
}

func (r *records) Enabled(context.Context, slog.Level) bool { return true }
func (r *records) WithAttrs([]slog.Attr) slog.Handler       { return r }
func (r *records) WithGroup(string) slog.Handler            { return r }
func (r *records) Handle(_ context.Context, record slog.Record) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.count == nil {
		r.count = make(map[string]int)
	}
	r.count[record.Message]++
	return nil
}

func (r *records) of(part string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for message, count := range r.count {
		if strings.Contains(message, part) {
			n += count
		}
	}
	return n
}
