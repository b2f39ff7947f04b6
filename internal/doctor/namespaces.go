package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/ambassadord/ambassadord/internal/containerproc"
	"github.com/ambassadord/ambassadord/internal/privilege"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// netnsFolder returns the folder in which the engine keeps network namespaces, and
// the names in it: Docker's, or where there is none the one of ip-netns(8), which
// is Podman's.
func netnsFolder() (dir string, names []string, err error) {
	for _, dir := range []string{"/run/docker/netns", "/var/run/docker/netns", "/run/netns"} {
		var entries []os.DirEntry
		entries, err = os.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			break
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return dir, names, nil
	}
	return "", nil, fmt.Errorf("find the engine's network namespaces: %w", err)
}

// sight is how containers' network namespaces can be got at.
type sight struct {
	folder    string // "" if there is none that we may read
	folderErr error
	entered   int   // namespaces in it that could be entered
	ordinary  int   // files in it that are none
	enterErr  error // the last reason why one could not be
	hostPIDs  bool  // /proc shows the host's processes
	contained bool  // we are in a container of an engine's, with mounts of our own
	hostMount bool  // we have the host's mounts, the engine's therefore
	ptrace    bool  // SYS_PTRACE, for those of other users
}

func checkNamespaces(ctx context.Context, h *environment) Result {
	if !h.entersNamespaces() {
		return h.unneeded()
	}
	s := look(ctx)
	_, s.contained = containerproc.Self(ctx)
	return judgeSight(s)
}

func look(ctx context.Context) sight {
	var s sight
	have, _ := privilege.Effective() // none, where that cannot be known
	s.ptrace = have.Has("SYS_PTRACE")
	// PROC_PID_INIT_INO of linux/proc_ns.h is the first PID namespace's number.
	link, _ := os.Readlink("/proc/self/ns/pid")
	s.hostPIDs = link == "pid:[4026531836]"
	mounts, _ := os.Readlink("/proc/self/ns/mnt") // "" where that cannot be known
	first, _ := os.Readlink("/proc/2/ns/mnt")     // kthreadd, which has the first; process 1 may not be looked at
	s.hostMount = s.hostPIDs && mounts != "" && mounts == first
	var names []string
	s.folder, names, s.folderErr = netnsFolder()
	for _, name := range names {
		if ctx.Err() != nil {
			s.enterErr = ctx.Err()
			break
		}
		ns, err := netns.Open(filepath.Join(s.folder, name))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue // a container that has just ended
		case errors.Is(err, netns.ErrNotNamespace):
			s.ordinary++
			continue
		case err == nil:
			err = ns.Do(func() error { return nil })
			ns.Close()
		}
		if err != nil {
			s.enterErr = err
			continue
		}
		s.entered++
	}
	return s
}

func judgeSight(s sight) Result {
	const mount = "in a container mount the engine's folder: -v /run/docker/netns:/run/docker/netns:rslave (of a shared mount, which systemd makes of /run)"
	switch {
	case s.folder == "" && s.hostPIDs && s.ptrace:
		return warn("the engine makes it with its first container; "+mount, "no folder of them, so they are entered through /proc: %v", s.folderErr)
	case s.folder == "":
		return fail(mount+"; or add --pid host --cap-add SYS_PTRACE",
			"they can be entered neither by the engine's folder nor through /proc: %v", s.folderErr)
	case s.entered == 0 && s.enterErr != nil:
		return fail("run as root; in a container add --cap-add SYS_ADMIN", "none in %s can be entered: %v", s.folder, s.enterErr)
	// Elsewhere, be it in another PID namespace than the machine's first, the engine has yet to
	// remove what it has unmounted.
	case s.entered == 0 && s.ordinary > 0 && s.contained && !s.hostMount:
		return fail(mount, "%s holds %d files that are no namespaces: it was mounted without propagation", s.folder, s.ordinary)
	case s.enterErr != nil:
		return warn("containers that are just starting or ending are like that; look again",
			"%d in %s can be entered, not all: %v", s.entered, s.folder, s.enterErr)
	}
	return ok("%d in %s, and all can be entered", s.entered, s.folder)
}
