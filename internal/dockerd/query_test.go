package dockerd

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/hint"
)

// infoEngine is an engine that answers /version and /info with these words.
func infoEngine(t *testing.T, version, info string) *Watcher {
	t.Helper()
	f := newFakeEngine(t) // for its folder: a socket's path is short
	l, err := net.Listen("unix", f.path)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /version", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, version) })
	mux.HandleFunc("GET /info", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, info) })
	server := &http.Server{Handler: mux}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(l) })
	t.Cleanup(func() { _ = server.Close(); serving.Wait() })
	w, err := New(Config{Endpoint: "unix://" + f.path})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestInfo(t *testing.T) {
	tests := []struct {
		name, version, info string
		want                Info
	}{
		{
			"an engine before 28", `{"Version": "20.10.24", "ApiVersion": "1.41", "MinAPIVersion": "1.12"}`,
			`{"LiveRestoreEnabled": true, "ContainersRunning": 3}`,
			Info{Version: "20.10.24", APIVersion: "1.41", FirewallBackend: "iptables", LiveRestore: true, Running: 3},
		},
		{
			"one that says its firewall", `{"Version": "29.0.0", "ApiVersion": "1.52"}`,
			`{"FirewallBackend": {"Driver": "nftables+firewalld", "Info": [["ReloadedAt", "now"]]}}`,
			Info{Version: "29.0.0", APIVersion: "1.52", FirewallBackend: "nftables+firewalld"},
		},
		{
			"Podman", `{"Components": [{"Name": "Podman Engine", "Version": "4.3.1"}, {"Name": "Conmon"}], "Version": "4.3.1", "ApiVersion": "1.41"}`,
			`{"LiveRestoreEnabled": false, "ContainersRunning": 2}`,
			Info{Podman: true, Version: "4.3.1", APIVersion: "1.41", FirewallBackend: "iptables", Running: 2},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := infoEngine(t, tt.version, tt.info).Info(t.Context())
			if err != nil || got != tt.want {
				t.Errorf("Info: %+v, %v; want %+v", got, err, tt.want)
			}
		})
	}
}

func TestInfoOfNoEngine(t *testing.T) {
	w, err := New(Config{Endpoint: "unix://" + filepath.Join(t.TempDir(), "none.sock")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Info(t.Context()); err == nil || hint.Of(err) == "" {
		t.Errorf("Info: %v, want an error with a hint", err)
	}
	if _, err := infoEngine(t, `nonsense`, ``).Info(t.Context()); err == nil {
		t.Error("Info takes an answer that is no JSON")
	}
}

// TestImage: an image is asked for once, whoever wants to know, and a failure is no answer
// for long.
func TestImage(t *testing.T) {
	clearEnv(t)
	var asked atomic.Int64
	var fails atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if fails.Load() {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		fmt.Fprintf(w, `{"Id": %q, "Config": {"Labels": {"connect.80": "a:1"}, "Env": ["BACKEND_81=b:1"]}}`, r.URL.Path)
	}))
	defer server.Close()
	w, err := New(Config{Endpoint: strings.Replace(server.URL, "http", "tcp", 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer w.engine.transport.CloseIdleConnections()
	if w.KnowsImage("sha256:1") {
		t.Error("it is known before it was asked for")
	}
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			image, err := w.Image(t.Context(), "sha256:1")
			if err != nil || image.Labels["connect.80"] != "a:1" || len(image.Env) != 1 {
				t.Errorf("%+v, %v", image, err)
			}
		})
	}
	all.Wait()
	if n := asked.Load(); n != 1 || !w.KnowsImage("sha256:1") {
		t.Errorf("asked %d times; want once, and it is known", n)
	}
	if _, err := w.Image(t.Context(), ""); err == nil {
		t.Error("an image without an ID is known")
	}
	fails.Store(true)
	for range 5 {
		if _, err := w.Image(t.Context(), "sha256:2"); err == nil || w.KnowsImage("sha256:2") {
			t.Error("a failure is an answer")
		}
	}
	if n := asked.Load(); n != 2 {
		t.Errorf("asked %d times; want no other question so soon", n)
	}
	fails.Store(false)
	w.images.mu.Lock()
	w.images.all["sha256:2"].at = time.Now().Add(-2 * imageRetry)
	w.images.mu.Unlock()
	if _, err := w.Image(t.Context(), "sha256:2"); err != nil {
		t.Errorf("after a while: %v", err)
	}
}

// TestImagesAreBounded: so many are remembered, and those that were forgotten are asked for
// again; one that says more of itself than that is not believed by half.
func TestImagesAreBounded(t *testing.T) {
	clearEnv(t)
	var asked atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		long := map[string]int{"fits": maxImage - 4096, "long": maxImage}[path.Base(path.Dir(r.URL.Path))]
		fmt.Fprintf(w, `{"Config": {"Labels": {"connect.80": "a:1", "x": %q}}}`, strings.Repeat("x", long))
	}))
	defer server.Close()
	w, err := New(Config{Endpoint: strings.Replace(server.URL, "http", "tcp", 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer w.engine.transport.CloseIdleConnections()
	id := func(i int) string { return fmt.Sprintf("sha256:%d", i) }
	for i := range 2 * mostImages {
		if _, err := w.Image(t.Context(), id(i)); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(w.images.all); n != mostImages {
		t.Errorf("%d images are remembered; want %d", n, mostImages)
	}
	for i := range 2 * mostImages {
		if image, err := w.Image(t.Context(), id(i)); err != nil || image.Labels["connect.80"] != "a:1" {
			t.Fatalf("an image that may be forgotten: %+v, %v", image, err)
		}
	}
	if n := asked.Load(); n < 3*mostImages || n > 4*mostImages {
		t.Errorf("asked %d times for %d images", n, 2*mostImages)
	}
	if image, err := w.Image(t.Context(), "fits"); err != nil || len(image.Labels["x"]) != maxImage-4096 {
		t.Errorf("an image that says as much as may be: %v", err)
	}
	if _, err := w.Image(t.Context(), "long"); err == nil {
		t.Error("an image that says more is believed")
	}
}
