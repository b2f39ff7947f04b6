package dockerd

import (
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"testing"

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
