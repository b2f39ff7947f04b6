package netns

import (
	"os"
)

// engineFolders are where an engine keeps its containers' network namespaces.
func engineFolders() []string { return []string{"/run/docker/netns", "/var/run/docker/netns"} }

// EngineFolderVisible reports whether one of the folders in which an engine keeps
// its containers' network namespaces can be read from here.
func EngineFolderVisible() bool {
	for _, dir := range engineFolders() {
		if _, err := os.ReadDir(dir); err == nil {
			return true
		}
	}
	return false
}
