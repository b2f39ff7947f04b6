package netns

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// searchPaths is where All looks.
type searchPaths struct {
	dirs []string // folders of mounted namespaces
	proc string   // the proc file system
}

// All opens every network namespace that can be found without asking an engine:
// our own first, then those mounted by Docker and by ip-netns(8), then those of
// every process. Each comes once, by the first path it was found under.
//
// Some of them may be out of reach: reading those of other users' processes
// takes the SYS_PTRACE capability. The error then says which, and the namespaces
// that could be opened are returned all the same. The caller closes them.
func All(ctx context.Context) ([]*Namespace, error) {
	return searchPaths{
		dirs: append(engineFolders(), "/run/netns"),
		proc: "/proc",
	}.all(ctx)
}

func (p searchPaths) all(ctx context.Context) ([]*Namespace, error) {
	var found []*Namespace
	var errs []error
	seen := map[ID]bool{}
	add := func(path string) {
		// Most processes share a namespace: look before opening.
		var st unix.Stat_t
		if unix.Stat(path, &st) == nil && seen[ID{Dev: st.Dev, Inode: st.Ino}] {
			return
		}
		n, err := Open(path)
		switch {
		case err == nil && !seen[n.ID()]:
			seen[n.ID()] = true
			found = append(found, n)
		case err == nil:
			_ = n.Close()
		case gone(err), errors.Is(err, ErrNotNamespace):
			// Containers come and go while we look.
		default:
			errs = append(errs, err)
		}
	}

	add(filepath.Join(p.proc, "self", "ns", "net"))
	for _, dir := range p.dirs {
		entries, err := os.ReadDir(dir)
		if err != nil && !gone(err) {
			errs = append(errs, fmt.Errorf("list network namespaces: %w", err))
		}
		for _, e := range entries {
			add(filepath.Join(dir, e.Name()))
		}
	}
	entries, err := os.ReadDir(p.proc)
	if err != nil {
		errs = append(errs, fmt.Errorf("list processes: %w", err))
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			errs = append(errs, fmt.Errorf("look for network namespaces: %w", err))
			break
		}
		if _, err := strconv.Atoi(e.Name()); err == nil {
			add(filepath.Join(p.proc, e.Name(), "ns", "net"))
		}
	}
	return found, errors.Join(errs...)
}

// gone reports whether err says that a file or the process behind it is no more.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOTDIR)
}
