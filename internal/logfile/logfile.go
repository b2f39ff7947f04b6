// Package logfile appends lines to a file that others rotate.
//
// A File is an io.Writer for internal/logbuffer: one goroutine writes whole lines, and none that carries
// connections waits for it. Nothing that becomes of the file ends the process. What cannot be written is lost, the
// log says so once, and says when it can be written again; the file is opened anew meanwhile, every few seconds.
//
// Who rotates renames the file. Lines go on into it until there is another file at its path, or until Reopen is
// called (SIGUSR1, as of HAProxy and nginx), which makes one: none is lost. open.go has how the path is opened, for a
// daemon with root's rights must not be led to another file by who may write a folder of the path.
package logfile

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/hint"
)

const (
	// retry is the pause between attempts to open the file.
	retry = 5 * time.Second
	// patience is how long a pipe may take nothing; a regular file takes as long as it takes.
	patience = 5 * time.Second
)

// File is a file that is appended to. Make one with New.
type File struct {
	path     string
	log      *slog.Logger
	patience time.Duration

	mu    sync.Mutex
	file  *os.File  // nil until it could be opened
	tried time.Time // when that was last attempted
	state fileHealth
	torn  bool // the last line that was written has no end
}

// fileHealth is what the log has said.
type fileHealth int

const (
	writing  fileHealth = iota
	outdated            // lines go into a file that is no longer at the path, for that cannot be opened
	failing             // lines are lost
)

// New makes a File for an absolute path; log is told what becomes of it. It is opened when there is something to
// write, or by Reopen.
func New(path string, log *slog.Logger) *File {
	return &File{path: path, log: log, patience: patience}
}

// Write appends whole lines. It returns how many bytes of p were written, and why not the rest.
func (f *File) Write(p []byte) (n int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if (f.file == nil || f.replaced()) && time.Since(f.tried) >= retry {
		f.open()
	}
	if f.file == nil {
		return 0, fs.ErrClosed // open has said why
	}
	n, err = f.append(p)
	switch {
	case err != nil:
		f.become(failing, err)
	case f.state == failing:
		f.become(writing, nil)
	}
	return n, err
}

// append writes p, after the end that the line before it may lack.
func (f *File) append(p []byte) (n int, err error) {
	_ = f.file.SetWriteDeadline(time.Now().Add(f.patience)) // what is no pipe has none
	if f.torn {
		if _, err := f.file.WriteString("\n"); err != nil {
			return 0, err
		}
		f.torn = false
	}
	n, err = f.file.Write(p)
	if err != nil && n > 0 {
		f.torn = p[n-1] != '\n'
	}
	return n, err
}

// Reopen opens the path again, and makes the file if it is not there. It may wait for the file system.
func (f *File) Reopen() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open()
}

// open is Reopen with mu held. If the path cannot be opened, the file that was open stays.
func (f *File) open() {
	f.tried = time.Now()
	opened, err := openPath(f.path)
	switch {
	case err == nil:
		if f.file != nil {
			_ = f.file.Close() // nothing of it is held back
		}
		f.file, f.torn, f.tried = opened, false, time.Time{}
		if f.state != failing { // that ends when a line is written
			f.become(writing, nil)
		}
	case f.file == nil:
		f.become(failing, err)
	default:
		f.become(outdated, err)
	}
}

// replaced says whether the path is another file than ours by now, or ours has no name any more. Where nothing is at
// the path, who has renamed ours is about to make another, or to call Reopen.
func (f *File) replaced() bool {
	ours, err := f.file.Stat()
	if err != nil {
		return false
	}
	if s, ok := ours.Sys().(*syscall.Stat_t); ok && s.Nlink == 0 {
		return true
	}
	now, err := os.Stat(f.path)
	return err == nil && !os.SameFile(ours, now)
}

// become says what has changed, once.
func (f *File) become(next fileHealth, err error) {
	if next == f.state {
		return
	}
	switch next {
	case failing:
		f.log.Error("the access log cannot be written; its lines are lost, connections are served", "path", f.path, "error", err, hint.Attr(explained(err)))
	case outdated:
		f.log.Error("the access log cannot be opened again; its lines go on into the file that was open", "path", f.path, "error", err, hint.Attr(explained(err)))
	case writing:
		f.log.Info("the access log is written again", "path", f.path)
	}
	f.state = next
}

// explained adds what to do about an error that has no hint of its own.
func explained(err error) error {
	for _, known := range []struct {
		is  error
		fix string
	}{
		{unix.ENOSPC, "make room in its file system, or give --access-log another path"},
		{unix.EDQUOT, "raise the quota of the daemon's user, or give --access-log another path"},
		{fs.ErrNotExist, "make the folder; the daemon makes only the file"},
		{fs.ErrPermission, "let the daemon's user write the file, and make files in its folder; under systemd ReadWritePaths= or LogsDirectory= does"},
		{unix.EROFS, "the file system is read-only for the daemon; under systemd ReadWritePaths= or LogsDirectory= lets it write"},
		{unix.ENXIO, "have something read the pipe"},
		{os.ErrDeadlineExceeded, "have the pipe read faster, or write to a file"},
	} {
		if hint.Of(err) == "" && errors.Is(err, known.is) {
			return hint.Wrap(err, known.fix)
		}
	}
	if hint.Of(err) == "" {
		return hint.Wrap(err, "give --access-log a file that can be appended to")
	}
	return err
}
