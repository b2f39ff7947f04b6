// Package sandbox tells when the engine makes a network namespace for a
// container, before the container's first instruction.
//
// The engine announces a container's start when it runs already. But first of all
// it mounts the new namespace in a folder of its own, which inotify(7) sees, and
// then takes the time to set up interfaces and addresses in there: 140 to 280 ms
// with engine 20.10 and no other load. Rules that are to be ready for the container's
// first connection have that time. watch.go tells of each; thread.go and urgency.go have the
// thread of real-time priority that a preparer watches with.
package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"regexp"

	"golang.org/x/sys/unix"
)

// Folders are where Docker mounts the namespaces of containers unless it is told
// otherwise (--exec-root), the place that its answers name first. Podman uses
// /run/netns, as ip-netns(8) and others do.
func Folders() []string { return []string{"/var/run/docker/netns", "/run/docker/netns"} }

// containers matches the file names of containers' namespaces: in Docker's folder
// the first digits of a random ID, in Podman's a whole one behind a word. Docker's
// holds others: "default" is the host's, and overlay networks have some of their
// own, such as "1-6uoo3vy2xq" and "lb_6uoo3vy2x".
var containers = regexp.MustCompile(`^([0-9a-f]{12}|netns-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})$`)

// isContainers reports whether a file of that name is a container's namespace.
func isContainers(name string) bool { return containers.MatchString(name) }

// Mounted reports whether there is a namespace at path. The engine makes the file
// first and mounts the namespace over it; and when a container has ended it
// unmounts the namespace at once, while the file stays for up to a minute.
func Mounted(path string) bool {
	var s unix.Statfs_t
	return unix.Statfs(path, &s) == nil && s.Type == unix.NSFS_MAGIC
}

// isGone reports whether err says that the folder is not there.
func isGone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR)
}

func isFolder(path string) bool {
	var s unix.Stat_t
	return unix.Stat(path, &s) == nil && s.Mode&unix.S_IFMT == unix.S_IFDIR
}

// firstFolder opens a watch on the first of folders that exists.
func firstFolder(folders []string) (*mountWatch, error) {
	var err error
	for _, folder := range folders {
		var w *mountWatch
		if w, err = open(folder); err == nil {
			return w, nil
		}
		if !isGone(err) {
			break
		}
	}
	return nil, fmt.Errorf("watch for network namespaces: %w", err)
}
