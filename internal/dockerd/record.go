package dockerd

import (
	"os"
	"path/filepath"
	"strings"
)

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
