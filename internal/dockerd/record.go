package dockerd

import (
	"context"
	"os"
	"path/filepath"
	"strings"
)

// findRecords asks the engine where it writes down what containers are made with.
// An engine that does not say, as Podman, is done without.
func (w *Watcher) findRecords(ctx context.Context) {
	var info struct{ DockerRootDir string }
	if w.engine.ask(ctx, "asking for its folder", "/info", &info) == nil && filepath.IsAbs(info.DockerRootDir) {
		folder := filepath.Join(info.DockerRootDir, "containers")
		w.records.Store(&folder)
	}
}

// record is what the engine has written down of a container before it announces it.
type record struct {
	env         []string
	networkMode string // "" where it is out of our sight
}

// recorded returns the engine's record of a container that was just made, an empty one
// where that is out of our sight. The event of its creation tells neither, and the engine,
// asked for a container that is being started, answers only when it runs.
func (w *Watcher) recorded(id string) record {
	var r record
	folder := w.records.Load()
	if folder == nil || len(id) != idLen || strings.Trim(id, "0123456789abcdef") != "" { // it becomes part of a path
		return r
	}
	var config struct{ Config struct{ Env []string } }
	if readRecord(filepath.Join(*folder, id, "config.v2.json"), &config) {
		r.env = config.Config.Env
	}
	var host struct{ NetworkMode string }
	if readRecord(filepath.Join(*folder, id, "hostconfig.json"), &host) {
		r.networkMode = host.NetworkMode
	}
	return r
}

// readRecord reports whether value is what the file at path says.
func readRecord(path string, value any) bool {
	file, err := os.Open(path)
	if err != nil {
		return false
	}
	defer file.Close()
	return decodeDescription(file, value) == nil
}
