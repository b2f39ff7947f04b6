package rundir

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Counters is the name of the note in which a daemon that listens at address leaves its counters; ""
// is the host's.
func (d *Dir) Counters(address string) string { return d.name("counters", address) + ".note" }

// Decisions is the name of the note with what an operator has decided of endpoints, for daemons that listen
// at address; "" is the host's.
func (d *Dir) Decisions(address string) string { return d.name("endpoints", address) + ".note" }

// WriteNote leaves text for a process that comes later, in the place of what has that name.
func (d *Dir) WriteNote(name string, text []byte) error {
	err := d.with(true, func(folder int) error {
		fresh := name + ".new"
		if err := unix.Unlinkat(folder, fresh, 0); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
		fd, err := unix.Openat(folder, fresh, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return err
		}
		file := os.NewFile(uintptr(fd), name)
		_, err = file.Write(text)
		if err = errors.Join(err, file.Close()); err == nil {
			err = unix.Renameat(folder, fresh, folder, name)
		}
		if err != nil {
			_ = unix.Unlinkat(folder, fresh, 0)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("write %s: %w", d.Path(name), err)
	}
	return nil
}

// TakeNote returns the text of that name and removes it, so that it is read once; nil if there is none.
// The error says that it is longer than most bytes, or that it cannot be read or removed.
func (d *Dir) TakeNote(name string, most int) (text []byte, err error) {
	return d.readNote(name, most, true)
}

// ReadNote is TakeNote of a note that stays.
func (d *Dir) ReadNote(name string, most int) (text []byte, err error) {
	return d.readNote(name, most, false)
}

func (d *Dir) readNote(name string, most int, remove bool) (text []byte, err error) {
	err = d.with(false, func(folder int) error {
		fd, err := unix.Openat(folder, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		file := os.NewFile(uintptr(fd), name)
		defer file.Close()
		if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() { // a pipe may never end
			return errors.Join(err, errors.New("it is no file"))
		}
		if remove {
			if err := unix.Unlinkat(folder, name, 0); err != nil {
				return err
			}
		}
		if text, err = io.ReadAll(io.LimitReader(file, int64(most)+1)); err == nil && len(text) > most {
			text, err = nil, fmt.Errorf("it has more than %d bytes", most)
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read %s: %w", d.Path(name), err)
	}
	return text, nil
}
