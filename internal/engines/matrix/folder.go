package main

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// prefix begins the names of the folders of runs.
const prefix = "ambassadord-matrix-"

// folder makes a folder of this run's in the folder temp, and removes what runs that were
// killed have left there. As long as a run lives it has the lock of its folder; release removes
// that. The path is that of a folder in there, of which the tests take the lock when they build
// a program into it.
func folder(temp string) (path string, release func(), err error) {
	left, err := filepath.Glob(filepath.Join(temp, prefix+"*"))
	if err != nil {
		return "", nil, err
	}
	for _, path := range left {
		if lock, err := lockFolder(path); err == nil {
			_ = os.RemoveAll(path)
			lock.Close()
		}
	}
	for {
		own, err := os.MkdirTemp(temp, prefix)
		if err != nil {
			return "", nil, err
		}
		lock, err := lockFolder(own)
		if err != nil { // another run has taken it for one that was left, and removes it
			continue
		}
		release := func() { _ = os.RemoveAll(own); lock.Close() }
		path := filepath.Join(own, "bin")
		if err := os.Mkdir(path, 0o755); err != nil {
			release()
			return "", nil, err
		}
		return path, release, nil
	}
}

// lockFolder takes the lock of a folder of ours, if nobody has it.
func lockFolder(path string) (*os.File, error) {
	lock, err := os.OpenFile(path, syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		err = unchanged(lock, path)
	}
	if err != nil {
		lock.Close()
		return nil, err
	}
	return lock, nil
}

// unchanged reports whether path still is the open folder, and that is ours: anybody may make
// one of that name.
func unchanged(open *os.File, path string) error {
	was, err := open.Stat()
	if err != nil {
		return err
	}
	is, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !os.SameFile(was, is) || is.Sys().(*syscall.Stat_t).Uid != uint32(os.Geteuid()) {
		return fmt.Errorf("%s is not ours any more", path)
	}
	return nil
}
