// Package containerproc reads in /proc what containers' processes show without their engine: which
// container a process is in, our own among them, and in which network namespace.
package containerproc

import (
	"bufio"
	"context"
	"os"
	"regexp"
	"strings"
)

var (
	// cgroupID finds the last container ID in a cgroup's path: ".../docker/ID" or
	// Podman's ".../libpod-ID" (cgroupfs), or ".../docker-ID.scope" (systemd).
	cgroupID = regexp.MustCompile(`(?:^|.*[/-])([0-9a-f]{64})(?:\.scope)?(?:/|$)`)
	// mountID finds it in the path of a file that an engine keeps for a container:
	// ".../containers/ID/hosts" or Podman's ".../overlay-containers/ID/userdata/hosts".
	mountID = regexp.MustCompile(`[/-]containers/([0-9a-f]{64})/(?:userdata/)?(?:hostname|resolv\.conf|hosts)$`)
)

// Self finds the ID of the container that this process runs in. It reads
// proc/self/cgroup and then proc/self/mountinfo; files given replace these two,
// and each is read as what its lines look like. ok is false outside any
// container, and where nothing tells.
//
// The cgroup is asked first because it is always right where it says anything;
// with a cgroup namespace of its own (cgroup v2's default) a container sees only
// "/". The engine's files mounted over /etc tell then, with one exception: a
// "--network container:ID" has those of that other container.
//
// The ID may be unknown to the engine that is watched, for example when another
// engine runs in this container too.
func Self(ctx context.Context, files ...string) (id string, ok bool) {
	if len(files) == 0 {
		files = []string{"/proc/self/cgroup", "/proc/self/mountinfo"}
	}
	for _, file := range files {
		if ctx.Err() != nil {
			return "", false
		}
		if id := idIn(file); id != "" {
			return id, true
		}
	}
	return "", false
}

func idIn(path string) string {
	file, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20) // an overlay's mount line holds every layer's path
	for lines.Scan() {
		if id := idOf(lines.Text()); id != "" {
			return id
		}
	}
	return ""
}

// idOf reads one line: of mountinfo (proc(5)), whose fourth and fifth fields are
// the mounted path in its file system and the mount point, or of cgroup
// (cgroups(7)), "hierarchy:controllers:path". The mount point counts because a
// daemon on the host may see the same files mounted elsewhere.
func idOf(line string) string {
	if fields := strings.Fields(line); len(fields) > 5 {
		switch fields[4] {
		case "/etc/hostname", "/etc/resolv.conf", "/etc/hosts":
			if m := mountID.FindStringSubmatch(fields[3]); m != nil {
				return m[1]
			}
		}
		return ""
	}
	if parts := strings.SplitN(line, ":", 3); len(parts) == 3 {
		if m := cgroupID.FindStringSubmatch(parts[2]); m != nil {
			return m[1]
		}
	}
	return ""
}

// Hostname is what an engine calls our container by default; "" if it is not known.
func Hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	return name
}
