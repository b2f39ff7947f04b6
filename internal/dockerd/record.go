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

// recordedEnv returns the environment of a container that was just made, nil where
// the engine's record of it is out of our sight. The event does not tell it, and
// the engine, asked for a container that is being started, answers only when it
// runs; but it has written it down before the event.
func (w *Watcher) recordedEnv(id string) []string {
	folder := w.records.Load()
	if folder == nil || len(id) != idLen || strings.Trim(id, "0123456789abcdef") != "" { // it becomes part of a path
		return nil
	}
	file, err := os.Open(filepath.Join(*folder, id, "config.v2.json"))
	if err != nil {
		return nil
	}
	defer file.Close()
	var record struct{ Config struct{ Env []string } }
	if decodeDescription(file, &record) != nil {
		return nil
	}
	return record.Config.Env
}
